package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// ledger is what the embedded server's streams held when it was last looked
// at. The server itself reports nothing when a damaged file makes it forget messages.
type ledger struct {
	Streams map[string]entry `json:"streams"`
	// Closed is set by an orderly end: nothing was removed after it was written.
	Closed bool `json:"closed"`
	// Alarms stay until they are cleared: a supervisor's restart must not hide them.
	Alarms []string `json:"alarms,omitempty"`

	written bool // the file holds this
}

// entry is one stream's line.
type entry struct {
	Created   time.Time `json:"created"`
	Last      uint64    `json:"last"`
	Msgs      uint64    `json:"messages,omitempty"`
	First     uint64    `json:"first,omitempty"`
	FirstTime time.Time `json:"first_time,omitzero"`
	// Queue marks the queues and the dead letters: messages leave them at any
	// time, so that their count says something after an orderly end only.
	Queue bool `json:"queue,omitempty"`
}

func (b *Bus) ledgerPath() string { return filepath.Join(b.cfg.Dir, "ledger.json") }

// openLedger reads the ledger and compares it with what the server recovered.
func (b *Bus) openLedger(ctx context.Context, l *link) error {
	if !b.embedded() {
		return nil
	}
	led := &ledger{Streams: map[string]entry{}}
	data, err := os.ReadFile(b.ledgerPath())
	if err == nil {
		if jerr := json.Unmarshal(data, led); jerr != nil {
			led = &ledger{}
			led.alarm("the ledger itself was unreadable")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return errs.Wrap(errs.Unavailable, err, "bus: read the ledger")
	}
	if led.Streams == nil {
		led.Streams = map[string]entry{}
	}
	b.mu.Lock()
	b.ledger = led
	b.mu.Unlock()
	b.compareLedger(ctx, l)
	// From now on messages come and go: what the orderly end left is history.
	b.saveLedger(ctx, l, false)
	return nil
}

func (led *ledger) alarm(format string, args ...any) string {
	text := fmt.Sprintf(format, args...)
	led.Alarms = append(led.Alarms, time.Now().UTC().Format(time.RFC3339)+" "+text)
	return text
}

// compareLedger raises an alarm for each stream that holds less than recorded.
func (b *Bus) compareLedger(ctx context.Context, l *link) {
	if !b.embedded() {
		return
	}
	infos, err := listStreams(ctx, l)
	if err != nil {
		b.log.Error("bus ledger not compared", "error", err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]string, 0, len(b.ledger.Streams))
	for name := range b.ledger.Streams {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if what := shortfall(b.ledger.Streams[name], b.ledger.Closed, infos[name], time.Now()); what != "" {
			b.ledger.written = false
			b.log.Error("BUS LOST MESSAGES: "+b.ledger.alarm("stream %s: %s", name, what), "stream", name)
		}
	}
	b.m.alarms.Set(float64(len(b.ledger.Alarms)))
}

// shortfall says what is missing in a stream; "" when nothing is.
func shortfall(was entry, closed bool, is *jetstream.StreamInfo, now time.Time) string {
	switch {
	case is == nil:
		return fmt.Sprintf("is gone; it had reached sequence %d", was.Last)
	case !is.Created.Equal(was.Created):
		return fmt.Sprintf("was made anew; it had reached sequence %d", was.Last)
	case is.State.LastSeq < was.Last:
		return fmt.Sprintf("ends at sequence %d, but had reached %d", is.State.LastSeq, was.Last)
	case was.Queue && closed && is.State.Msgs < was.Msgs:
		return fmt.Sprintf("holds %d messages, but had %d", is.State.Msgs, was.Msgs)
	case was.Queue || was.Msgs == 0:
		return ""
	}
	st := is.State
	// What went off the front is explained by age or by the limit of size.
	front := uint64(0)
	if st.FirstSeq > was.First {
		front = st.FirstSeq - was.First
		aged := is.Config.MaxAge > 0 && now.Sub(was.FirstTime) >= is.Config.MaxAge
		pushed := is.Config.MaxBytes > 0 && st.Bytes > uint64(is.Config.MaxBytes)/2
		if !aged && !pushed {
			return fmt.Sprintf("begins at sequence %d, but had begun at %d", st.FirstSeq, was.First)
		}
	}
	if st.Msgs+front < was.Msgs {
		return fmt.Sprintf("holds %d messages, but had %d", st.Msgs, was.Msgs)
	}
	return ""
}

func listStreams(ctx context.Context, l *link) (map[string]*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out := map[string]*jetstream.StreamInfo{}
	list := l.js.ListStreams(ctx)
	for info := range list.Info() {
		out[info.Config.Name] = info
	}
	return out, list.Err()
}

// saveLedger writes the ledger if a stream has moved since. At the end, closing,
// it waits for the last acknowledgements to take effect.
func (b *Bus) saveLedger(ctx context.Context, l *link, closing bool) {
	if !b.embedded() || health(l.srv) != nil {
		return // a failing server says more than it has on disk
	}
	streams, err := ledgerEntries(ctx, l)
	closed := false
	// Other processes may be connected to our server: then nothing is final.
	for try := 0; err == nil && closing && !closed && try < 20 && l.srv.NumClients() <= 1; try++ {
		before := streams
		pause(ctx, 5*time.Millisecond)
		streams, err = ledgerEntries(ctx, l)
		closed = equalEntries(before, streams)
	}
	if err != nil {
		b.log.Warn("bus ledger not written", "error", err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writeLedger(streams, closed)
}

func ledgerEntries(ctx context.Context, l *link) (map[string]entry, error) {
	infos, err := listStreams(ctx, l)
	if err != nil {
		return nil, err
	}
	streams := make(map[string]entry, len(infos))
	for name, info := range infos {
		e := entry{
			Created: info.Created, Last: info.State.LastSeq, Msgs: info.State.Msgs, First: info.State.FirstSeq,
			Queue: isQueue(info.Config) || name == deadStream.Name,
		}
		if e.Msgs > 0 {
			e.FirstTime = info.State.FirstTime
		}
		streams[name] = e
	}
	return streams, nil
}

// writeLedger is called with b.mu held.
func (b *Bus) writeLedger(streams map[string]entry, closed bool) {
	if b.ledger.written && b.ledger.Closed == closed && equalEntries(b.ledger.Streams, streams) {
		return
	}
	b.ledger.Streams, b.ledger.Closed = streams, closed
	data, err := json.MarshalIndent(b.ledger, "", "  ")
	if err == nil {
		err = writeFile(b.ledgerPath(), append(data, '\n'))
	}
	b.ledger.written = err == nil
	if err != nil {
		b.log.Warn("bus ledger not written", "error", err)
	}
}

func equalEntries(a, b map[string]entry) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		y, ok := b[name]
		if !ok || x.Last != y.Last || x.Msgs != y.Msgs || x.First != y.First || !x.Created.Equal(y.Created) || !x.FirstTime.Equal(y.FirstTime) {
			return false
		}
	}
	return true
}

// writeFile puts data in the place of a file so that a power cut leaves the
// old or the new one.
func writeFile(path string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	_ = dir.Close()
	return err
}

// Alarms lists, each with its time, the streams that held less at a start than
// the ledger had recorded: acknowledged messages were lost. They stay, also
// over restarts, until ClearAlarms.
func (b *Bus) Alarms() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ledger == nil {
		return nil
	}
	return slices.Clone(b.ledger.Alarms)
}

// ClearAlarms removes the alarms once somebody has looked after them.
func (b *Bus) ClearAlarms() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ledger == nil || len(b.ledger.Alarms) == 0 {
		return
	}
	b.ledger.Alarms = nil
	b.m.alarms.Set(0)
	b.ledger.written = false
	b.writeLedger(b.ledger.Streams, b.ledger.Closed)
}
