package crm

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"switchboard/platform/breaker"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

// statusService tells how far the CRM is behind, and why.
type statusService struct {
	cfg       *Config
	store     *statusStore
	sources   *sources
	bus       *bus.Bus
	breaker   *breaker.Breaker
	backfills *backfillService
	calls     func() []callCount
	metrics   *metrics
	log       *slog.Logger
	now       func() time.Time
}

// callCount is how many calls had a result.
type callCount struct {
	kind, call, result string
	n                  int64
}

// States of the integration.
const (
	stateInStep  = "in_step"
	stateBehind  = "behind"
	stateFailing = "failing"
)

// integration is how everything is.
type integration struct {
	state     string
	reasons   []string
	address   string
	breaker   breaker.State
	until     time.Time // of the breaker; zero if that is closed
	calls     []callCount
	sources   []sourceStatus
	unfolded  *uint64 // messages on the bus; nil if it does not tell
	positions []position
	users     int64
	trips     int64
	backlog   backlog
	dead      map[string]int64
	backfill  backfill
}

// maxPositions bounds how many logs are shown.
const maxPositions = 1000

// look gives the state of everything. It looks along the way of events, so that
// none slips by unseen.
func (s *statusService) look(ctx context.Context) (*integration, error) {
	out := &integration{address: addressOf(s.cfg.URL), sources: s.sources.status(), backfill: s.backfills.state()}
	_, left, err := s.bus.ConsumerState(ctx, streamEvents, consumerFold)
	switch {
	case err == nil:
		out.unfolded = &left
	case errs.KindOf(err) == errs.NotFound: // nothing came yet
		out.unfolded = new(uint64)
	default:
		out.failing("the bus does not answer")
	}
	if out.positions, err = s.store.positions(ctx, maxPositions); err != nil {
		return nil, fmt.Errorf("read positions: %w", err)
	}
	if out.users, out.trips, err = s.store.totals(ctx); err != nil {
		return nil, fmt.Errorf("count users and trips: %w", err)
	}
	if out.backlog, err = s.store.backlog(ctx); err != nil {
		return nil, fmt.Errorf("count what is dirty: %w", err)
	}
	if out.dead, err = s.store.dead(ctx); err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	if out.breaker, out.until = s.breaker.State(); out.breaker == breaker.Closed {
		out.until = time.Time{}
	}
	out.calls = s.calls()
	out.judge()
	return out, nil
}

// addressOf is the address of the CRM without a credential.
func addressOf(text string) string {
	if text == "" {
		return "mock"
	}
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func (i *integration) failing(reason string) {
	i.state, i.reasons = stateFailing, append(i.reasons, reason)
}

func (i *integration) behind(reason string) {
	if i.state != stateFailing {
		i.state = stateBehind
	}
	i.reasons = append(i.reasons, reason)
}

// judge sums it up.
func (i *integration) judge() {
	switch i.breaker {
	case breaker.Open, breaker.HalfOpen:
		i.failing("the CRM fails")
	case breaker.Unauthorized:
		i.failing("the CRM does not accept the token (crm.token)")
	case breaker.Throttled:
		i.behind("the CRM asked for a pause")
	}
	for _, s := range i.sources {
		if s.State == sourceFailing {
			i.failing(s.Source + ": " + s.Reason)
		} else if lag := lagOf(&s); lag > 0 {
			i.behind(fmt.Sprintf("%s: %d events are not read yet", s.Source, lag))
		}
	}
	if i.unfolded != nil && *i.unfolded > 0 {
		i.behind("events on the bus are not folded yet")
	}
	if i.backlog.units > 0 {
		i.behind(fmt.Sprintf("%d users and trips are on their way", i.backlog.objects-i.backlog.waiting))
	}
	if i.backfill.running() {
		i.behind("a backfill runs")
	}
	if i.state == "" {
		i.state = stateInStep
	}
}

func lagOf(s *sourceStatus) (lag int64) {
	for _, p := range s.Partitions {
		lag += p.Lag
	}
	return lag
}

const (
	// gaugeEvery is the time between two looks for the metrics.
	gaugeEvery = 5 * time.Second
	// gaugeShare bounds the share of the time that these looks take: 1 in so many.
	gaugeShare = 20
)

// run keeps the gauges fresh until ctx ends.
func (s *statusService) run(ctx context.Context) error {
	failing := false
	for {
		begin := time.Now()
		err := s.refresh(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.WarnContext(ctx, "what the CRM does not show yet is not counted; trying again", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(gaugeEvery, gaugeShare*time.Since(begin))):
		}
	}
}

func (s *statusService) refresh(ctx context.Context) error {
	for _, source := range s.sources.status() {
		s.metrics.lag.WithLabelValues(source.Source).Set(float64(lagOf(&source)))
	}
	b, err := s.store.backlog(ctx)
	if err != nil {
		return err
	}
	dead, err := s.store.dead(ctx)
	if err != nil {
		return err
	}
	s.metrics.dirty.WithLabelValues("units").Set(float64(b.units))
	s.metrics.dirty.WithLabelValues("objects").Set(float64(b.objects - b.waiting))
	s.metrics.dirty.WithLabelValues("waiting").Set(float64(b.waiting))
	age := 0.0
	if b.oldest > 0 {
		age = max(0, s.now().Sub(b.oldest.Time()).Seconds())
	}
	s.metrics.oldest.Set(age)
	s.metrics.dead.Set(float64(dead[deadEvent] + dead[deadUser] + dead[deadTrip]))
	return nil
}
