package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	tokenIssuer   = "switchboard"
	tokenAudience = "gateway"
	// tokenLeeway is by how much the clocks of two instances may differ.
	tokenLeeway = 5 * time.Second
	// maxToken bounds a token in bytes: 1,000 rooms with long names fit.
	maxToken = 1 << 20

	// issuerAge is for how long it is believed that an issuing key is good.
	issuerAge   = 3 * time.Second
	maxIssuers  = 10_000
	issuerWait  = 5 * time.Second
	connectWith = "gateway:connect"
)

// What is wrong with a credential. The texts are for clients.
var (
	errNoCredential = errs.New(errs.Denied, "a key or a token is needed")
	errTokenBad     = errs.New(errs.Denied, "bad token")
	errTokenExpired = errs.New(errs.Denied, "token expired")
	errTokenRevoked = errs.New(errs.Denied, "token revoked")
	errKeyExpired   = errs.New(errs.Denied, "the key has expired")
	errKeyRevoked   = errs.New(errs.Denied, "the key has been revoked")
	errScope        = errs.New(errs.Denied, "missing scope "+connectWith)
	errOrigin       = errs.New(errs.Denied, "the key does not list this origin")
)

// forbidden tells errors of authenticate that a good credential met (403) from
// those of bad ones (401).
func forbidden(err error) bool { return errors.Is(err, errScope) || errors.Is(err, errOrigin) }

// tokenService issues, checks and revokes the tokens of browsers: JWTs (RFC
// 7519) that let in until they expire, unless they or the key that issued them
// are revoked. They are stored nowhere.
type tokenService struct {
	store  *tokenStore
	guard  *auth.Guard
	limits tokenLimits
	now    func() time.Time
	// onRevoke, if set, hears of each token that was revoked here, once that is
	// durable. Set it before the first request.
	onRevoke func(tokenID string)

	key    func() []byte
	idSum  func(string) [16]byte
	parser *jwt.Parser

	mu      sync.Mutex
	issuers *simplelru.LRU[string, issuer]
	reads   singleflight.Group
}

// issuer is what is known of an API key.
type issuer struct {
	absent    bool
	revoked   bool
	expiresAt *time.Time
	loaded    time.Time
}

// newTokenService does no I/O, and keys may be nil until the first token: so
// routes can be described without a database.
func newTokenService(db *store.DB, keys *seal.Keyring, guard *auth.Guard, limits tokenLimits, now func() time.Time) *tokenService {
	issuers, err := simplelru.NewLRU[string, issuer](maxIssuers, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &tokenService{
		store: &tokenStore{db}, guard: guard, limits: limits.withDefaults(), now: now,
		// All instances and restarts derive the same key.
		key: sync.OnceValue(func() []byte {
			a, b := keys.Index("gateway.token.key", "HS256 first half"), keys.Index("gateway.token.key", "HS256 second half")
			return append(a[:], b[:]...)
		}),
		idSum: func(id string) [16]byte { return keys.Index("gateway.token.id", id) },
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(tokenIssuer), jwt.WithAudience(tokenAudience),
			jwt.WithExpirationRequired(), jwt.WithLeeway(tokenLeeway), jwt.WithTimeFunc(now), jwt.WithStrictDecoding()),
		issuers: issuers,
	}
}

// tokenClaims is what a token says. The subject is the user.
type tokenClaims struct {
	jwt.RegisteredClaims
	KeyID string   `json:"kid"`
	Rooms []string `json:"rooms"`
}

// issue makes a token on behalf of a key, which it does not outlive. The error
// is Invalid with the fields at fault.
func (s *tokenService) issue(by *auth.Principal, r tokenRequest) (token string, g *Grant, err error) {
	if fields := r.faults(s.limits); len(fields) > 0 {
		return "", nil, errs.InvalidFields("the token cannot be made", fields...)
	}
	now := s.now().UTC()
	if r.TTL == 0 {
		r.TTL = s.limits.DefaultTTL
	}
	expiresAt := now.Add(r.TTL)
	if end := by.Key.ExpiresAt; end != nil && end.Before(expiresAt) {
		expiresAt = *end
	}
	expiresAt = expiresAt.Truncate(time.Second).UTC() // as a token can say it
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	id := newTokenID(expiresAt, random, s.idSum)
	if r.Rooms == nil {
		r.Rooms = []string{}
	}
	claims := tokenClaims{KeyID: by.Key.ID, Rooms: r.Rooms, RegisteredClaims: jwt.RegisteredClaims{
		ID: id.String(), Issuer: tokenIssuer, Audience: jwt.ClaimStrings{tokenAudience}, Subject: r.User,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expiresAt),
	}}
	token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(s.key())
	if err != nil {
		return "", nil, fmt.Errorf("sign a token: %w", err)
	}
	return token, &Grant{TokenID: id.String(), KeyID: by.Key.ID, User: r.User, Rooms: r.Rooms, ExpiresAt: expiresAt}, nil
}

// verify gives what a token grants now.
func (s *tokenService) verify(ctx context.Context, token string) (*Grant, error) {
	if len(token) > maxToken {
		return nil, errTokenBad
	}
	var claims tokenClaims
	_, err := s.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return s.key(), nil })
	switch {
	case errors.Is(err, jwt.ErrTokenExpired): // its signature was right
		return nil, errTokenExpired
	case err != nil, claims.ID == "": // a grant without a token's id is that of a key
		return nil, errTokenBad
	}
	g := &Grant{TokenID: claims.ID, KeyID: claims.KeyID, User: claims.Subject, Rooms: claims.Rooms, ExpiresAt: claims.ExpiresAt.UTC()}
	if err := s.check(ctx, g); err != nil {
		return nil, err
	}
	return g, nil
}

// check tells whether a grant that was good once still is. It may be some
// seconds late to hear that a key was revoked. The error is Denied, or
// Unavailable when the database does not answer.
func (s *tokenService) check(ctx context.Context, g *Grant) error {
	if err := s.current(ctx, g); err != nil || g.TokenID == "" {
		return err
	}
	id, ok := parseTokenID(g.TokenID, s.idSum)
	if !ok {
		return errTokenBad
	}
	gone, err := s.store.revoked(ctx, id)
	switch {
	case err != nil:
		return errs.Wrap(errs.Unavailable, err, "tokens cannot be checked now")
	case gone:
		return errTokenRevoked
	}
	return nil
}

// revokedOf gives those of these tokens that were revoked.
func (s *tokenService) revokedOf(ctx context.Context, tokens []string) (revoked []string, err error) {
	var ids []tokenID
	for _, token := range tokens {
		if id, ok := parseTokenID(token, s.idSum); ok {
			ids = append(ids, id)
		}
	}
	gone, err := s.store.revokedAmong(ctx, ids)
	for _, id := range gone {
		revoked = append(revoked, id.String())
	}
	return revoked, err
}

// current is check but for the revocation of the token itself: it looks at the
// clock and the key alone.
func (s *tokenService) current(ctx context.Context, g *Grant) error {
	now := s.now()
	expired, revoked := errTokenExpired, errTokenRevoked
	if g.TokenID == "" {
		expired, revoked = errKeyExpired, errKeyRevoked
	}
	if !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt.Add(tokenLeeway)) {
		return expired
	}
	by, err := s.issuerOf(ctx, g.KeyID)
	switch {
	case err != nil:
		return err
	case by.absent || by.revoked:
		return revoked
	case by.expiresAt != nil && !now.Before(*by.expiresAt):
		return expired
	}
	return nil
}

// issuerOf reads a key, or remembers it; concurrent calls share a query.
func (s *tokenService) issuerOf(ctx context.Context, id string) (issuer, error) {
	now := s.now()
	s.mu.Lock()
	known, ok := s.issuers.Get(id)
	s.mu.Unlock()
	if age := now.Sub(known.loaded); ok && age >= 0 && age < issuerAge {
		return known, nil
	}
	got, err, _ := s.reads.Do(id, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), issuerWait)
		defer cancel()
		key, err := s.guard.Get(ctx, id)
		switch {
		case errs.KindOf(err) == errs.NotFound:
			known = issuer{absent: true, loaded: now}
		case err != nil:
			return nil, errs.Wrap(errs.Unavailable, err, "keys cannot be checked now")
		default:
			known = issuer{revoked: key.RevokedAt != nil, expiresAt: key.ExpiresAt, loaded: now}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.issuers.Add(id, known)
		return known, nil
	})
	if err != nil {
		return issuer{}, err
	}
	return got.(issuer), nil
}

// revoke ends a token for ever, on all instances. It is NotFound for an id that
// was never given out; one that has expired or is revoked already stays so.
func (s *tokenService) revoke(ctx context.Context, id string) error {
	parsed, ok := parseTokenID(id, s.idSum)
	if !ok {
		return errs.New(errs.NotFound, "there is no such token")
	}
	until := parsed.expiresAt().Add(2 * tokenLeeway)
	if !s.now().Before(until) {
		return nil
	}
	if err := s.store.revoke(ctx, parsed, until); err != nil {
		return fmt.Errorf("revoke a token: %w", err)
	}
	if s.onRevoke != nil {
		s.onRevoke(id)
	}
	return nil
}

// sweep forgets revoked tokens that have expired.
func (s *tokenService) sweep(ctx context.Context) error {
	const most = 1000
	for {
		n, err := s.store.expire(ctx, s.now(), most)
		if err != nil || n < most {
			return err
		}
	}
}

// authenticate gives what a credential grants: an API key with the scope
// gateway:connect, or a token. remoteIP is where wrong keys are counted. origin
// is that of the browser's page if there is one and it is not our own; a key
// must list it, while a token may be used from any.
//
// The error is Denied with a text for the client, or Unavailable; forbidden
// tells a good credential that is not enough.
func (s *tokenService) authenticate(ctx context.Context, credential, remoteIP, origin string) (*Grant, error) {
	if credential == "" {
		return nil, errNoCredential
	}
	if isToken(credential) {
		return s.verify(ctx, credential)
	}
	p, err := s.guard.Authenticate(ctx, credential, remoteIP)
	switch {
	case err != nil:
		return nil, err
	case !p.Has(connectWith):
		return nil, errScope
	case origin != "" && !p.Allows(origin):
		return nil, errOrigin
	}
	g := &Grant{KeyID: p.Key.ID, AllRooms: true}
	if p.Key.ExpiresAt != nil {
		g.ExpiresAt = *p.Key.ExpiresAt
	}
	return g, nil
}

// isToken tells tokens from keys: three parts of base64, the first a JSON object.
func isToken(credential string) bool {
	return strings.HasPrefix(credential, "ey") && strings.Count(credential, ".") == 2
}
