package web

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"

	"github.com/swaggest/swgui/v5emb"
)

//go:embed docs
var docsFiles embed.FS

// docsPolicy is closed but for the style attributes that Swagger UI sets.
const docsPolicy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docs serves Swagger UI from the binary: its files by swgui, the page by
// ours, because swgui's has inline scripts.
func docs(title string) (http.Handler, error) {
	tpl, err := template.ParseFS(docsFiles, "docs/index.html")
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	if err := tpl.Execute(&page, title); err != nil {
		return nil, err
	}
	script, err := docsFiles.ReadFile("docs/init.js")
	if err != nil {
		return nil, err
	}
	files := v5emb.New(title, "/openapi.json", "/docs/")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", docsPolicy)
		h.Set("Cache-Control", "max-age=3600")
		switch r.URL.Path {
		case "/docs/":
			h.Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write(page.Bytes())
		case "/docs/init.js":
			h.Set("Content-Type", "text/javascript; charset=utf-8")
			_, _ = w.Write(script)
		case "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png":
			files.ServeHTTP(w, r)
		default:
			Problem(w, r, http.StatusNotFound, "there is nothing at this path")
		}
	}), nil
}
