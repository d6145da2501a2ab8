package telephony

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

//go:embed ui/board.html
var boardPageText []byte

// boardHTTP serves
//
//	GET /telephony/board a page on which supervisors watch calls move
type boardHTTP struct{}

func (boardHTTP) routes(r *web.Router) error {
	policy, err := boardPolicy(boardPageText)
	if err != nil {
		return err
	}
	r.Handle(web.Op{ID: "telephony-board", Method: http.MethodGet, Path: "/telephony/board", Tag: tag,
		Summary:     "Open the board",
		Description: "A page that shows the calls by state, live, and the events of each. The key is taken out of the address bar.",
		Scope:       "telephony:read", KeyInQuery: true, Status: http.StatusOK,
		Responses: map[string]*huma.Response{"200": {Description: "The page.", Content: map[string]*huma.MediaType{"text/html": {}}}},
	}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(boardPageText) // nobody could act on a fault of the connection
	}))
	return nil
}

// boardPolicy allows the page its own script and style, by their sums, its icon,
// and calls to its server.
func boardPolicy(page []byte) (string, error) {
	sum := func(tag string) (string, error) {
		_, rest, ok := bytes.Cut(page, []byte("<"+tag+">"))
		text, rest, closed := bytes.Cut(rest, []byte("</"+tag+">"))
		if !ok || !closed || bytes.Contains(rest, []byte("<"+tag)) {
			return "", fmt.Errorf("the board has not exactly one %s", tag)
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
