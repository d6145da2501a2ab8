package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/web"
)

// quiet is a ResponseWriter that costs nothing.
type quiet struct{ h http.Header }

func (q quiet) Header() http.Header             { clear(q.h); return q.h }
func (q quiet) WriteHeader(int)                 {}
func (q quiet) SetReadDeadline(time.Time) error { return nil } // as a connection has it
func (q quiet) Write(p []byte) (int, error)     { return len(p), nil }

// BenchmarkGates compares a handler on a bare ServeMux with the same one
// behind all gates with a known key. The difference is what the gates cost.
func BenchmarkGates(b *testing.B) {
	deps, _ := parts(b, setup{})
	server := must[*web.Server](b)(web.New(web.Config{}, deps))
	_, secret, _, err := deps.Guard.Create(b.Context(), auth.NewKey{Name: "app", Scopes: []string{"collector:write"}, App: "app"})
	if err != nil {
		b.Fatal(err)
	}
	accept := func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.WriteHeader(202)
	}
	read := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			b.Fatal(err)
		}
		accept(w, r)
	}
	readBody := func(w http.ResponseWriter, r *http.Request) {
		if _, err := web.ReadBody(w, r, 0); err != nil {
			b.Fatal(err)
		}
		accept(w, r)
	}
	bare := http.NewServeMux()
	bare.HandleFunc("POST /collector/empty", accept)
	bare.HandleFunc("POST /collector/events", read)
	for path, h := range map[string]http.HandlerFunc{"empty": accept, "events": readBody} {
		server.Router().Handle(web.Op{
			ID: "collector-" + path, Method: "POST", Path: "/collector/" + path, Summary: "Send",
			Scope: "collector:write", Creates: true, CORS: true, KeyInQuery: true,
		}, h)
	}
	if err := server.Router().Validate(); err != nil {
		b.Fatal(err)
	}
	event := `{"session_id":"s","category":"page","name":"view","data":{"x":"` + strings.Repeat("y", 220) + `"},"timestamp":"2026-11-21 10:00:00"}`
	for _, c := range []struct {
		name, path, body string
		h                http.Handler
	}{
		{"empty/bare", "/collector/empty", "", bare},
		{"empty/gates", "/collector/empty", "", server},
		{"event/bare", "/collector/events", event, bare},
		{"event/gates", "/collector/events", event, server},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequest("POST", c.path, http.NoBody)
			r.Header.Set("Authorization", "Bearer "+secret)
			r.ContentLength = int64(len(c.body))
			w := quiet{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				r.Body = http.NoBody
				if c.body != "" {
					r.Body = io.NopCloser(strings.NewReader(c.body))
				}
				c.h.ServeHTTP(w, r)
			}
		})
	}
}
