package telephony

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"strconv"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/outbox"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	recordingPart    = 256 << 10 // bytes of a sealed part
	recordingPatient = 24 * time.Hour
	// recordingLate is how long a recording may be said not to exist: platforms
	// tell of it before it can be had.
	recordingLate = time.Hour
	// recordingAgain and the rest say when an attempt follows one that failed,
	// and one of which nothing was heard.
	recordingAgain = 5 * time.Second
	recordingMost  = 10 * time.Minute
	recordingLost  = fetchTime + 15*time.Second
)

// recordingConfig is what a recordingService works with.
type recordingConfig struct {
	Config   *Config
	DB       *store.DB
	Bus      *bus.Bus
	Keys     *seal.Keyring
	Events   *eventService
	Provider *providerClient
	EventLog eventlog.Logger
	Log      *slog.Logger
	Now      func() time.Time
	Settled  func(state string) // counts recordings by what came of them; may be nil
}

// recordingService finds recordings and, where that is configured, fetches and
// keeps them.
type recordingService struct {
	recordingConfig
	store *recordingStore
	busy  chan struct{} // bounds what is fetched at once
}

func newRecordingService(c recordingConfig) *recordingService {
	return &recordingService{recordingConfig: c, store: &recordingStore{c.DB}, busy: make(chan struct{}, recordingWorkers)}
}

// recordingReady is a recording that the platform has.
type recordingReady struct {
	Call       seal.Index
	CallID     string
	Event      int64 // that told of it, in the log
	EventID    uuid.UUID
	URL        string
	ReceivedAt store.Micros
}

// fetches tells whether recordings are fetched at all.
func (s *recordingService) fetches() bool { return s.Config.Recordings == "fetch" }

// plan notes what has to be fetched, in the transaction that stores the events.
func (s *recordingService) plan(ctx context.Context, tx store.Querier, recordings []recordingReady) error {
	if !s.fetches() || len(recordings) == 0 {
		return nil
	}
	fresh, err := s.store.plan(ctx, tx, recordings)
	if err != nil {
		return fmt.Errorf("plan recordings: %w", err)
	}
	var msgs []bus.Message
	for _, r := range recordings {
		if fresh[r.Event] {
			fresh[r.Event] = false
			msgs = append(msgs, bus.Message{Subject: subjectRecording, ID: r.EventID.String(), Data: planned{r.Event}.encode()})
		}
	}
	return outbox.Publish(ctx, tx, msgs...)
}

// due is when a recording may be tried again.
func (r *recording) due() time.Time {
	switch {
	case r.FetchedAt == nil:
		return r.ReceivedAt.Time().Add(recordingLost) // its message brings the first attempt
	case r.Detail == "":
		return r.FetchedAt.Time().Add(recordingLost)
	}
	wait := recordingAgain
	for range r.Attempts - 1 {
		if wait *= 3; wait >= recordingMost {
			wait = recordingMost
			break
		}
	}
	return r.FetchedAt.Time().Add(wait)
}

// sweep tries all recordings again whose time has come, one after another.
func (s *recordingService) sweep(ctx context.Context) error {
	const page = 200
	for after := int64(0); ; {
		list, err := s.store.pending(ctx, after, page)
		if err != nil {
			return fmt.Errorf("find recordings: %w", err)
		}
		for _, r := range list {
			after = r.Event
			if s.Now().Before(r.due()) {
				continue
			}
			if err := s.fetch(ctx, r.Event); err != nil {
				return err
			}
		}
		if len(list) < page || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// fetch tries once to get a recording. What goes wrong with the recording is
// noted with it; an error is one of our own.
func (s *recordingService) fetch(ctx context.Context, id int64) error {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r, err := s.store.get(ctx, id)
	if err != nil {
		return fmt.Errorf("find the recording: %w", err)
	}
	if r == nil || r.State != recordingPending {
		return nil
	}
	claimed, err := s.store.claim(ctx, r, store.MicrosOf(s.Now()))
	if err != nil || !claimed {
		return err
	}
	e, cipher, err := s.opened(ctx, id)
	if err != nil {
		return err
	}
	if e == nil {
		return s.end(ctx, r, "", recordingErased, "its person was erased")
	}
	parts, err := s.get(ctx, r, e.URL, cipher)
	switch {
	case err == nil:
		err = s.store.keep(ctx, r, parts)
		if err == nil {
			s.tell(ctx, r, e.CallID, recordingKept, "")
		}
		return unfenced(err)
	case isFenced(err):
		return nil
	}
	f, why := faultOf(err)
	age := s.Now().Sub(r.ReceivedAt.Time())
	var fault *unfit
	switch {
	case errors.As(err, &fault):
		return s.end(ctx, r, e.CallID, recordingFailed, fault.Error())
	case why.status == 404 && age < recordingLate, f != faultRefused && age < recordingPatient:
		s.Log.Debug("a recording cannot be had yet", "event", id, "attempts", r.Attempts, "status", why.status)
		return unfenced(s.store.note(ctx, r, recordingPending, sayFault(why)))
	}
	return s.end(ctx, r, e.CallID, recordingFailed, sayFault(why))
}

// unfit is a recording that can never be kept.
type unfit struct{ reason string }

func (u *unfit) Error() string { return u.reason }

// sayFault says why a recording cannot be had, in the clear.
func sayFault(why *providerError) string {
	if why.status == 0 {
		if why.reason != "" {
			return why.reason
		}
		return "no answer"
	}
	return "the server answered " + strconv.Itoa(why.status)
}

func unfenced(err error) error {
	if isFenced(err) {
		return nil
	}
	return err
}

// opened gives the event that told of a recording and its person's cipher, nil
// if the person was erased.
func (s *recordingService) opened(ctx context.Context, id int64) (*event, *seal.Cipher, error) {
	e, err := s.Events.posted(ctx, id)
	if err != nil || e == nil {
		return nil, nil, err
	}
	cipher, err := s.cipher(ctx, id)
	if err != nil || cipher == nil {
		return nil, nil, err
	}
	return e, cipher, nil
}

// cipher is that of the person whom an event of the log is about, nil if the
// person was erased.
func (s *recordingService) cipher(ctx context.Context, id int64) (*seal.Cipher, error) {
	list, err := s.Events.store.list(ctx, eventQuery{After: id - 1, Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("find the event: %w", err)
	}
	if len(list) == 0 || list[0].ID != id {
		return nil, nil
	}
	if list[0].Subject.IsZero() {
		return s.Keys.System(), nil
	}
	ciphers, err := s.Keys.Ciphers(ctx, []seal.Subject{list[0].Subject})
	if err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	return ciphers[0], nil
}

func sealRecording(event, part int64) string {
	return "telephony.recording." + strconv.FormatInt(event, 10) + "." + strconv.FormatInt(part, 10)
}

// get fetches a recording part by part, and fills in its size and type.
func (s *recordingService) get(ctx context.Context, r *recording, url string, cipher *seal.Cipher) (parts int64, err error) {
	limit, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	body, contentType, size, err := s.Provider.fetch(limit, url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	most := int64(s.Config.RecordingMax)
	tooLarge := &unfit{fmt.Sprintf("it is larger than %d bytes", most)}
	if size > most {
		return 0, tooLarge
	}
	r.MediaType = mediaType(contentType)
	buffer := make([]byte, recordingPart)
	for r.Size = 0; ; parts++ {
		n, err := fill(body, buffer)
		if r.Size += int64(n); r.Size > most {
			return 0, tooLarge
		}
		if n > 0 {
			if err := s.store.put(ctx, r, parts, cipher.Seal(nil, buffer[:n], sealRecording(r.Event, parts))); err != nil {
				return 0, err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return parts + 1, nil
		case errors.Is(err, io.EOF):
			return parts, nil
		case err != nil:
			return 0, (&providerError{fault: faultAway, cause: err}).kinded()
		}
	}
}

// fill reads until the buffer is full. Unlike io.ReadFull it tells an end from
// one that came too early.
func fill(r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var m int
		m, err = r.Read(buffer[n:])
		n += m
	}
	return n, err
}

// mediaType is a sound's or a file's: what a browser would run is not served.
func mediaType(contentType string) string {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil || len(media) > 64 || len(media) < 6 || media[:6] != "audio/" {
		return "application/octet-stream"
	}
	return media
}

func (s *recordingService) end(ctx context.Context, r *recording, callID, state, detail string) error {
	err := s.store.note(ctx, r, state, detail)
	if err == nil {
		s.tell(ctx, r, callID, state, detail)
	}
	return unfenced(err)
}

// tell logs and counts what came of a recording.
func (s *recordingService) tell(ctx context.Context, r *recording, callID, state, detail string) {
	if s.Settled != nil {
		s.Settled(state)
	}
	if callID == "" {
		return
	}
	e := callEntry("recording."+state, callID, "", map[string]any{"attempts": r.Attempts, "bytes": r.Size, "detail": detail})
	e.ID = "recording." + strconv.FormatInt(r.Event, 10)
	if err := s.EventLog.Log(ctx, e); err != nil {
		s.Log.Error("cannot log a recording", "error", err)
	}
}

// foundRecording is a recording of a call, with what is kept of it.
type foundRecording struct {
	recorded
	URL  string
	Kept *recording // nil if it is not fetched
}

// list gives the recordings of a call, in the order in which the platform told
// of them. Those of erased persons are left out. NotFound for an unknown call.
func (s *recordingService) list(ctx context.Context, callID string) ([]foundRecording, error) {
	call := s.Events.callIndex(callID)
	known, err := (&delegationStore{db: s.DB}).callState(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("find the call: %w", err)
	}
	if known == 0 {
		return nil, errs.New(errs.NotFound, "no such call")
	}
	rows, err := s.store.of(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("find recordings: %w", err)
	}
	kept := make(map[int64]*recording, len(rows))
	for _, r := range rows {
		kept[r.Event] = r
	}
	out := []foundRecording{}
	const most = 10_000 // events of a call that are looked at
	for q, read := (eventQuery{Call: &call, Limit: 1000}), 0; read < most; read += q.Limit {
		page, more, err := s.Events.find(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			q.After = e.ID
			if e.Kind != kindRecording {
				continue
			}
			posted, err := decodeEvent(e.Event)
			if err != nil {
				return nil, fmt.Errorf("read event %d: %w", e.ID, err)
			}
			out = append(out, foundRecording{e, posted.URL, kept[e.ID]})
		}
		if !more || len(page) == 0 {
			break
		}
	}
	return out, nil
}

// kept gives a recording that was fetched, of this call. NotFound for one that
// is not kept here, or whose person was erased.
func (s *recordingService) kept(ctx context.Context, callID string, id int64) (*recording, *seal.Cipher, error) {
	r, err := s.store.get(ctx, id)
	if err != nil {
		return nil, nil, fmt.Errorf("find the recording: %w", err)
	}
	gone := errs.New(errs.NotFound, "no such recording is kept here")
	if r == nil || r.State != recordingKept || r.Call != s.Events.callIndex(callID) {
		return nil, nil, gone
	}
	cipher, err := s.cipher(ctx, id)
	if err == nil && cipher == nil {
		err = gone
	}
	return r, cipher, err
}

// write writes a recording that is kept.
func (s *recordingService) write(ctx context.Context, to io.Writer, r *recording, cipher *seal.Cipher) error {
	var plain []byte
	for part, left := int64(0), r.Size; left > 0; part++ {
		sealed, err := s.store.part(ctx, r.Event, part)
		if err != nil {
			return fmt.Errorf("read part %d of recording %d: %w", part, r.Event, err)
		}
		if plain, err = cipher.Open(plain[:0], sealed, sealRecording(r.Event, part)); err != nil {
			return fmt.Errorf("open part %d of recording %d: %w", part, r.Event, err)
		}
		if left -= int64(len(plain)); left < 0 || len(plain) == 0 {
			return fmt.Errorf("recording %d is damaged", r.Event)
		}
		if _, err := to.Write(plain); err != nil {
			return err
		}
	}
	return nil
}
