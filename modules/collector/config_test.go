package collector

import (
	"strings"
	"testing"
	"time"
)

func TestSettingsWithoutSenseAreExplained(t *testing.T) {
	t.Parallel()
	good := Config{FutureTolerance: time.Minute, Retention: time.Hour, RejectRetention: time.Hour, MaxRejects: 1, QueueBytes: 1 << 20, Workers: 1}
	for name, change := range map[string]func(*Config){
		"":                           func(*Config) {},
		"collector.future_tolerance": func(c *Config) { c.FutureTolerance = -1 },
		"collector.retention":        func(c *Config) { c.Retention = -1 },
		"collector.reject_retention": func(c *Config) { c.RejectRetention = time.Minute },
		"collector.max_rejects":      func(c *Config) { c.MaxRejects = 0 },
		"collector.queue_bytes":      func(c *Config) { c.QueueBytes = 1000 },
		"collector.workers":          func(c *Config) { c.Workers = 65 },
	} {
		c := good
		change(&c)
		if err := c.Validate(); (err == nil) != (name == "") || err != nil && !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
