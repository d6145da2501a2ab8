package logs

// Config is how to log.
type Config struct {
	Format string `flag:"log-format" enum:"text,json" doc:"Form of the log; empty means text on a terminal and json elsewhere."`
	Level  string `flag:"log-level" default:"info" doc:"Least level written: debug, info, warn or error; for single modules as in info,collector=debug."`
}

// Validate reports what New would refuse.
func (c Config) Validate() error {
	if _, err := parseLevels(c.Level); err != nil {
		return err
	}
	switch c.Format {
	case "", formatText, formatJSON:
		return nil
	}
	return invalid("format", "%q is not text or json", c.Format)
}

const (
	formatText = "text"
	formatJSON = "json"
)
