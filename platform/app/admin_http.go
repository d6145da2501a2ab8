package app

import (
	"context"
	"net/http"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// ownRoutes are the routes that belong to no module:
//
//	POST   /admin/keys                    make a key
//	GET    /admin/keys, /admin/keys/{id}  see keys, never their secrets
//	POST   /admin/keys/{id}/rotate        give a key a new secret
//	DELETE /admin/keys/{id}               revoke a key
//	GET    /admin/dead-letters            messages that no consumer could handle
//	POST   /admin/dead-letters/{seq}/redrive
//	DELETE /admin/dead-letters/{seq}
//	GET    /admin/alarms                  acknowledged messages that a start did not find
//	DELETE /admin/alarms
//	GET    /admin/backup                  see backup_http.go
func (p *product) ownRoutes(r *web.Router) {
	r.Tag("admin", "keys, dead letters and backups")
	admin := func(id, method, path, summary string, errors ...int) web.Op {
		return web.Op{ID: id, Method: method, Path: path, Summary: summary, Tag: "admin", Scope: "admin", Errors: errors}
	}
	create := admin("admin-create-key", http.MethodPost, "/admin/keys", "Make a key; its secret is shown this once", 422)
	create.Creates, create.Status = true, http.StatusCreated
	web.Register(r, create, p.createKey)
	web.Register(r, admin("admin-list-keys", http.MethodGet, "/admin/keys", "List keys"), p.listKeys)
	web.Register(r, admin("admin-get-key", http.MethodGet, "/admin/keys/{id}", "Get a key", 404), p.getKey)
	rotate := admin("admin-rotate-key", http.MethodPost, "/admin/keys/{id}/rotate", "Give a key a new secret; the old one stays good for the overlap", 404, 422)
	rotate.Creates = true
	web.Register(r, rotate, p.rotateKey)
	web.Register(r, admin("admin-revoke-key", http.MethodDelete, "/admin/keys/{id}", "Revoke a key", 404), p.revokeKey)
	web.Register(r, admin("admin-list-dead-letters", http.MethodGet, "/admin/dead-letters", "List messages that no consumer could handle"), p.listDead)
	web.Register(r, admin("admin-redrive-dead-letter", http.MethodPost, "/admin/dead-letters/{seq}/redrive", "Hand a message to its consumer again", 404, 503), p.redriveDead)
	web.Register(r, admin("admin-discard-dead-letter", http.MethodDelete, "/admin/dead-letters/{seq}", "Throw a message away", 404), p.discardDead)
	web.Register(r, admin("admin-list-alarms", http.MethodGet, "/admin/alarms", "List streams that held less at a start than they had acknowledged"), p.listAlarms)
	web.Register(r, admin("admin-clear-alarms", http.MethodDelete, "/admin/alarms", "Clear the alarms once somebody has looked after them"), p.clearAlarms)
	r.Handle(backupOp(), http.HandlerFunc(p.backup))
}

// AdminKey is a key as it is given back.
type AdminKey struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Scopes     []string  `json:"scopes"`
	App        string    `json:"app,omitempty" doc:"The application whose events come with this key."`
	Origins    []string  `json:"origins,omitempty" doc:"Origins of the web pages that may use the key."`
	Signed     bool      `json:"signed" doc:"Whether requests must be signed."`
	CreatedAt  web.Time  `json:"created_at"`
	ExpiresAt  *web.Time `json:"expires_at,omitempty"`
	LastUsedAt *web.Time `json:"last_used_at,omitempty"`
	RevokedAt  *web.Time `json:"revoked_at,omitempty"`
}

func optionalTime(t *time.Time) *web.Time {
	if t == nil {
		return nil
	}
	v := web.Time(*t)
	return &v
}

func adminKeyOf(k auth.Key) AdminKey {
	return AdminKey{ID: k.ID, Name: k.Name, Scopes: k.Scopes, App: k.App, Origins: k.Origins, Signed: k.Signed, CreatedAt: web.Time(k.CreatedAt),
		ExpiresAt: optionalTime(k.ExpiresAt), LastUsedAt: optionalTime(k.LastUsedAt), RevokedAt: optionalTime(k.RevokedAt)}
}

// newAdminKey is a key with what is shown once.
type newAdminKey struct {
	AdminKey
	Key           string `json:"key" doc:"Send it as Authorization: Bearer. It is shown this once."`
	SigningSecret string `json:"signing_secret,omitempty" doc:"For X-Signature. It is shown this once."`
}

type createKeyInput struct {
	Body struct {
		Name      string   `json:"name" minLength:"1" maxLength:"100"`
		Scopes    []string `json:"scopes" minItems:"1"`
		App       string   `json:"app,omitempty" doc:"Bind the key to this application."`
		Origins   []string `json:"origins,omitempty" doc:"Allow web pages of these origins to use it."`
		Signed    bool     `json:"signed,omitempty" doc:"Demand signed requests."`
		ExpiresIn string   `json:"expires_in,omitempty" doc:"Such as 720h; never if absent." example:"720h"`
	}
}

func (p *product) createKey(ctx context.Context, in *createKeyInput) (*struct{ Body newAdminKey }, error) {
	n := auth.NewKey{Name: in.Body.Name, Scopes: in.Body.Scopes, App: in.Body.App, Origins: in.Body.Origins, Signed: in.Body.Signed}
	if in.Body.ExpiresIn != "" {
		d, err := time.ParseDuration(in.Body.ExpiresIn)
		if err != nil || d <= 0 {
			return nil, errs.InvalidFields("the key cannot be made", errs.Field{Location: "body.expires_in", Message: "is not a duration such as 720h"})
		}
		at := p.now().Add(d)
		n.ExpiresAt = &at
	}
	key, secret, signing, err := p.guard.Create(ctx, n)
	if err != nil {
		return nil, err
	}
	return &struct{ Body newAdminKey }{newAdminKey{adminKeyOf(key), secret, signing}}, nil
}

// PageInput is what every list takes.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

type keyCursor struct {
	After string `json:"a"`
}

func (p *product) listKeys(ctx context.Context, in *PageInput) (*struct{ Body web.Page[AdminKey] }, error) {
	var c keyCursor
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
	}
	keys, err := p.guard.List(ctx, c.After, in.Limit)
	if err != nil {
		return nil, err
	}
	items := make([]AdminKey, len(keys))
	for i, k := range keys {
		items[i] = adminKeyOf(k)
	}
	next := ""
	if len(keys) == in.Limit {
		next = web.Cursor(keyCursor{keys[len(keys)-1].ID})
	}
	return &struct{ Body web.Page[AdminKey] }{web.NewPage(items, next)}, nil
}

// KeyPath names a key in a URL.
type KeyPath struct {
	ID string `path:"id"`
}

func (p *product) getKey(ctx context.Context, in *KeyPath) (*struct{ Body AdminKey }, error) {
	key, err := p.guard.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &struct{ Body AdminKey }{adminKeyOf(key)}, nil
}

type rotateKeyInput struct {
	KeyPath
	Body *struct {
		Overlap string `json:"overlap,omitempty" doc:"How long the old secret stays good, such as 24h; 0s ends it at once." default:"24h"`
	} `required:"false"`
}

func (p *product) rotateKey(ctx context.Context, in *rotateKeyInput) (*struct{ Body newAdminKey }, error) {
	overlap := 24 * time.Hour
	if in.Body != nil && in.Body.Overlap != "" {
		var err error
		if overlap, err = time.ParseDuration(in.Body.Overlap); err != nil || overlap < 0 {
			return nil, errs.InvalidFields("the key cannot be rotated", errs.Field{Location: "body.overlap", Message: "is not a duration such as 24h"})
		}
	}
	key, secret, err := p.guard.Rotate(ctx, in.ID, overlap)
	if err != nil {
		return nil, err
	}
	return &struct{ Body newAdminKey }{newAdminKey{AdminKey: adminKeyOf(key), Key: secret}}, nil
}

func (p *product) revokeKey(ctx context.Context, in *KeyPath) (*struct{}, error) {
	return nil, p.guard.Revoke(ctx, in.ID)
}

// deadLetter is a message that no consumer could handle. What it carries is
// sealed and not shown.
type deadLetter struct {
	Seq      uint64   `json:"seq"`
	Consumer string   `json:"consumer"`
	Subject  string   `json:"subject"`
	Failures int      `json:"failures" doc:"How often its consumer failed on it."`
	Error    string   `json:"error" doc:"Of the last failure."`
	At       web.Time `json:"at" doc:"When it was given up."`
}

type listDeadInput struct {
	PageInput
	Consumer string `query:"consumer" doc:"Only of this consumer."`
}

type deadCursor struct {
	After uint64 `json:"a"`
}

func (p *product) listDead(ctx context.Context, in *listDeadInput) (*struct{ Body web.Page[deadLetter] }, error) {
	var c deadCursor
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
	}
	letters, err := p.bus.DeadLetters(ctx, bus.DeadLetterQuery{Consumer: in.Consumer, After: c.After, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	items := make([]deadLetter, len(letters))
	for i := range letters {
		l := &letters[i]
		items[i] = deadLetter{Seq: l.Seq, Consumer: l.Consumer, Subject: l.Message.Subject, Failures: l.Failures, Error: l.Error, At: web.Time(l.At)}
	}
	next := ""
	if len(items) == in.Limit {
		next = web.Cursor(deadCursor{items[len(items)-1].Seq})
	}
	return &struct{ Body web.Page[deadLetter] }{web.NewPage(items, next)}, nil
}

type deadPath struct {
	Seq uint64 `path:"seq"`
}

func (p *product) redriveDead(ctx context.Context, in *deadPath) (*struct{}, error) {
	return nil, p.bus.Redrive(ctx, in.Seq)
}

func (p *product) discardDead(ctx context.Context, in *deadPath) (*struct{}, error) {
	return nil, p.bus.DiscardDead(ctx, in.Seq)
}

func (p *product) listAlarms(context.Context, *struct{}) (*struct{ Body web.Page[string] }, error) {
	return &struct{ Body web.Page[string] }{web.NewPage(p.bus.Alarms(), "")}, nil
}

func (p *product) clearAlarms(context.Context, *struct{}) (*struct{}, error) {
	p.bus.ClearAlarms()
	return nil, nil
}
