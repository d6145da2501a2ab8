package eventlog

import (
	"context"
	"log/slog"

	"switchboard/platform/logs"
)

// slogStrategy writes one record for each line to the product's log. The text,
// the ids of refs and the data are personal to it, hence redacted.
type slogStrategy struct {
	log    *slog.Logger
	module string
	ready  *slog.Logger
}

func (s *slogStrategy) write(ctx context.Context, batch []*record) (int, error) {
	if s.ready == nil {
		s.ready = logs.For(s.log, s.module)
	}
	h := s.ready.Handler()
	if !h.Enabled(ctx, slog.LevelInfo) {
		return len(batch), nil
	}
	for i, r := range batch {
		line := slog.NewRecord(r.Time, slog.LevelInfo, r.Event, 0)
		line.AddAttrs(slog.String("entry", r.ID), slog.Any("text", logs.Personal(r.Text)))
		for _, ref := range r.Refs {
			line.AddAttrs(slog.Any(ref.Kind, logs.Personal(ref.ID)))
		}
		if len(r.Data) > 0 {
			line.AddAttrs(slog.Any("data", logs.Personal(r.Data)))
		}
		if err := h.Handle(ctx, line); err != nil {
			return i, err
		}
		kind := r.TargetKind
		if kind == "" {
			kind = "target"
		}
		for _, target := range r.Targets {
			line := slog.NewRecord(r.Time, slog.LevelInfo, r.Event, 0)
			line.AddAttrs(slog.String("entry", r.ID), slog.String("sent_to", kind), slog.String("target", target))
			if err := h.Handle(ctx, line); err != nil {
				return i, err
			}
		}
	}
	return len(batch), nil
}

func (s *slogStrategy) close() {}
