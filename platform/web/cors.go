package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"switchboard/platform/auth"
)

// preflight answers OPTIONS for the routes with Op.CORS of one path. Any
// origin may ask; which may call is decided with the key of the real request.
type preflight struct{ methods []string }

func (p *preflight) allow(method string) {
	if !slices.Contains(p.methods, method) {
		p.methods = append(p.methods, method)
		slices.Sort(p.methods)
	}
}

const allowedHeaders = "Authorization, X-API-Key, Content-Type, Content-Encoding, X-Signature, Idempotency-Key, X-Request-Id"

func (p *preflight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	methods := strings.Join(p.methods, ", ")
	h.Add("Vary", "Origin")
	h.Set("Allow", methods+", OPTIONS")
	if origin := r.Header.Get("Origin"); origin != "" {
		h.Set("Access-Control-Allow-Origin", origin)
		// sendBeacon always asks with credentials. None but the key count on
		// these routes, so that this grants nothing.
		h.Set("Access-Control-Allow-Credentials", "true")
		h.Set("Access-Control-Allow-Methods", methods)
		h.Set("Access-Control-Allow-Headers", allowedHeaders)
		h.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}

// AllowOrigin lets a browser read the answer if the key of p lists its
// origin. A request from another origin with a key that does not list it is
// refused (403, by Fail); one without an Origin, or from this host, passes. A
// route with Op.CORS does this by itself; a Public one whose handler
// authenticates on its own calls it.
func AllowOrigin(w http.ResponseWriter, r *http.Request, p *auth.Principal) error {
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return nil
	}
	w.Header().Add("Vary", "Origin")
	origin := origins[0]
	if !p.Allows(origin) {
		if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
			return nil
		}
		return newProblem(http.StatusForbidden, "the key does not list this Origin")
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, Location, Idempotency-Replayed")
	return nil
}
