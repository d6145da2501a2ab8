package web

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
)

const (
	challenge      = `Bearer realm="switchboard"`
	challengeBasic = `Basic realm="switchboard"`
)

// authenticate finds out who calls and whether the key has the scope of op.
// Its errors are problems: 401, 403, 429, 503.
func (s *Server) authenticate(r *http.Request, op *Op) (*auth.Principal, error) {
	credential, scheme := credentialOf(r, op.KeyInQuery, op.KeyInBasic)
	if credential == "" {
		detail := "a key is required: Authorization: Bearer <key>, or X-API-Key"
		switch {
		case op.KeyInBasic && strings.EqualFold(scheme, "Basic"):
			detail = "the Basic credential has no password; the key goes there"
		case op.KeyInBasic && scheme != "":
			detail = "this Authorization scheme is not known; use Bearer or Basic"
		case op.KeyInBasic:
			detail = "a key is required: Authorization: Bearer <key>, X-API-Key, or as the password of Basic"
		case scheme != "":
			detail = "this Authorization scheme is not known; use Bearer"
		}
		return nil, op.unauthorized(detail, challenge)
	}
	if s.guard == nil {
		return nil, errs.New(errs.Unavailable, "keys cannot be checked here")
	}
	p, err := s.guard.Authenticate(r.Context(), credential, s.clientIP(r))
	if err != nil {
		if limit := (*auth.LimitError)(nil); !errors.As(err, &limit) && errs.KindOf(err) == errs.Denied {
			return nil, op.unauthorized(publicText(err), challenge+`, error="invalid_token"`)
		}
		return nil, err
	}
	if !p.Has(op.Scope) {
		return nil, newProblem(http.StatusForbidden, "the key lacks the scope "+op.Scope).
			with("WWW-Authenticate", challenge+`, error="insufficient_scope", scope="`+op.Scope+`"`)
	}
	return p, nil
}

// unauthorized is the 401 of op: the challenge for Bearer, and one more where
// Basic is taken too, each in a header field of its own.
func (op *Op) unauthorized(detail, bearer string) *ProblemDocument {
	p := newProblem(http.StatusUnauthorized, detail).with("WWW-Authenticate", bearer)
	if op.KeyInBasic {
		p.header.Add("WWW-Authenticate", challengeBasic)
	}
	return p
}

// credentialOf takes the key from the request, and the scheme of an
// Authorization header that is not Bearer. Basic comes last: a proxy in front
// may have a use of its own for it, while the other places are ours by name.
func credentialOf(r *http.Request, inQuery, inBasic bool) (credential, scheme string) {
	var basic string
	if h := r.Header.Get("Authorization"); h != "" {
		name, value, _ := strings.Cut(h, " ")
		if strings.EqualFold(name, "Bearer") {
			return strings.TrimSpace(value), ""
		}
		scheme = name
		if inBasic && strings.EqualFold(name, "Basic") {
			basic = passwordOf(strings.TrimSpace(value))
		}
	}
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key, ""
	}
	if inQuery && strings.Contains(r.URL.RawQuery, "key=") {
		if q, err := url.ParseQuery(r.URL.RawQuery); err == nil {
			if key := q.Get("key"); key != "" {
				return key, scheme
			}
		}
	}
	return basic, scheme
}

// passwordOf reads the password of a Basic credential, "" if there is none.
func passwordOf(encoded string) string {
	pair, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return ""
	}
	_, password, _ := strings.Cut(string(pair), ":")
	return password
}

// clientIP gives the address of the client without its port. The
// X-Forwarded-For header counts only as far as it was written by configured
// proxies. An address is personal: never log it.
func (s *Server) clientIP(r *http.Request) string {
	ip := r.RemoteAddr
	if i := strings.LastIndexByte(ip, ':'); i >= 0 {
		ip = strings.Trim(ip[:i], "[]")
	}
	if len(s.proxies) == 0 || !s.trusted(ip) {
		return ip
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for _, hop := range slices.Backward(hops) {
		if hop = strings.TrimSpace(hop); hop == "" {
			continue
		}
		if _, err := netip.ParseAddr(hop); err != nil {
			return ip // the proxy before it did not write an address: stop believing
		}
		ip = hop
		if !s.trusted(hop) {
			break
		}
	}
	return ip
}

func (s *Server) trusted(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && slices.ContainsFunc(s.proxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// Credential gives what a request shows of a credential: a Bearer token, an
// X-API-Key, or key or token in the query. It is for a route with
// Op.OwnAuth.
func Credential(r *http.Request) string {
	if credential, _ := credentialOf(r, true, false); credential != "" {
		return credential
	}
	return r.URL.Query().Get("token")
}

// ClientIP is the address of the client without its port, as seen through the
// configured proxies. It is personal: never log it.
func ClientIP(r *http.Request) string {
	if x := exchangeOf(r.Context()); x != nil {
		return x.server.clientIP(r)
	}
	return ""
}

// Unauthorized answers 401 with the challenge, for such a route.
func Unauthorized(w http.ResponseWriter, r *http.Request, detail string) {
	Fail(w, r, newProblem(http.StatusUnauthorized, detail).with("WWW-Authenticate", challenge))
}
