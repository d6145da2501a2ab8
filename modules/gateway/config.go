package gateway

import (
	"fmt"
	"slices"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/eventlog"
)

// Config holds the settings of the gateway.
type Config struct {
	Public       bool            `default:"false" doc:"Let sockets connect without a credential; they may join every room."`
	Origins      []string        `default:"" doc:"Origins whose pages may connect sockets, such as https://shop.example. Empty is all: the credential decides, and a key may be bound to origins of its own."`
	PingInterval time.Duration   `default:"25s" doc:"How often a socket is asked whether it is there."`
	PingTimeout  time.Duration   `default:"20s" doc:"How long it may take to answer."`
	MaxSockets   int             `default:"50000" doc:"Most sockets connected to this instance; further ones get 503."`
	MaxPayload   config.Bytes    `default:"1000000" doc:"Largest packet that a socket may send."`
	MaxQueue     config.Bytes    `default:"4MiB" doc:"Bytes that may wait for one socket; one that falls further behind is disconnected as a slow consumer."`
	WriteTimeout time.Duration   `default:"10s" doc:"How long a socket may take nothing of what waits for it before it is disconnected."`
	MaxRooms     int             `default:"100" doc:"Most rooms that one socket is in."`
	JoinRate     float64         `default:"20" doc:"Joins and leaves per second that one socket may ask for, five times as many at once."`
	Recovery     time.Duration   `default:"2m" doc:"How long after a lost connection a socket gets its rooms back and what it missed; 0 switches recovery off."`
	History      config.Bytes    `default:"64MiB" doc:"Memory for the events of that time."`
	MaxTokenTTL  time.Duration   `default:"720h" doc:"Longest life of a token for browsers."`
	Log          eventlog.Config `doc:"Where every emit and every delivery is logged."`
}

// Validate explains what makes no sense.
func (c *Config) Validate() error {
	switch {
	case c.PingInterval < 100*time.Millisecond || c.PingTimeout < 100*time.Millisecond:
		return fmt.Errorf("gateway.ping_interval and gateway.ping_timeout are at least 100ms")
	case c.MaxSockets < 1:
		return fmt.Errorf("gateway.max_sockets is below 1")
	case c.MaxPayload < 1<<10 || c.MaxPayload > 64<<20:
		return fmt.Errorf("gateway.max_payload is not between 1KiB and 64MiB")
	case c.MaxQueue < maxData+16<<10:
		return fmt.Errorf("gateway.max_queue is below the largest event, %d bytes", maxData+16<<10)
	case c.WriteTimeout < 100*time.Millisecond:
		return fmt.Errorf("gateway.write_timeout is below 100ms")
	case c.MaxRooms < 1 || c.MaxRooms > 10_000:
		return fmt.Errorf("gateway.max_rooms is not between 1 and 10000")
	case c.JoinRate <= 0:
		return fmt.Errorf("gateway.join_rate is not above 0")
	case c.Recovery < 0 || c.Recovery > time.Hour:
		return fmt.Errorf("gateway.recovery is not between 0 and 1h")
	case c.History < 1<<20:
		return fmt.Errorf("gateway.history is below 1MiB")
	case c.MaxTokenTTL < time.Minute:
		return fmt.Errorf("gateway.max_token_ttl is below 1m")
	}
	if err := c.Log.Validate(); err != nil {
		return fmt.Errorf("gateway.%w", err)
	}
	return nil
}

// keep is for how long events are kept for recovery: a lost connection is
// noticed late, and what was on its way then is missed too.
func (c *Config) keep() time.Duration { return c.Recovery + c.PingInterval + c.PingTimeout }

// allowsOrigin tells whether a page of this origin may connect; "" is no page.
func (c *Config) allowsOrigin(origin string) bool {
	return origin == "" || len(c.Origins) == 0 || slices.Contains(c.Origins, origin)
}
