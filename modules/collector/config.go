package collector

import (
	"fmt"
	"time"

	"switchboard/platform/config"
)

// Config holds the settings of the collector.
type Config struct {
	Strict          bool          `default:"false" doc:"Refuse events whose category and name have no schema."`
	FutureTolerance time.Duration `default:"5m" doc:"How far in the future an event's timestamp may lie."`
	Retention       time.Duration `default:"8760h" doc:"How long events and sessions are kept after they arrived; 0 keeps them for ever."`
	RejectRetention time.Duration `default:"720h" doc:"How long refused events are kept; their key is destroyed afterwards."`
	MaxRejects      int64         `default:"1000000" doc:"How many refused events are kept at most; the oldest go first."`
	QueueBytes      config.Bytes  `default:"4GiB" doc:"How much room accepted events may take on the bus until they are stored; when it is full, new ones get 503."`
	Workers         int           `default:"2" doc:"How many batches of events are prepared for storing at the same time."`
}

// Validate explains what makes no sense.
func (c *Config) Validate() error {
	switch {
	case c.FutureTolerance < 0:
		return fmt.Errorf("collector.future_tolerance is negative")
	case c.Retention < 0:
		return fmt.Errorf("collector.retention is negative")
	case c.RejectRetention < time.Hour:
		return fmt.Errorf("collector.reject_retention is below 1h")
	case c.Workers < 1 || c.Workers > 64:
		return fmt.Errorf("collector.workers is not between 1 and 64")
	case c.QueueBytes < 1<<20:
		return fmt.Errorf("collector.queue_bytes is below 1 MiB")
	case c.MaxRejects < 1:
		return fmt.Errorf("collector.max_rejects is below 1")
	}
	return nil
}
