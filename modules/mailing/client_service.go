package mailing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// sealedAs says what the sealed part of a client is.
const sealedAs = "mailing.client.v1"

// clientSecrets is the sealed part of a client.
type clientSecrets struct {
	PhoneNumber string         `json:"phone_number" pii:"phone"`
	Attributes  map[string]any `json:"attributes,omitempty" pii:"content"`
}

var (
	errNoClient = errs.New(errs.NotFound, "no such client")
	errTaken    = &errs.Error{Kind: errs.Conflict, Text: "another client has this phone number",
		Fields: []errs.Field{{Location: "body.phone_number", Message: "belongs to another client"}}}
	errErased = errs.InvalidFields("the person has been erased", errs.Field{Location: "body.phone_number", Message: "belongs to a person who has been erased"})
)

// clientService is what a user can do with clients.
type clientService struct {
	store  *clientStore
	keys   *seal.Keyring
	logged eventlog.Logger
	now    func() time.Time
	// onDeleted stops what is pending for a client, in the transaction that
	// deletes it; what it gives is called after that. It may be nil.
	onDeleted func(ctx context.Context, tx store.Querier, clientID int64) (tell func(), err error)
}

func newClientService(db *store.DB, keys *seal.Keyring, logged eventlog.Logger, now func() time.Time) *clientService {
	return &clientService{store: &clientStore{db}, keys: keys, logged: logged, now: now}
}

// phoneIndex is by what clients of a number are found.
func (s *clientService) phoneIndex(number string) (seal.Index, bool) {
	alias, ok := seal.Phone(number)
	if !ok {
		return seal.Index{}, false
	}
	return s.keys.Index(alias.Kind, alias.Value), true
}

// seal makes rows of valid clients, without ids and times. A person who has
// been erased gives a row whose Subject is zero.
func (s *clientService) seal(ctx context.Context, clients []*client) ([]audienceRow, error) {
	aliases := make([]seal.Alias, len(clients))
	for i, c := range clients {
		alias, ok := seal.Phone(c.PhoneNumber)
		if !ok {
			return nil, errs.New(errs.Invalid, "a client has no phone number")
		}
		aliases[i] = alias
	}
	subjects, ciphers, err := s.keys.SubjectsOnce(ctx, aliases)
	if err != nil {
		return nil, fmt.Errorf("find the persons of clients: %w", err)
	}
	rows := make([]audienceRow, len(clients))
	for i, c := range clients {
		if ciphers[i] == nil {
			continue
		}
		text, err := json.Marshal(clientSecrets{c.PhoneNumber, c.Attributes})
		if err != nil {
			return nil, fmt.Errorf("write down a client: %w", err)
		}
		rows[i] = audienceRow{Phone: s.keys.Index(aliases[i].Kind, aliases[i].Value), Subject: subjects[i], Sealed: ciphers[i].Seal(nil, text, sealedAs),
			OperatorCode: c.OperatorCode, Tag: c.Tag, Timezone: c.Timezone}
	}
	return rows, nil
}

// open gives the clients of rows; nil for a person who has been erased.
func (s *clientService) open(ctx context.Context, rows []audienceRow) ([]*client, error) {
	subjects := make([]seal.Subject, len(rows))
	for i := range rows {
		subjects[i] = rows[i].Subject
	}
	ciphers, err := s.keys.CiphersOnce(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("find the keys of clients: %w", err)
	}
	out := make([]*client, len(rows))
	for i := range rows {
		if ciphers[i] == nil {
			continue
		}
		text, err := ciphers[i].Open(nil, rows[i].Sealed, sealedAs)
		if err != nil {
			return nil, fmt.Errorf("open client %d: %w", rows[i].ID, err)
		}
		var part clientSecrets
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if err := dec.Decode(&part); err != nil {
			return nil, fmt.Errorf("read client %d: %w", rows[i].ID, err)
		}
		out[i] = rows[i].plain()
		out[i].PhoneNumber, out[i].Attributes = part.PhoneNumber, part.Attributes
	}
	return out, nil
}

// plain is what of a client is not sealed.
func (r *audienceRow) plain() *client {
	return &client{ID: r.ID, OperatorCode: r.OperatorCode, Tag: r.Tag, Timezone: r.Timezone, CreatedAt: r.CreatedAt.Time(), UpdatedAt: r.UpdatedAt.Time()}
}

// create makes a client. Errors: Invalid; Conflict for a number that another
// client has.
func (s *clientService) create(ctx context.Context, n newClient) (*client, error) {
	c, err := n.client()
	if err != nil {
		return nil, err
	}
	rows, err := s.seal(ctx, []*client{c})
	if err != nil {
		return nil, err
	}
	if rows[0].Subject.IsZero() {
		return nil, errErased
	}
	at := store.MicrosOf(s.now())
	rows[0].CreatedAt, rows[0].UpdatedAt = at, at
	err = s.store.db.Tx(ctx, func(tx store.Querier) (err error) {
		if rows[0].ID, err = nextIDs(ctx, tx, "client", 1); err != nil {
			return err
		}
		return s.store.insert(ctx, tx, rows)
	})
	if store.IsUnique(err) {
		return nil, errTaken
	}
	if err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	c.ID, c.CreatedAt, c.UpdatedAt = rows[0].ID, at.Time(), at.Time()
	return c, s.note(ctx, eventClientCreated, c.ID)
}

// get gives a client. Of an erased person it has neither number nor
// attributes.
func (s *clientService) get(ctx context.Context, id int64) (*client, error) {
	row, err := s.store.get(ctx, id)
	if err != nil {
		return nil, err
	}
	found, err := s.show(ctx, []audienceRow{row})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// show is open for people: what is left of an erased person is shown too.
func (s *clientService) show(ctx context.Context, rows []audienceRow) ([]*client, error) {
	found, err := s.open(ctx, rows)
	for i := range found {
		if found[i] == nil {
			found[i] = rows[i].plain()
		}
	}
	return found, err
}

// list gives a page of clients, and whether more follow.
func (s *clientService) list(ctx context.Context, q clientQuery) (page []*client, more bool, err error) {
	limit := q.Limit
	q.Limit++
	rows, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, fmt.Errorf("find clients: %w", err)
	}
	if more = len(rows) > limit; more {
		rows = rows[:limit]
	}
	page, err = s.show(ctx, rows)
	return page, more, err
}

// put replaces all of a client.
func (s *clientService) put(ctx context.Context, id int64, n newClient) (*client, error) {
	return s.update(ctx, id, func(*client) (*client, error) { return n.client() })
}

// patch changes parts of a client.
func (s *clientService) patch(ctx context.Context, id int64, change clientChange) (*client, error) {
	return s.update(ctx, id, func(old *client) (*client, error) {
		if old.PhoneNumber == "" && change.PhoneNumber == nil {
			return nil, errErased
		}
		return old.apply(change)
	})
}

// update writes what change makes of a client. If somebody else changes it
// meanwhile, change gets the newer one.
func (s *clientService) update(ctx context.Context, id int64, change func(*client) (*client, error)) (*client, error) {
	const tries = 16
	for range tries {
		old, err := s.get(ctx, id)
		if err != nil {
			return nil, err
		}
		c, err := change(old)
		if err != nil {
			return nil, err
		}
		rows, err := s.seal(ctx, []*client{c})
		if err != nil {
			return nil, err
		}
		if rows[0].Subject.IsZero() {
			return nil, errErased
		}
		before := store.MicrosOf(old.UpdatedAt)
		rows[0].ID, rows[0].UpdatedAt = id, max(store.MicrosOf(s.now()), before+1) // by it two changes are told apart
		var done bool
		err = s.store.db.Tx(ctx, func(tx store.Querier) (err error) {
			done, err = s.store.update(ctx, tx, &rows[0], before)
			return err
		})
		switch {
		case store.IsUnique(err):
			return nil, errTaken
		case err != nil:
			return nil, fmt.Errorf("change client: %w", err)
		case done:
			c.ID, c.CreatedAt, c.UpdatedAt = id, old.CreatedAt, rows[0].UpdatedAt.Time()
			return c, s.note(ctx, eventClientEdited, id)
		}
	}
	return nil, errs.New(errs.Unavailable, "the client is being changed by others all the time")
}

// remove deletes a client, and stops what is pending for it.
func (s *clientService) remove(ctx context.Context, id int64) error {
	tell := func() {}
	err := s.store.db.Tx(ctx, func(tx store.Querier) error {
		found, err := s.store.remove(ctx, tx, id)
		if err != nil {
			return err
		}
		if !found {
			return errNoClient
		}
		if s.onDeleted == nil {
			return nil
		}
		tell, err = s.onDeleted(ctx, tx, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete client: %w", err)
	}
	tell()
	return s.note(ctx, eventClientDeleted, id)
}

// maxNoted is how many clients a single entry of the event log can tell of.
const maxNoted = 64

// note writes down what happened to clients.
func (s *clientService) note(ctx context.Context, event string, ids ...int64) error {
	for len(ids) > 0 {
		some := ids[:min(len(ids), maxNoted)]
		ids = ids[len(some):]
		e := eventlog.Entry{Event: event, Text: "clients: " + strconv.Itoa(len(some))}
		if len(some) == 1 {
			e.Text = "clientId: " + strconv.FormatInt(some[0], 10)
		}
		for _, id := range some {
			e.Refs = append(e.Refs, eventlog.SerialRef(refClient, id))
		}
		if err := s.logged.Log(ctx, e); err != nil {
			return fmt.Errorf("log what happened to a client: %w", err)
		}
	}
	return nil
}
