package mailing

import (
	"fmt"
	"net/url"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/eventlog"
)

// Config holds the settings of mailing.
type Config struct {
	SenderURL      string          `key:"sender_url" default:"http://127.0.0.1:8090" doc:"Address of the message provider, below which /send/{id} lies. 'app probe' plays one at the default address."`
	SenderToken    config.Secret   `key:"sender_token" default:"probe" doc:"Bearer token for it."`
	SenderTimeout  time.Duration   `default:"10s" doc:"How long the provider may take to answer."`
	Concurrency    int             `default:"64" doc:"Most requests to the provider at once, by this instance."`
	Workers        int             `default:"48" doc:"How many batches are in work at once, so that some that hang do not keep others waiting."`
	Batch          int             `default:"100" doc:"Most messages that are handed to a worker together."`
	Rate           float64         `default:"0" doc:"Most messages per second, by all instances together; 0 is no limit."`
	MaxInFlight    int             `default:"4000" doc:"Most messages that are in the hands of workers, of all instances."`
	RetryMin       time.Duration   `default:"1s" doc:"Pause before the second attempt; it doubles."`
	RetryMax       time.Duration   `default:"1m" doc:"Longest pause between two attempts."`
	Linger         time.Duration   `default:"5s" doc:"How long a campaign of which every message is final still waits for new clients before it is finished."`
	ReportTo       []string        `doc:"Who gets the daily report by e-mail; nobody if empty."`
	ReportFrom     string          `doc:"Sender of the daily report; without it the user at the mail server, if that is an address."`
	ReportAt       string          `default:"08:00" doc:"When the report of the day before is sent, hours and minutes of the time zone."`
	ReportTimeZone string          `default:"UTC" doc:"Time zone of days in the report."`
	Log            eventlog.Config `doc:"Where everything that happens to campaigns, messages and clients is logged."`
}

// Validate explains what makes no sense.
func (c *Config) Validate() error {
	switch u, err := url.Parse(c.SenderURL); {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("mailing.sender_url is not an http or https address")
	case c.SenderTimeout < 10*time.Millisecond:
		return fmt.Errorf("mailing.sender_timeout is below 10ms")
	case c.Workers < 1 || c.Workers > 256:
		return fmt.Errorf("mailing.workers is not between 1 and 256")
	case c.Concurrency < 1 || c.Concurrency > 4096:
		return fmt.Errorf("mailing.concurrency is not between 1 and 4096")
	case c.Rate < 0:
		return fmt.Errorf("mailing.rate is negative")
	case c.Batch < 1 || c.Batch > 1000:
		return fmt.Errorf("mailing.batch is not between 1 and 1000")
	case c.MaxInFlight < c.Batch:
		return fmt.Errorf("mailing.max_in_flight is below mailing.batch")
	case c.RetryMin < time.Millisecond || c.RetryMax < c.RetryMin:
		return fmt.Errorf("mailing.retry_min and mailing.retry_max: want 1ms <= retry_min <= retry_max")
	case c.Linger < 0:
		return fmt.Errorf("mailing.linger is negative")
	}
	if err := c.Log.Validate(); err != nil {
		return fmt.Errorf("mailing.%w", err)
	}
	return nil
}
