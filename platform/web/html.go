package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// HTML serves a page of its own script and style under op. The page may do
// nothing but run these and call its server: a Content-Security-Policy names
// them by their sums. It fails if the page has not just one of each.
func (r *Router) HTML(op Op, page []byte) error {
	script, err := sumOf(page, "script")
	if err != nil {
		return err
	}
	style, err := sumOf(page, "style")
	if err != nil {
		return err
	}
	policy := "default-src 'none'; script-src " + script + "; style-src " + style +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	op.Method, op.Status = http.MethodGet, http.StatusOK
	op.Responses = map[string]*huma.Response{"200": {Description: "The page.", Content: map[string]*huma.MediaType{"text/html": {}}}}
	r.Handle(op, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(page) // nobody could act on a fault of the connection
	}))
	return nil
}

// sumOf gives the sum of the one element of a name, as a policy has it (CSP
// level 3, section 2.3.1).
func sumOf(page []byte, name string) (string, error) {
	_, rest, ok := bytes.Cut(page, []byte("<"+name+">"))
	text, rest, closed := bytes.Cut(rest, []byte("</"+name+">"))
	if !ok || !closed || bytes.Contains(rest, []byte("<"+name)) {
		return "", fmt.Errorf("the page has not exactly one %s", name)
	}
	s := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(s[:]) + "'", nil
}
