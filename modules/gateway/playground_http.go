package gateway

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/web"
)

//go:embed ui/playground.html
var playgroundPage []byte

// playgroundHTTP serves
//
//	GET /gateway/playground a page to join rooms, publish events and see them arrive
type playgroundHTTP struct{}

func (playgroundHTTP) routes(r *web.Router) error {
	policy, err := playgroundPolicy(playgroundPage)
	if err != nil {
		return err
	}
	r.Handle(web.Op{ID: "gateway-playground", Method: http.MethodGet, Path: "/gateway/playground", Tag: "gateway",
		Summary:     "Open the playground",
		Description: "A page to join and leave rooms, publish events and see them arrive. The key is taken out of the address bar; `?rooms=a,b` joins rooms at once.",
		Scope:       connectWith, KeyInQuery: true, Status: http.StatusOK,
		Responses: map[string]*huma.Response{"200": {Description: "The page.", Content: map[string]*huma.MediaType{"text/html": {}}}},
	}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		_, _ = w.Write(playgroundPage) // nobody could act on a fault of the connection
	}))
	return nil
}

// playgroundPolicy allows the page its own script and style, by their sums, its
// icon, and calls to its server.
func playgroundPolicy(page []byte) (string, error) {
	sum := func(tag string) (string, error) {
		_, rest, ok := bytes.Cut(page, []byte("<"+tag+">"))
		text, rest, closed := bytes.Cut(rest, []byte("</"+tag+">"))
		if !ok || !closed || bytes.Contains(rest, []byte("<"+tag)) {
			return "", fmt.Errorf("the playground has not exactly one %s", tag)
		}
		s := sha256.Sum256(text)
		return "'sha256-" + base64.StdEncoding.EncodeToString(s[:]) + "'", nil
	}
	script, err := sum("script")
	if err != nil {
		return "", err
	}
	style, err := sum("style")
	if err != nil {
		return "", err
	}
	return "default-src 'none'; script-src " + script + "; style-src " + style +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nil
}
