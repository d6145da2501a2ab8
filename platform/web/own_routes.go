package web

import (
	"net/http"
	"net/http/pprof"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/metrics"
)

const systemTag = "system"

// ownRoutes mounts the routes that belong to no module.
func (s *Server) ownRoutes(deps Deps) error {
	r := s.router
	r.Tag(systemTag, "Health, metrics and this description.")
	r.Handle(Op{
		ID: "system-health", Method: http.MethodGet, Path: "/healthz", Tag: systemTag, Public: true,
		Summary:   "The process serves",
		Responses: map[string]*huma.Response{"200": r.ResponseOf("It does", map[string]string{})},
	}, http.HandlerFunc(s.healthz))
	r.Handle(Op{
		ID: "system-ready", Method: http.MethodGet, Path: "/readyz", Tag: systemTag, Public: true,
		Summary: "State of each module",
		Responses: map[string]*huma.Response{
			"200": r.ResponseOf("All are ready", Readiness{}),
			"503": r.ResponseOf("Not all are ready", Readiness{}),
		},
	}, http.HandlerFunc(s.readyz))

	measured := Op{
		ID: "system-metrics", Method: http.MethodGet, Path: "/metrics", Tag: systemTag, Public: true,
		Summary: "Metrics in the Prometheus text format",
		Responses: map[string]*huma.Response{"200": {Description: "Metrics", Content: map[string]*huma.MediaType{
			"text/plain": {Schema: &huma.Schema{Type: "string"}}}}},
	}
	if s.cfg.MetricsRequireKey {
		measured.Public, measured.Scope = false, "metrics:read"
	}
	r.Handle(measured, metrics.Handler(deps.Metrics))

	description := func(path, contentType string, pick func(spec) []byte) {
		r.Handle(Op{Method: http.MethodGet, Path: path, Tag: systemTag, Public: true, Hidden: true}, r.serveSpec(contentType, pick))
	}
	description("/openapi.json", "application/openapi+json", func(s spec) []byte { return s.json })
	description("/openapi.yaml", "application/openapi+yaml", func(s spec) []byte { return s.yaml })
	page, err := docs(deps.Title)
	if err != nil {
		return err
	}
	r.Handle(Op{Method: http.MethodGet, Path: "/docs/", Tag: systemTag, Public: true, Hidden: true}, page)

	profile := func(method, path string, h http.HandlerFunc) {
		r.Handle(Op{Method: method, Path: path, Tag: systemTag, Scope: "admin", Hidden: true, Stream: true}, h)
	}
	profile(http.MethodGet, "/debug/pprof/", pprof.Index)
	profile(http.MethodGet, "/debug/pprof/profile", pprof.Profile)
	profile(http.MethodGet, "/debug/pprof/trace", pprof.Trace)
	profile(http.MethodGet, "/debug/pprof/symbol", pprof.Symbol)
	profile(http.MethodPost, "/debug/pprof/symbol", pprof.Symbol)
	// No cmdline: secrets given as flags stand there.
	return r.Validate()
}
