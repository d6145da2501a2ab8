package crm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"switchboard/platform/seal"
)

// targetService tells what the CRM should show.
type targetService struct {
	store *reconcileStore
	keys  *seal.Keyring
}

// shown is what the CRM should show of a user or trip.
type shown struct {
	*target
	id     string // at the platform
	remote string // at the CRM
	user   *crmUser
	trip   *crmTrip
	waits  bool // it cannot be shown yet: the CRM does not have its user
}

// object is the one of its kind.
func (w *shown) object() any {
	if w.user != nil {
		return w.user
	}
	return w.trip
}

// digest is that of what would be sent.
func (w *shown) digest(keys *seal.Keyring) (seal.Index, error) {
	body, err := json.Marshal(w.object())
	return keys.Index("crm.copy", string(body)), err
}

// differs names the fields in which an object of the CRM differs.
func (w *shown) differs(raw []byte) []string {
	if w.user != nil {
		return w.user.differs(raw)
	}
	return w.trip.differs(raw)
}

func (s *targetService) index(k kind, id string) seal.Index {
	return s.keys.Index(k.String()+"_id", id)
}

// open gives what the CRM should show of targets; those whose person was erased
// are left out.
func (s *targetService) open(ctx context.Context, targets []*target) (map[seal.Index]*shown, error) {
	var subjects []seal.Subject
	for _, t := range targets {
		subjects = append(subjects, t.subject, t.copy.subject, t.ownerCopy.subject)
		if t.last != nil {
			subjects = append(subjects, t.last.subject, t.last.copy.subject)
		}
	}
	subjects = slices.DeleteFunc(subjects, seal.Subject.IsZero)
	slices.SortFunc(subjects, func(a, b seal.Subject) int { return slices.Compare(a[:], b[:]) })
	subjects = slices.Compact(subjects)
	// It goes through everybody, which nobody's cache should feel.
	list, err := s.keys.CiphersOnce(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	r := reader{}
	for i, c := range list {
		r[subjects[i]] = c
	}
	out := make(map[seal.Index]*shown, len(targets))
	for _, t := range targets {
		w, err := r.show(t)
		if err != nil {
			return nil, err
		}
		if w != nil {
			out[t.entity] = w
		}
	}
	return out, nil
}

// reader opens what is sealed.
type reader map[seal.Subject]*seal.Cipher

func (r reader) read(subject seal.Subject, sealed []byte, context string, into any) (bool, error) {
	cipher := r[subject]
	if cipher == nil || len(sealed) == 0 {
		return false, nil
	}
	text, err := cipher.Open(nil, sealed, context)
	if err != nil {
		return false, fmt.Errorf("open a %s: %w", context, err)
	}
	return true, json.Unmarshal(text, into)
}

// idAt is the id that an object has at the CRM.
func (r reader) idAt(c *copyRow, ours string) (string, error) {
	var p copyPart
	_, err := r.read(c.subject, c.sealed, sealCopy, &p)
	return cmp.Or(p.Remote, ours), err
}

// show gives nil for a person who was erased.
func (r reader) show(t *target) (*shown, error) {
	if t.kind == kindUser {
		return r.showUser(t)
	}
	return r.showTrip(t)
}

func (r reader) showUser(t *target) (*shown, error) {
	var e userEvent
	if ok, err := r.read(t.subject, t.sealed, sealUser, &e); !ok || err != nil {
		return nil, err
	}
	id, err := r.idAt(&t.copy, e.ID)
	if err != nil {
		return nil, err
	}
	var last *lastTrip
	if t.last != nil {
		var b bookingEvent
		ok, err := r.read(t.last.subject, t.last.sealed, sealTrip, &b)
		if err != nil {
			return nil, err
		}
		if ok {
			trip, err := r.idAt(&t.last.copy, b.ID)
			if err != nil {
				return nil, err
			}
			last = &lastTrip{trip, tripTypes[b.Type], b.StartDate}
		}
	}
	return &shown{target: t, id: e.ID, remote: id, user: new(e.user(id, last))}, nil
}

func (r reader) showTrip(t *target) (*shown, error) {
	var e bookingEvent
	if ok, err := r.read(t.subject, t.sealed, sealTrip, &e); !ok || err != nil {
		return nil, err
	}
	id, err := r.idAt(&t.copy, e.ID)
	if err != nil {
		return nil, err
	}
	user := ""
	if e.UserID != nil {
		if user, err = r.idAt(&t.ownerCopy, *e.UserID); err != nil {
			return nil, err
		}
	}
	return &shown{target: t, id: e.ID, remote: id, trip: new(e.trip(id, user)), waits: e.UserID != nil && t.ownerCopy.state != copyExists}, nil
}

// of gives one user or trip; nil if there is none.
func (s *targetService) of(ctx context.Context, k kind, entity seal.Index) (*shown, error) {
	found, err := s.store.find(ctx, k, []seal.Index{entity})
	if err != nil || found[entity] == nil {
		return nil, err
	}
	opened, err := s.open(ctx, []*target{found[entity]})
	return opened[entity], err
}
