package collector

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/web"
)

//go:embed browser/client.js browser/client.d.ts
var clientFiles embed.FS

// clientHTTP serves the browser client
//
//	GET /collector/client.js
//	GET /collector/client.d.ts
type clientHTTP struct{}

func (clientHTTP) routes(r *web.Router) error {
	for _, f := range [...]struct{ name, id, media, what string }{
		{"client.js", "collector-client", "text/javascript; charset=utf-8", "the browser and Node client"},
		{"client.d.ts", "collector-client-types", "application/typescript; charset=utf-8", "the types of the browser client"},
	} {
		text, err := clientFiles.ReadFile("browser/" + f.name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		r.Handle(web.Op{ID: f.id, Method: http.MethodGet, Path: "/collector/" + f.name, Tag: tag, Public: true,
			Summary: "Get " + f.what, Status: http.StatusOK,
			Responses: map[string]*huma.Response{"200": {Description: "The file.", Content: map[string]*huma.MediaType{f.media: {}}}},
		}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Type", f.media)
			h.Set("Cache-Control", "public, max-age=300")
			h.Set("ETag", etag)
			// Pages of any origin load it as a module.
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Cross-Origin-Resource-Policy", "cross-origin")
			http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(text))
		}))
	}
	return nil
}
