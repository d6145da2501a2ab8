package crm

import (
	"context"
	"net/http"
	"time"

	"switchboard/platform/web"
)

// statusHTTP serves
//
//	GET /crm/integration/status  how far the CRM is behind, and why
type statusHTTP struct{ desk *statusService }

func (h *statusHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "crm-get-status", Method: http.MethodGet, Path: "/crm/integration/status", Tag: tag,
		Summary: "Tell how far the CRM is behind, and why",
		Description: "`in_step`: all that came is at the CRM. `behind`: something is on its way. `failing`: a source, the bus or the CRM does not work; nothing is lost. " +
			"Dead letters, and trips whose user has not come yet, do not count.",
		Scope: "crm:read", Errors: []int{503}}, h.status)
}

// IntegrationStatus is the state of everything between the sources and the CRM.
type IntegrationStatus struct {
	State       string           `json:"state" enum:"in_step,behind,failing"`
	Reasons     []string         `json:"reasons" nullable:"false" doc:"Why it is behind or fails."`
	CRM         CRMState         `json:"crm"`
	Sources     []SourceState    `json:"sources" nullable:"false" doc:"Where events come from, as of a few seconds ago."`
	Unfolded    *uint64          `json:"bus_messages,omitempty" doc:"Messages on the bus, of many events each, that are not folded yet; absent if the bus does not tell."`
	Positions   []LogPosition    `json:"positions" nullable:"false" doc:"How far each log was read. At most 1,000."`
	Users       int64            `json:"users" doc:"Users of whom an event came."`
	Trips       int64            `json:"trips" doc:"Trips of which an event came."`
	Dirty       DirtyState       `json:"dirty"`
	DeadLetters DeadLetterCounts `json:"dead_letters"`
	Backfill    *Backfill        `json:"backfill,omitempty" doc:"The last one of this process."`
}

// CRMState is how the CRM answers.
type CRMState struct {
	Address string     `json:"address" example:"https://crm.example/api" doc:"mock: the one in this process."`
	Breaker string     `json:"breaker" enum:"closed,half_open,open,throttled,unauthorized" doc:"closed: calls go. half_open: one call is tried. open: the CRM fails, and is left alone. throttled: it asked for that. unauthorized: it does not accept the token."`
	Until   *web.Time  `json:"until,omitempty" doc:"When the next call is tried, if the breaker is not closed."`
	Calls   []CRMCalls `json:"calls" nullable:"false" doc:"Calls of this process so far."`
}

// CRMCalls are the calls to the CRM that had a result.
type CRMCalls struct {
	Kind   string `json:"kind" enum:"user,trip"`
	Call   string `json:"call" enum:"create,replace,list"`
	Result string `json:"result" enum:"done,not_found,conflict,refused,unauthorized,throttled,unsent,failed,timeout"`
	Count  int64  `json:"count"`
}

// SourceState is how a source is.
type SourceState struct {
	Source     string           `json:"source" enum:"kafka,nats"`
	State      string           `json:"state" enum:"reading,waiting,failing"`
	Reason     string           `json:"reason,omitempty"`
	Lag        int64            `json:"lag" doc:"Events there that are not on the bus yet."`
	Partitions []PartitionState `json:"partitions" nullable:"false"`
}

// PartitionState is how far a partition was read.
type PartitionState struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Position  int64     `json:"position" doc:"The place of the next event."`
	End       int64     `json:"end" doc:"The place of the next one to come."`
	Lag       int64     `json:"lag"`
	At        *web.Time `json:"at,omitempty" doc:"Of the last event."`
}

// LogPosition is how far a log was folded.
type LogPosition struct {
	Log      string   `json:"log" doc:"The source, and the sequence there."`
	Events   int64    `json:"events" doc:"Events that came of it, those that came again included."`
	Seq      int64    `json:"seq" doc:"The place of the newest."`
	At       web.Time `json:"at" doc:"Of the newest event."`
	FoldedAt web.Time `json:"folded_at" doc:"When the last one was folded."`
}

// DirtyState is what the CRM does not show yet.
type DirtyState struct {
	Units         int64     `json:"units" doc:"Users, each with trips, that have to be sent."`
	Objects       int64     `json:"objects" doc:"Users and trips that have to be sent."`
	Waiting       int64     `json:"waiting" doc:"Trips whose user has not come yet."`
	OldestAt      *web.Time `json:"oldest_at,omitempty" doc:"Since when the oldest of the objects is to be sent."`
	OldestSeconds float64   `json:"oldest_seconds"`
}

// DeadLetterCounts are dead letters by their kind.
type DeadLetterCounts struct {
	Events int64 `json:"events"`
	Users  int64 `json:"users"`
	Trips  int64 `json:"trips"`
}

func (h *statusHTTP) status(ctx context.Context, _ *struct{}) (*struct{ Body IntegrationStatus }, error) {
	i, err := h.desk.look(ctx)
	if err != nil {
		return nil, err
	}
	return &struct{ Body IntegrationStatus }{i.show(h.desk.now())}, nil
}

func (i *integration) show(now time.Time) IntegrationStatus {
	out := IntegrationStatus{State: i.state, Reasons: append([]string{}, i.reasons...), Unfolded: i.unfolded, Users: i.users, Trips: i.trips, Backfill: i.backfill.show(),
		CRM:         CRMState{Address: i.address, Breaker: i.breaker.String(), Until: timeOrNil(i.until), Calls: make([]CRMCalls, len(i.calls))},
		Sources:     make([]SourceState, len(i.sources)),
		Positions:   make([]LogPosition, len(i.positions)),
		Dirty:       DirtyState{Units: i.backlog.units, Objects: i.backlog.objects - i.backlog.waiting, Waiting: i.backlog.waiting},
		DeadLetters: DeadLetterCounts{i.dead[deadEvent], i.dead[deadUser], i.dead[deadTrip]}}
	if i.backlog.oldest > 0 {
		out.Dirty.OldestAt = timeOrNil(i.backlog.oldest.Time())
		out.Dirty.OldestSeconds = max(0, now.Sub(i.backlog.oldest.Time()).Seconds())
	}
	for n, c := range i.calls {
		out.CRM.Calls[n] = CRMCalls{c.kind, c.call, c.result, c.n}
	}
	for n, s := range i.sources {
		out.Sources[n] = SourceState{s.Source, s.State, s.Reason, lagOf(&s), make([]PartitionState, len(s.Partitions))}
		for m, p := range s.Partitions {
			out.Sources[n].Partitions[m] = PartitionState{p.Topic, p.Partition, p.Position, p.End, p.Lag, timeOrNil(p.At)}
		}
	}
	for n, p := range i.positions {
		out.Positions[n] = LogPosition{p.Log, p.Events, p.Seq, web.Time(p.At.Time()), web.Time(p.FoldedAt.Time())}
	}
	return out
}
