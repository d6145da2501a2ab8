package collector

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"switchboard/modules/collector/collectorapi"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/outbox"
	"switchboard/platform/store"
)

// schemaService keeps the schemas, each compiled once per instance.
type schemaService struct {
	cfg   *Config
	store *schemaStore
	relay *outbox.Relay
	log   *slog.Logger
	now   func() time.Time

	loading sync.Mutex // one change of current at a time
	current atomic.Pointer[map[schemaKey]*schema]
}

type schemaKey struct{ category, name string }

// validate reports where data does not fit the schema of its kind; it locks
// nothing.
func (s *schemaService) validate(category, name string, data json.RawMessage) []errs.Field {
	sch := (*s.current.Load())[schemaKey{category, name}]
	if sch == nil {
		if s.cfg.Strict {
			return []errs.Field{{Location: "category", Message: "has no schema for this name, and collector.strict is on"}}
		}
		return nil
	}
	return sch.check(data)
}

// load compiles all current schemas.
func (s *schemaService) load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	all := map[schemaKey]*schema{}
	const page = 500
	var last schemaKey
	for {
		rows, err := s.store.current(ctx, last.category, last.name, page)
		if err != nil {
			return fmt.Errorf("load schemas: %w", err)
		}
		for _, r := range rows {
			last = schemaKey{r.Category, r.Name}
			s.set(ctx, all, r)
		}
		if len(rows) < page {
			break
		}
	}
	s.current.Store(&all)
	return nil
}

// refresh takes over the newest version of one schema.
func (s *schemaService) refresh(ctx context.Context, key schemaKey) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	row, err := s.store.latest(ctx, s.store.db.Read(), key.category, key.name)
	if err != nil {
		return fmt.Errorf("refresh schema: %w", err)
	}
	before := *s.current.Load()
	all := make(map[schemaKey]*schema, len(before)+1)
	for k, v := range before {
		all[k] = v
	}
	delete(all, key)
	if row.Body != "" {
		if old := before[key]; old != nil && old.version == row.Version {
			all[key] = old
		} else {
			s.set(ctx, all, row)
		}
	}
	s.current.Store(&all)
	return nil
}

func (s *schemaService) set(ctx context.Context, all map[schemaKey]*schema, r schemaRow) {
	compiled, err := compileSchema([]byte(r.Body))
	if err != nil {
		// It compiled when it was put: a newer rule of ours refuses it.
		s.log.ErrorContext(ctx, "a stored schema does not compile: its events are not checked", "category", r.Category, "name", r.Name, "error", err)
		return
	}
	compiled.version = r.Version
	all[schemaKey{r.Category, r.Name}] = compiled
}

// put adds a version unless the text is the current one; created tells if
// there was no schema.
func (s *schemaService) put(ctx context.Context, category, name string, text json.RawMessage) (row schemaRow, created bool, err error) {
	for _, f := range [...]struct{ at, value string }{{"path.category", category}, {"path.name", name}} {
		if why := checkText(f.value, true); why != "" {
			return row, false, errs.InvalidFields("the schema has no valid name", errs.Field{Location: f.at, Message: why})
		}
	}
	if _, err := compileSchema(text); err != nil {
		return row, false, err
	}
	row, created, err = s.change(ctx, category, name, string(text))
	if err != nil {
		return row, false, fmt.Errorf("put schema: %w", err)
	}
	return row, created, nil
}

// remove ends a schema; its versions stay. NotFound if there is none.
func (s *schemaService) remove(ctx context.Context, category, name string) error {
	_, created, err := s.change(ctx, category, name, "")
	if err == nil && created {
		err = errs.New(errs.NotFound, "no such schema")
	}
	return err
}

// change writes the next version and the event that tells of it. An empty body
// ends the schema.
func (s *schemaService) change(ctx context.Context, category, name, body string) (row schemaRow, created bool, err error) {
	for attempt := 0; ; attempt++ {
		err = s.store.db.Tx(ctx, func(tx store.Querier) error {
			last, err := s.store.latest(ctx, tx, category, name)
			if err != nil {
				return err
			}
			row, created = last, last.Body == ""
			if last.Body == body {
				return nil
			}
			row = schemaRow{Category: category, Name: name, Version: last.Version + 1, Body: body, CreatedAt: store.MicrosOf(s.now())}
			if err := s.store.insert(ctx, tx, row); err != nil {
				return err
			}
			return s.tell(ctx, tx, row)
		})
		// Another instance may have taken the same version number.
		if !store.IsUnique(err) || attempt == 3 {
			break
		}
	}
	if err != nil {
		return row, false, err
	}
	s.relay.Wake()
	return row, created, s.refresh(ctx, schemaKey{category, name})
}

func (s *schemaService) tell(ctx context.Context, tx store.Querier, row schemaRow) error {
	e := collectorapi.SchemaChanged{ID: uuid.Must(uuid.NewV7()).String(), Time: row.CreatedAt.Time(), Category: row.Category, Name: row.Name, Version: row.Version, Deleted: row.Body == ""}
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return outbox.Publish(ctx, tx, bus.Message{Subject: e.Subject(), ID: e.ID, Data: data})
}

// get gives a version of a schema, the current one for version 0; NotFound if
// there is none.
func (s *schemaService) get(ctx context.Context, category, name string, version int64) (schemaRow, error) {
	before := int64(math.MaxInt64)
	if version > 0 {
		before = version + 1
	}
	rows, err := s.store.versions(ctx, category, name, before, 1)
	if err != nil {
		return schemaRow{}, fmt.Errorf("get schema: %w", err)
	}
	if len(rows) == 0 || version > 0 && rows[0].Version != version || version == 0 && rows[0].Body == "" {
		return schemaRow{}, errs.New(errs.NotFound, "no such schema")
	}
	return rows[0], nil
}

// history gives versions older than before, newest first; NotFound if there
// never was a schema.
func (s *schemaService) history(ctx context.Context, category, name string, before int64, limit int) ([]schemaRow, error) {
	rows, err := s.store.versions(ctx, category, name, before, limit)
	if err != nil {
		return nil, fmt.Errorf("list schema versions: %w", err)
	}
	if len(rows) == 0 && before == math.MaxInt64 {
		return nil, errs.New(errs.NotFound, "no such schema")
	}
	return rows, nil
}

// watch takes over what other instances change.
func (s *schemaService) watch(ctx context.Context, b *bus.Bus) error {
	return b.Watch(ctx, streamFacts, collectorapi.SchemaChanged{}.Subject(), func(m bus.Message) {
		var e collectorapi.SchemaChanged
		if err := json.Unmarshal(m.Data, &e); err != nil {
			s.log.ErrorContext(ctx, "cannot read that a schema changed", "error", err)
			return
		}
		if err := s.refresh(ctx, schemaKey{e.Category, e.Name}); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot take over a changed schema", "error", err)
		}
	})
}
