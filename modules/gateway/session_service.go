package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	sessionBatch = 500 // sessions in one transaction

	beatEvery         = 5 * time.Second
	sessionSweepEvery = 15 * time.Second
	// sessionRounds bounds what one sweep removes; the next goes on.
	sessionRounds = 20

	sessionWait  = 10 * time.Second // for one transaction
	sessionPause = 200 * time.Millisecond
)

var errSessionsStopped = errs.New(errs.Unavailable, "the server is stopping")

// sessionService keeps the sessions of this instance's sockets and finds those
// of all. Writes gather while a transaction runs and go into the next one
// together, so that thousands of connects a second cost some dozen commits.
type sessionService struct {
	store    *sessionStore
	keys     *seal.Keyring
	transit  *seal.Transit
	instance string
	window   time.Duration
	keep     time.Duration
	now      func() time.Time
	log      *slog.Logger

	wake chan struct{}

	mu       sync.Mutex
	stopped  bool
	order    []seal.Index // of waiting, each once
	waiting  map[seal.Index]*sessionChange
	inFlight map[seal.Index]*sessionChange // in the transaction that runs
}

// sessionChange is what is to be written of one session.
type sessionChange struct {
	row    *sessionRow // nil: only left
	left   *departure
	leftAt time.Time
	// lasting changes are tried until they succeed; what somebody waits for
	// alone ends with the error that he is told.
	lasting bool
	waiters []chan<- error
}

// sessionConfig is what newSessionService needs.
type sessionConfig struct {
	DB   *store.DB
	Keys *seal.Keyring
	// Transit seals sessions; its scope is "gateway.session". Keep is its
	// retention; sessions of sockets that stay connected are sealed anew in time.
	Transit *seal.Transit
	Keep    time.Duration
	// Instance names this process. It must be new at each start: the sessions of
	// the process before are those of a dead one.
	Instance string
	// Window is how long after the end of a connection its session can be taken up.
	Window time.Duration
	Now    func() time.Time
	Log    *slog.Logger
}

func newSessionService(c sessionConfig) *sessionService {
	return &sessionService{
		store: &sessionStore{c.DB}, keys: c.Keys, transit: c.Transit, instance: c.Instance, window: c.Window, keep: c.Keep,
		now: c.Now, log: c.Log, wake: make(chan struct{}, 1), waiting: map[seal.Index]*sessionChange{}, inFlight: map[seal.Index]*sessionChange{},
	}
}

func (s *sessionService) index(pid string) seal.Index { return s.keys.Index("gateway.session", pid) }

// start makes the instance known. It comes before the first put.
func (s *sessionService) start(ctx context.Context) error {
	if err := s.store.beat(ctx, s.instance, s.now()); err != nil {
		return fmt.Errorf("make the instance known: %w", err)
	}
	return nil
}

// put writes a session of a socket here and returns once it is on disk. If it
// fails, the session may be there or not; leaveLater makes it end.
func (s *sessionService) put(ctx context.Context, sess *session) error {
	row, err := s.rowOf(sess)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	if !s.enqueue(row.PID, &sessionChange{row: row, waiters: []chan<- error{done}}) {
		return errSessionsStopped
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "write a session")
	}
}

// putLater writes a session soon, and tries until it succeeds.
func (s *sessionService) putLater(sess *session) {
	row, err := s.rowOf(sess)
	if err != nil {
		s.log.Warn("a session cannot be sealed", "error", err)
		return
	}
	s.enqueue(row.PID, &sessionChange{row: row, lasting: true})
}

// leaveLater notes soon that a session's socket is gone since now. What a later
// connection has taken up stays as it is.
func (s *sessionService) leaveLater(sess *session) {
	pid := s.index(sess.PID)
	s.enqueue(pid, &sessionChange{left: &departure{pid, sess.Life}, leftAt: s.now(), lasting: true})
}

func (s *sessionService) rowOf(sess *session) (*sessionRow, error) {
	text, err := sess.encode()
	if err != nil {
		return nil, err
	}
	sealed, err := s.transit.Seal(text)
	if err != nil {
		return nil, fmt.Errorf("seal a session: %w", err)
	}
	return &sessionRow{PID: s.index(sess.PID), Life: sess.Life, Sealed: sealed, Since: sess.Since, Instance: s.instance, UpdatedAt: s.now(), LeftAt: sess.LeftAt}, nil
}

// enqueue adds a change to what is written next; false once it is too late.
func (s *sessionService) enqueue(pid seal.Index, c *sessionChange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.add(pid, c)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

func (s *sessionService) add(pid seal.Index, c *sessionChange) {
	if before := s.waiting[pid]; before != nil {
		before.merge(c)
		return
	}
	s.waiting[pid] = c
	s.order = append(s.order, pid)
}

func (c *sessionChange) life() int64 {
	if c.row != nil {
		return c.row.Life
	}
	return c.left.Life
}

// merge adds a later change of the same session.
func (c *sessionChange) merge(later *sessionChange) {
	c.waiters = append(c.waiters, later.waiters...)
	c.lasting = c.lasting || later.lasting
	switch {
	case later.life() < c.life():
	case later.row != nil:
		c.row, c.left = later.row, nil
	case c.row != nil:
		c.row.LeftAt, c.row.UpdatedAt = &later.leftAt, later.leftAt
	default:
		c.left, c.leftAt = later.left, later.leftAt
	}
}

// take makes up the next batch.
func (s *sessionService) take() (rows []sessionRow, left []departure, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.order), sessionBatch)
	for _, pid := range s.order[:n] {
		c := s.waiting[pid]
		delete(s.waiting, pid)
		s.inFlight[pid] = c
		if c.row != nil {
			rows = append(rows, *c.row)
			continue
		}
		left = append(left, *c.left)
		if c.leftAt.After(at) {
			at = c.leftAt
		}
	}
	if s.order = s.order[n:]; len(s.order) == 0 {
		s.order = nil
	}
	return rows, left, at
}

// settle tells how the batch went. What must not be lost waits again, before
// what came after it.
func (s *sessionService) settle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, c := range s.inFlight {
		for _, w := range c.waiters {
			w <- err
		}
		c.waiters = nil
		if err == nil || !c.lasting {
			continue
		}
		if later := s.waiting[pid]; later != nil {
			c.merge(later)
			s.waiting[pid] = c
		} else {
			s.add(pid, c)
		}
	}
	clear(s.inFlight)
}

// run writes, beats and sweeps until ctx ends, and then writes what still waits.
// It ends after the sockets whose ends are to be written.
func (s *sessionService) run(ctx context.Context) error {
	var g sync.WaitGroup
	g.Go(func() { s.beatAll(ctx) })
	g.Go(func() { s.sweepAll(ctx) })
	defer g.Wait()
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return s.drain(ctx)
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = s.write(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("sessions cannot be written; will retry", "error", err)
				select {
				case <-time.After(sessionPause):
				case <-ctx.Done():
				}
			}
		}
	}
}

// write writes one batch, and tells whether more waits.
func (s *sessionService) write(ctx context.Context) (more bool, err error) {
	rows, left, at := s.take()
	if len(rows)+len(left) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionWait)
		defer cancel()
		err = s.store.saveMany(ctx, rows, s.instance, left, at)
		s.settle(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.order) > 0, err
}

// drain takes nothing more and writes the rest; one failure ends it, and who
// waits is told.
func (s *sessionService) drain(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	for more := true; more; {
		var err error
		if more, err = s.write(ctx); err != nil {
			s.mu.Lock()
			for _, c := range s.waiting {
				for _, w := range c.waiters {
					w <- errSessionsStopped
				}
			}
			s.order, s.waiting = nil, map[seal.Index]*sessionChange{}
			s.mu.Unlock()
			s.log.Warn("the last sessions were not written", "error", err)
			return nil
		}
	}
	return nil
}

func (s *sessionService) beatAll(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.store.beat(ctx, s.instance, s.now()); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the others may think that this instance is gone; will retry", "error", err)
		}
	}
}

func (s *sessionService) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sessionSweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "old sessions cannot be removed; will retry", "error", err)
		}
	}
}

// sweep removes what nobody can take up any more, and seals anew what will be
// needed longer than its key.
func (s *sessionService) sweep(ctx context.Context) error {
	now := s.now()
	// First, or an instance that was stopped for long would take itself for dead.
	if err := s.store.beat(ctx, s.instance, now); err != nil {
		return err
	}
	for range sessionRounds {
		// An instance that is only slow to beat must not lose its sessions.
		n, err := s.store.expire(ctx, now.Add(-s.window-2*beatEvery), sessionBatch)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	for range sessionRounds {
		rows, err := s.store.stale(ctx, s.instance, now.Add(-s.keep/2), sessionBatch)
		if err != nil || len(rows) == 0 {
			return err
		}
		for i := range rows {
			// One that cannot be opened any more keeps its old seal: it cannot
			// be recovered, and must not be looked at again and again.
			if plain, err := s.transit.Open(rows[i].Sealed); err == nil {
				if rows[i].Sealed, err = s.transit.Seal(plain); err != nil {
					return err
				}
			}
		}
		if err := s.store.reseal(ctx, rows, now); err != nil {
			return err
		}
	}
	return nil
}

// find gives the session of a pid: one that is connected, here or elsewhere, or
// whose connection ended no longer ago than the window. It is NotFound
// otherwise, and Unavailable when that cannot be known.
func (s *sessionService) find(ctx context.Context, pid string) (*session, error) {
	index := s.index(pid)
	if err := s.written(ctx, index); err != nil {
		return nil, err
	}
	row, err := s.store.find(ctx, index)
	if err != nil {
		return nil, err
	}
	window := s.window
	seen := row.LeftAt
	if seen == nil {
		seen = row.SeenAt
		window += beatEvery // it lived for up to so long after it was seen
	}
	if alive := row.LeftAt == nil && row.Instance == s.instance; !alive && (seen == nil || !recoverable(*seen, s.now(), window)) {
		return nil, errNoSession
	}
	plain, err := s.transit.Open(row.Sealed)
	switch {
	case errors.Is(err, seal.ErrExpired):
		return nil, errNoSession
	case err != nil:
		return nil, fmt.Errorf("open a session: %w", err)
	}
	out := &session{PID: pid, Since: row.Since, Instance: row.Instance, Life: row.Life, UpdatedAt: row.UpdatedAt, LeftAt: row.LeftAt}
	if err := out.decode(plain); err != nil {
		return nil, err
	}
	return out, nil
}

// written waits until what is on its way to the database is there, so that one
// who comes back at once finds what he left.
func (s *sessionService) written(ctx context.Context, pid seal.Index) error {
	s.mu.Lock()
	c := s.waiting[pid]
	if c == nil {
		c = s.inFlight[pid]
	}
	if c == nil {
		s.mu.Unlock()
		return nil
	}
	done := make(chan error, 1)
	c.waiters = append(c.waiters, done)
	s.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "read a session")
	}
}
