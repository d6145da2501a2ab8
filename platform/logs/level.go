package logs

import (
	"log/slog"
	"strings"

	"switchboard/platform/errs"
)

// levels is the least level of each module and of everything else.
type levels struct {
	rest    slog.Level
	modules map[string]slog.Level
}

func (l *levels) of(module string) slog.Level {
	if level, ok := l.modules[module]; ok {
		return level
	}
	return l.rest
}

// parseLevels reads "info,collector=debug"; the empty text means info.
func parseLevels(text string) (*levels, error) {
	l := &levels{rest: slog.LevelInfo, modules: map[string]slog.Level{}}
	rest := false
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		module, name, ok := strings.Cut(part, "=")
		if !ok {
			module, name = "", part
		}
		module, name = strings.TrimSpace(module), strings.TrimSpace(name)
		level, err := parseLevel(name)
		_, twice := l.modules[module]
		switch {
		case err != nil:
			return nil, err
		case ok && module == "":
			return nil, invalid("level", "%q names no module", part)
		case twice, !ok && rest:
			return nil, invalid("level", "%q comes after another level for the same", part)
		case ok:
			l.modules[module] = level
		default:
			l.rest, rest = level, true
		}
	}
	return l, nil
}

func parseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, invalid("level", "%q is not debug, info, warn or error", name)
}

// invalid blames a key of Config, so that config.Load can name its origin.
func invalid(key, format string, args ...any) error {
	err := errs.New(errs.Invalid, format, args...)
	return errs.InvalidFields("log "+key+": "+err.Error(), errs.Field{Location: key, Message: err.Error()})
}
