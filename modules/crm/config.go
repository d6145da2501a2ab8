package crm

import (
	"fmt"
	"net/url"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/eventlog"
)

// Config holds the settings of crm.
type Config struct {
	URL         string          `key:"url" doc:"Address of the CRM, below which /users and /trips lie; without it the mock in this process, which forgets everything at a stop."`
	Token       config.Secret   `doc:"Bearer token for it."`
	Timeout     time.Duration   `default:"10s" doc:"How long the CRM may take to answer. After a call that took longer, its user is left alone for as long again: the call may still have its effect."`
	Concurrency int             `default:"32" doc:"Most requests to the CRM at once, by this instance."`
	Rate        float64         `default:"0" doc:"Most requests to the CRM per second, by all instances together; 0 is no limit."`
	RetryMin    time.Duration   `default:"500ms" doc:"Pause before the second attempt; it doubles."`
	RetryMax    time.Duration   `default:"1m" doc:"Longest pause between two attempts."`
	AskFirst    bool            `default:"false" doc:"Ask for an object before it is created for the first time: for a CRM that takes an id twice and already holds objects of which this server does not know."`
	KafkaGroup  string          `default:"switchboard-crm" doc:"Consumer group under which events are read from Kafka, where kafka_brokers is set."`
	NATSSource  bool            `key:"nats_source" default:"true" doc:"Take events that are published on the bus, on maas.internal_user_updated and maas.internal_booking_updated."`
	Log         eventlog.Config `doc:"Where everything that happens to users and trips is logged."`
}

// Validate explains what makes no sense.
func (c *Config) Validate() error {
	if c.URL != "" {
		if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("crm.url is not an http or https address")
		}
	}
	switch {
	case c.Timeout < 10*time.Millisecond:
		return fmt.Errorf("crm.timeout is below 10ms")
	case c.Concurrency < 1 || c.Concurrency > 1024:
		return fmt.Errorf("crm.concurrency is not between 1 and 1024")
	case c.Rate < 0:
		return fmt.Errorf("crm.rate is negative")
	case c.RetryMin < time.Millisecond || c.RetryMax < c.RetryMin:
		return fmt.Errorf("crm.retry_min and crm.retry_max: want 1ms <= retry_min <= retry_max")
	case c.KafkaGroup == "":
		return fmt.Errorf("crm.kafka_group is empty")
	}
	if err := c.Log.Validate(); err != nil {
		return fmt.Errorf("crm.%w", err)
	}
	return nil
}
