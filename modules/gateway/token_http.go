package gateway

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// tokenHTTP serves
//
//	POST   /gateway/tokens      issue a token for a browser
//	DELETE /gateway/tokens/{id} revoke it
type tokenHTTP struct{ tokens *tokenService }

func (h *tokenHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "gateway-create-token", Method: http.MethodPost, Path: "/gateway/tokens", Tag: "gateway",
		Summary: "Issue a token for a browser",
		Description: "The token lets its bearer connect and join only these rooms, until it expires, is revoked, or the key that issued it ends. " +
			"A room that ends in `*` stands for all rooms that begin like it.",
		Scope: "gateway:publish", Status: http.StatusCreated, Creates: true, Errors: []int{403, 422},
	}, h.create)
	web.Register(r, web.Op{ID: "gateway-revoke-token", Method: http.MethodDelete, Path: "/gateway/tokens/{id}", Tag: "gateway",
		Summary: "Revoke a token", Description: "Sockets that connected with it are disconnected.",
		Scope: "gateway:publish", Errors: []int{403, 404},
	}, h.revoke)
}

// Token is a token as it is given back, once.
type Token struct {
	ID        string   `json:"id" doc:"By which it can be revoked."`
	Token     string   `json:"token" pii:"token" doc:"A JWT; give it at the handshake as auth.token or ?token=."`
	Rooms     []string `json:"rooms" pii:"room"`
	User      string   `json:"user,omitempty" pii:"user_id"`
	ExpiresAt web.Time `json:"expires_at"`
}

type createTokenInput struct {
	Body struct {
		Rooms []string `json:"rooms" pii:"room" maxItems:"1000" nullable:"false" doc:"Rooms that may be joined, 1 to 256 bytes each; orders.* is all that begin with \"orders.\", * is all." example:"[\"orders.17\"]"`
		TTL   string   `json:"ttl,omitempty" doc:"How long it is good, 1h if absent; at most 30 days." example:"1h"`
		User  string   `json:"user,omitempty" pii:"user_id" maxLength:"256" doc:"Whose it is; shown in the list of sockets."`
	}
}

func (h *tokenHTTP) create(ctx context.Context, in *createTokenInput) (*struct{ Body Token }, error) {
	if err := unbound(ctx); err != nil {
		return nil, err
	}
	r := tokenRequest{Rooms: in.Body.Rooms, User: in.Body.User}
	if in.Body.TTL != "" {
		var err error
		if r.TTL, err = time.ParseDuration(in.Body.TTL); err != nil || r.TTL <= 0 {
			return nil, errs.InvalidFields("the token cannot be made", errs.Field{Location: "body.ttl", Message: "is not a duration such as 1h"})
		}
	}
	token, g, err := h.tokens.issue(auth.From(ctx), r)
	if err != nil {
		return nil, err
	}
	return &struct{ Body Token }{Token{ID: g.TokenID, Token: token, Rooms: g.Rooms, User: g.User, ExpiresAt: web.Time(g.ExpiresAt)}}, nil
}

type revokeTokenInput struct {
	ID string `path:"id"`
}

func (h *tokenHTTP) revoke(ctx context.Context, in *revokeTokenInput) (*struct{}, error) {
	if err := unbound(ctx); err != nil {
		return nil, err
	}
	return nil, h.tokens.revoke(ctx, in.ID)
}

// unbound refuses a key that web pages carry openly: it may connect, and no more,
// for whoever sees it could speak to everyone.
func unbound(ctx context.Context) error {
	if len(auth.From(ctx).Key.Origins) > 0 {
		return errs.New(errs.Denied, "a key that is bound to origins may only connect")
	}
	return nil
}

// foreignOrigin is the origin of a request, "" if its page is from the host that
// was asked: such pages are ours, and no key needs to list them.
func foreignOrigin(origin, host string) string {
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, host) {
		return ""
	}
	return origin
}
