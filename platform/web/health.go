package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"switchboard/platform/errs"
)

// ErrStarting is what a health check answers while its module still starts;
// it may be wrapped.
var ErrStarting = errs.New(errs.Unavailable, "starting")

// States of a module and of the whole, as /readyz tells them.
const (
	stateReady    = "ready"
	stateStarting = "starting"
	stateStopping = "stopping"
	stateUnready  = "unready"
)

// checkTimeout bounds each health check. One that takes longer counts as
// unready, and is not asked again before it has come back.
const checkTimeout = 2 * time.Second

// Readiness is the body of /readyz.
type Readiness struct {
	Status  string                 `json:"status" enum:"ready,starting,stopping,unready" doc:"ready is answered with 200, all else with 503."`
	Modules map[string]ModuleState `json:"modules"`
}

// ModuleState is the state of one module.
type ModuleState struct {
	State  string `json:"state" enum:"ready,starting,stopping,unready"`
	Reason string `json:"reason" doc:"Why it is not ready."`
}

type health struct {
	log     *slog.Logger
	serving atomic.Bool
	flight  singleflight.Group // many who ask at once cost one check

	mu     sync.Mutex
	checks map[string]*check
}

type check struct {
	fn   func(context.Context) error
	busy atomic.Bool
	last string
}

// Health adds a check to /readyz: nil means ready, ErrStarting that it is
// under way, any other error that it is not ready. A reason is shown to
// everyone, but only if the error has a kind of platform/errs. fn gets a
// context of two seconds and is called by one goroutine at a time.
func (s *Server) Health(name string, fn func(context.Context) error) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if s.health.checks == nil {
		s.health.checks = map[string]*check{}
	}
	s.health.checks[name] = &check{fn: fn}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	state := s.Ready()
	w.Header()["Cache-Control"] = headerNoStore
	status := http.StatusOK
	if state.Status != stateReady {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	WriteJSON(w, status, state)
}

// Ready runs every health check and sums them up.
func (s *Server) Ready() Readiness {
	v, _, _ := s.health.flight.Do("", func() (any, error) { return s.health.ask(), nil })
	state := v.(Readiness)
	if s.stopping.Err() != nil {
		modules := make(map[string]ModuleState, len(state.Modules))
		for name := range state.Modules {
			modules[name] = ModuleState{State: stateStopping}
		}
		return Readiness{Status: stateStopping, Modules: modules}
	}
	return state
}

func (h *health) ask() Readiness {
	h.mu.Lock()
	checks := make(map[string]*check, len(h.checks))
	for name, c := range h.checks {
		checks[name] = c
	}
	h.mu.Unlock()

	var wg sync.WaitGroup
	var mu sync.Mutex
	all := Readiness{Status: stateReady, Modules: make(map[string]ModuleState, len(checks))}
	for name, c := range checks {
		wg.Go(func() {
			m := h.one(name, c)
			mu.Lock()
			defer mu.Unlock()
			all.Modules[name] = m
		})
	}
	wg.Wait()
	for _, m := range all.Modules {
		switch {
		case m.State == stateUnready:
			all.Status = stateUnready
		case m.State == stateStarting && all.Status == stateReady:
			all.Status = stateStarting
		}
	}
	if all.Status == stateReady && !h.serving.Load() {
		all.Status = stateStarting
	}
	return all
}

var errNoAnswer = errs.New(errs.Unavailable, "the check does not answer")

// one runs one check and logs when its state has changed.
func (h *health) one(name string, c *check) ModuleState {
	m := ModuleState{State: stateReady}
	err := c.run()
	if err != nil {
		m.State, m.Reason = stateUnready, publicText(err)
		if errors.Is(err, ErrStarting) {
			m.State = stateStarting
		}
		if m.Reason == "" {
			m.Reason = "internal error"
		}
	}
	h.mu.Lock()
	changed := c.last != "" && c.last != m.State || c.last == "" && m.State == stateUnready
	c.last = m.State
	h.mu.Unlock()
	if changed && err == nil {
		h.log.Info("module is ready", "name", name)
	} else if changed {
		h.log.Warn("module is not ready", "name", name, "state", m.State, "error", err)
	}
	return m
}

func (c *check) run() error {
	if !c.busy.CompareAndSwap(false, true) {
		return errNoAnswer
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		defer c.busy.Store(false)
		defer func() {
			if v := recover(); v != nil {
				done <- errors.New("the health check panicked")
			}
		}()
		done <- c.fn(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select { // it may have answered in the last moment
		case err := <-done:
			return err
		default:
			return errNoAnswer
		}
	}
}
