package logs

import (
	"context"
	"io"
	"log/slog"
	"os"
)

// New makes a logger that writes to w, one Write for each record, safe for use
// by many goroutines. On a terminal the text has the time of day and, unless
// NO_COLOR is set, colours; elsewhere it has date and time. JSON has time in
// UTC, level, msg, module and the attributes. The error is errs.Invalid.
func New(w io.Writer, cfg Config, terminal bool) (*slog.Logger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l, err := parseLevels(cfg.Level)
	if err != nil {
		return nil, err
	}
	var out slog.Handler
	if cfg.Format == formatText || cfg.Format == "" && terminal {
		out = newTextHandler(w, terminal, terminal && os.Getenv("NO_COLOR") == "")
	} else {
		// The levels are checked before a record gets there.
		out = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.Level(-1 << 31)})
	}
	_, text := out.(*textHandler)
	return slog.New(&handler{base: out, out: out, levels: l, min: l.rest, utc: !text}), nil
}

// For gives the logger of a module: it adds module=… at the top, even below
// WithGroup, and applies the module's level. A second For replaces the first.
// On a logger not made by New it only adds the attribute.
func For(log *slog.Logger, module string) *slog.Logger {
	h, ok := log.Handler().(*handler)
	if !ok {
		return log.With(moduleKey, module)
	}
	return slog.New(h.forModule(module))
}

const moduleKey = "module"

// handler redacts, applies the level and hands on to the handler that writes.
type handler struct {
	base   slog.Handler // without module, attributes and groups
	out    slog.Handler // base with all of them
	ops    []op         // what With and WithGroup added, to be repeated on a new module
	levels *levels
	min    slog.Level
	utc    bool
}

// op is one With (group empty) or WithGroup.
type op struct {
	attrs []slog.Attr
	group string
}

func (o op) apply(h slog.Handler) slog.Handler {
	if o.group != "" {
		return h.WithGroup(o.group)
	}
	return h.WithAttrs(o.attrs)
}

func (h *handler) forModule(module string) *handler {
	c := *h
	c.min = h.levels.of(module)
	c.out = h.base.WithAttrs([]slog.Attr{slog.String(moduleKey, module)})
	for _, o := range h.ops {
		c.out = o.apply(c.out)
	}
	return &c
}

func (h *handler) with(o op) *handler {
	c := *h
	c.ops = append(h.ops[:len(h.ops):len(h.ops)], o)
	c.out = o.apply(h.out)
	return &c
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.min }

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(op{group: name})
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	return h.with(op{attrs: redactAttrs(attrs)})
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if h.utc && !r.Time.IsZero() {
		r.Time = r.Time.UTC()
	}
	touched := false
	r.Attrs(func(a slog.Attr) bool {
		touched = !plain(a.Value)
		return !touched
	})
	if touched {
		c := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		r.Attrs(func(a slog.Attr) bool {
			c.AddAttrs(redactAttr(a))
			return true
		})
		r = c
	}
	return h.out.Handle(ctx, r)
}
