package telephony

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

const (
	// boardReadTime is how long one look into the database may take.
	boardReadTime = 10 * time.Second
	// boardReads is how many requests of boards look into the database at once;
	// further ones wait.
	boardReads = 4
	// boardAnswers is how many answers are remembered, and boardAnswerAge for
	// how long even if nothing happens.
	boardAnswers   = 64
	boardAnswerAge = 10 * time.Second
	// boardAnswerKey is the longest query whose answer is remembered, in bytes.
	boardAnswerKey = 1 << 10
)

// boardService answers what boards ask for. Many boards ask the same after every
// event: they share one query and one encoded answer.
type boardService struct {
	calls   *callService
	events  *eventService
	feed    *feed
	log     *slog.Logger
	now     func() time.Time
	answers *lru.Cache[string, *boardAnswer]
	flights singleflight.Group
	slots   chan struct{}
}

// boardAnswer is a frame that holds for a log that ends there.
type boardAnswer struct {
	end   int64
	at    time.Time
	frame []byte
}

func newBoardService(calls *callService, events *eventService, f *feed, log *slog.Logger, now func() time.Time) (*boardService, error) {
	answers, err := lru.New[string, *boardAnswer](boardAnswers)
	if err != nil {
		return nil, err
	}
	return &boardService{calls: calls, events: events, feed: f, log: log, now: now, answers: answers, slots: make(chan struct{}, boardReads)}, nil
}

// boardReply is the answer to a request: a frame, and whether the events of a
// call, of all if it is empty, are wanted from now on.
type boardReply struct {
	frame     []byte
	subscribe bool
	call      string
}

// answer answers one message of a client; text tells that it is one.
func (s *boardService) answer(ctx context.Context, message []byte, text bool) boardReply {
	r, ok := decodeBoardRequest(message)
	if !ok || !text {
		return boardReply{frame: frameInvalidMessage}
	}
	var frame []byte
	var err error
	switch r.Event {
	case eventListCalls:
		frame, err = s.listCalls(ctx, &r)
	case eventListCallEvents:
		frame, err = s.listEvents(ctx, &r)
	case eventSubscribe:
		call, err := subscription(&r)
		if err != nil {
			return boardReply{frame: frameFailed(r.Event, err.Error())}
		}
		return boardReply{frame: frameSubscribed, subscribe: true, call: call}
	default:
		return boardReply{frame: frameInvalidEvent}
	}
	if err != nil {
		return boardReply{frame: s.failed(ctx, r.Event, err)}
	}
	return boardReply{frame: frame}
}

// errAsked is a fault of the one who asks; its text is for them.
type errAsked struct{ error }

// failed says why there is no answer, and keeps to itself what is not the
// client's fault.
func (s *boardService) failed(ctx context.Context, event string, err error) []byte {
	if asked := (errAsked{}); errors.As(err, &asked) {
		return frameFailed(event, asked.Error())
	}
	if ctx.Err() == nil {
		s.log.Warn("a board cannot be answered", "event", event, "error", err)
	}
	if errs.KindOf(err) == errs.Unavailable {
		return frameFailed(event, "not available now, try again")
	}
	return frameFailed(event, "an internal error occurred")
}

// subscription reads which call a client subscribes to; empty for all.
func subscription(r *boardRequest) (call string, err error) {
	data, err := r.members()
	if err != nil {
		return "", err
	}
	raw, given := data["call_id"]
	if !given || string(raw) == "null" {
		return "", nil
	}
	call, _, ok := boardValue(raw)
	if !ok || call == "" {
		return "", errors.New("call_id: want a text or a number")
	}
	return call, nil
}

func (s *boardService) listCalls(ctx context.Context, r *boardRequest) ([]byte, error) {
	q, err := s.callQuery(r)
	if err != nil {
		return nil, errAsked{err}
	}
	key := boardKey(r.Data)
	// What was stored before the request is in the answer.
	end, err := s.feed.end(ctx)
	if err != nil {
		return nil, err
	}
	if known, ok := s.answers.Get(key); ok && known.end >= end && s.now().Sub(known.at) < boardAnswerAge {
		return known.frame, nil
	}
	frame, err, _ := s.flights.Do(strconv.FormatInt(end, 10)+" "+key, func() (any, error) {
		frame, err := s.readCalls(ctx, q)
		if err == nil && len(key) <= boardAnswerKey {
			s.answers.Add(key, &boardAnswer{end, s.now(), frame})
		}
		return frame, err
	})
	if err != nil {
		return nil, err
	}
	return frame.([]byte), nil
}

// boardKey is the same for requests that ask for the same.
func boardKey(data json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return ""
	}
	switch b.String() {
	case "null", "{}", `{"params":null}`, `{"params":{}}`, `{"params":[]}`:
		return ""
	}
	return b.String()
}

func (s *boardService) callQuery(r *boardRequest) (q callQuery, err error) {
	data, err := r.members()
	if err != nil {
		return q, err
	}
	page, err := decodeBoardPage(data)
	if err != nil {
		return q, err
	}
	matches, err := decodeBoardParams(data["params"])
	if err != nil {
		return q, err
	}
	q.Limit = page.Limit
	for _, m := range matches {
		if m.CallID != nil {
			index := s.events.callIndex(*m.CallID)
			m.Call = &index
		}
		q.Any = append(q.Any, m.callMatch)
	}
	if page.Cursor != "" {
		place, err := parseBoardCursor(page.Cursor, 2)
		if err != nil {
			return q, err
		}
		q.Before = &callPosition{CreatedAt: store.Micros(place[0]), ID: place[1]}
	}
	return q, nil
}

// read runs a look into the database in its turn. Others may wait for it too,
// so that it goes on when the one who asked has left.
func (s *boardService) read(ctx context.Context, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), boardReadTime)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return look(ctx)
	case <-ctx.Done():
		return errs.New(errs.Unavailable, "too many boards ask at once")
	}
}

func (s *boardService) readCalls(ctx context.Context, q callQuery) (frame []byte, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		page, more, err := s.calls.brief(ctx, q)
		if err != nil {
			return err
		}
		next := ""
		if more && len(page) > 0 {
			last := &page[len(page)-1]
			next = boardCursor(int64(store.MicrosOf(last.CreatedAt)), last.ID)
		}
		frame = frameList(eventListCalls, len(page), next, func(b []byte, i int) []byte { return appendBrief(b, &page[i]) })
		return nil
	})
	return frame, err
}

func (s *boardService) listEvents(ctx context.Context, r *boardRequest) (frame []byte, err error) {
	data, err := r.members()
	if err != nil {
		return nil, errAsked{err}
	}
	call, _, ok := boardValue(data["call_id"])
	if !ok || call == "" {
		return nil, errAsked{errors.New("call_id: want a text or a number")}
	}
	page, err := decodeBoardPage(data)
	if err != nil {
		return nil, errAsked{err}
	}
	index := s.events.callIndex(call)
	q := eventQuery{Call: &index, Limit: page.Limit}
	if page.Cursor != "" {
		place, err := parseBoardCursor(page.Cursor, 1)
		if err != nil {
			return nil, errAsked{err}
		}
		q.After = place[0]
	}
	err = s.read(ctx, func(ctx context.Context) error {
		page, more, err := s.events.find(ctx, q)
		if err != nil {
			return err
		}
		next := ""
		if more && len(page) > 0 {
			next = boardCursor(page[len(page)-1].ID)
		}
		frame = frameList(eventListCallEvents, len(page), next, func(b []byte, i int) []byte { return appendRecorded(b, &page[i]) })
		return nil
	})
	return frame, err
}
