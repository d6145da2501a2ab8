package bus

import (
	"context"
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// Stream is a stored sequence of messages.
type Stream struct {
	// Name in capitals, such as COLLECTOR.
	Name string
	// Subjects it stores; no two streams may overlap.
	Subjects []string
	// Queue makes a work queue: a message is gone about a second after every
	// consumer of the stream has acknowledged it and all before it, and when the
	// queue is full publishing is refused. Otherwise messages stay until MaxAge
	// or until MaxBytes pushes the oldest out.
	Queue bool
	// MaxAge of a message; 0 means 3 days, for a queue for ever: it never drops.
	MaxAge time.Duration
	// MaxBytes of all messages; 0 means 1 GiB. The sum over all streams is
	// bounded by Config.MaxStore.
	MaxBytes int64
}

const (
	defaultMaxAge   = 72 * time.Hour
	defaultMaxBytes = 1 << 30
	// dedupWindow bounds the memory of message ids (160 bytes each) and must
	// outlast the repeats of one publish.
	dedupWindow = 20 * time.Second
)

func (s Stream) withDefaults() Stream {
	if s.MaxAge == 0 && !s.Queue {
		s.MaxAge = defaultMaxAge
	}
	if s.MaxBytes == 0 {
		s.MaxBytes = defaultMaxBytes
	}
	return s
}

// Declare makes the stream or adapts its limits and subjects; a stream cannot
// turn into a queue or back. A new stream numbers its messages from the
// present time in microseconds, so that numbers grow even when it is made anew.
// It is retried while the bus is not ready, until ctx ends (at most 30 s).
// Errors: Invalid for a stream that cannot be, Unavailable otherwise.
func (b *Bus) Declare(ctx context.Context, s Stream) error {
	if s.Name == "" || len(s.Subjects) == 0 {
		return errs.New(errs.Invalid, "bus: a stream needs a name and subjects")
	}
	s = s.withDefaults()
	s.Subjects = slices.Clone(s.Subjects)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		l, err := b.attach(ctx)
		if err != nil {
			return err
		}
		b.guard.making.Add(1)
		err = b.declareOn(ctx, l, s)
		b.guard.making.Add(-1)
		if err == nil {
			b.mu.Lock()
			b.streams[s.Name] = s
			b.mu.Unlock()
			return nil
		}
		if errs.KindOf(err) == errs.Invalid || !pause(ctx, wait) {
			return err
		}
	}
}

func (b *Bus) declareOn(ctx context.Context, l *link, s Stream) error {
	cfg := jetstream.StreamConfig{
		Name: s.Name, Subjects: s.Subjects, Storage: jetstream.FileStorage, Replicas: b.cfg.Replicas,
		MaxAge: s.MaxAge, MaxBytes: s.MaxBytes, Duplicates: dedupWindow,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, AllowDirect: true,
	}
	if s.MaxAge > 0 && s.MaxAge < dedupWindow {
		cfg.Duplicates = s.MaxAge
	}
	if s.Queue {
		cfg.Discard = jetstream.DiscardNew
	}
	old, err := l.js.Stream(ctx, s.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		cfg.FirstSeq = uint64(time.Now().UnixMicro())
		_, err = l.js.CreateStream(ctx, cfg)
	case err == nil:
		have := old.CachedInfo().Config
		if isQueue(have) != s.Queue {
			return errs.New(errs.Invalid, "bus: stream %s cannot turn into a queue or back", s.Name)
		}
		// A changed first sequence would purge the stream at the next start.
		cfg.FirstSeq = have.FirstSeq
		if sameStream(have, cfg) {
			return nil
		}
		_, err = l.js.UpdateStream(ctx, cfg)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, jetstream.ErrInvalidStreamName) {
		return errs.Wrap(errs.Invalid, err, "bus: declare stream %s", s.Name)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch {
		case api.ErrorCode == 10047 || api.ErrorCode == 10023:
			return errs.Wrap(errs.Invalid, errors.Join(err, ErrNoSpace), "bus: stream %s does not fit in bus.max_store", s.Name)
		case api.ErrorCode == jetstream.JSErrCodeStreamNameInUse, api.ErrorCode == 10049:
			// Made by another instance in this moment, or the server's own
			// stumble right after a deletion: look again.
		case api.Code == 400 || api.Code == 500 && api.ErrorCode == 10052:
			return errs.Wrap(errs.Invalid, err, "bus: declare stream %s", s.Name)
		}
	}
	return errs.Wrap(errs.Unavailable, err, "bus: declare stream %s", s.Name)
}

// isQueue tells whether a stream was declared as a queue: it refuses when it is
// full.
func isQueue(cfg jetstream.StreamConfig) bool { return cfg.Discard == jetstream.DiscardNew }

// sameStream tells whether an update would change nothing.
func sameStream(have, want jetstream.StreamConfig) bool {
	return slices.Equal(have.Subjects, want.Subjects) && have.MaxAge == want.MaxAge && have.MaxBytes == want.MaxBytes &&
		have.Retention == want.Retention && have.Discard == want.Discard && have.Duplicates == want.Duplicates &&
		have.Replicas == want.Replicas && have.AllowDirect == want.AllowDirect
}

// declared gives the streams declared so far, by name.
func (b *Bus) declared() []Stream {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Stream, 0, len(b.streams))
	for _, s := range b.streams {
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
