package bus

import (
	"fmt"
	"net"
	"strings"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// Config says where the bus is. The zero value of each field means its default.
type Config struct {
	// URL of an external NATS server with JetStream; empty starts the embedded one.
	URL string `key:"-"` // the host binds it as the top-level key nats_url
	// Listen opens the embedded server to other processes. It asks for no
	// credential, so the address should stay on loopback or a private network.
	Listen string `key:"listen" flag:"bus-listen" doc:"Address on which the embedded server takes other processes as clients, such as 127.0.0.1:4222; without a host it is loopback. It asks for no credential: never expose it. Empty opens no port."`
	// Dir holds the embedded server's streams and the ledger.
	Dir string `key:"-"`
	// Sync is "always" (an acknowledged message is on disk) or a duration.
	Sync string `key:"sync" default:"always" doc:"When the embedded server writes through to the disk: 'always' before each acknowledgement, or an interval such as 1s: then a power cut loses what was acknowledged within it."`
	// MaxStore bounds the sum of the MaxBytes of all streams.
	MaxStore config.Bytes `key:"max_store" default:"64GiB" doc:"Most disk space that the embedded server's streams together may reserve."`
	// MinFree is the free space below which publishing is refused.
	MinFree config.Bytes `key:"min_free" default:"16MiB" doc:"Free space on the disk of the embedded server below which publishing is refused."`
	// PublishTimeout bounds a publish with all its retries.
	PublishTimeout time.Duration `key:"publish_timeout" default:"5s" doc:"How long a publish is tried before it fails as unavailable."`
	// Replicas of each stream on an external cluster.
	Replicas int `key:"replicas" default:"1" doc:"Copies of each stream on an external cluster (1, 3 or 5)."`
}

const (
	defaultMaxStore       = 64 << 30
	defaultMinFree        = 16 << 20
	defaultPublishTimeout = 5 * time.Second
)

// Validate reports the first setting that cannot work, as an errs.Invalid.
func (c Config) Validate() error {
	if _, _, err := c.sync(); err != nil {
		return err
	}
	if _, _, err := c.listen(); err != nil {
		return err
	}
	switch {
	case c.URL != "" && c.Listen != "":
		return errs.New(errs.Invalid, "bus: url and listen exclude each other: an external server is listening already")
	case c.PublishTimeout < 0 || c.MinFree < 0 || c.MaxStore < 0 || c.Replicas < 0:
		return errs.New(errs.Invalid, "bus: publish_timeout, min_free, max_store and replicas must not be negative")
	case c.Replicas > 1 && c.URL == "":
		return errs.New(errs.Invalid, "bus: replicas above 1 need an external cluster (bus.url)")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.MaxStore == 0 {
		c.MaxStore = defaultMaxStore
	}
	if c.MinFree == 0 {
		c.MinFree = defaultMinFree
	}
	if c.PublishTimeout == 0 {
		c.PublishTimeout = defaultPublishTimeout
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	return c
}

// sync gives always, or the interval.
func (c Config) sync() (always bool, every time.Duration, err error) {
	if c.Sync == "" || c.Sync == "always" {
		return true, 0, nil
	}
	every, err = time.ParseDuration(c.Sync)
	if err != nil || every <= 0 {
		return false, 0, errs.New(errs.Invalid, "bus: sync must be \"always\" or a positive duration such as \"1s\", not %q", c.Sync)
	}
	return false, every, nil
}

// listen gives the host and port to open; port 0 means none and -1 any.
func (c Config) listen() (host string, port int, err error) {
	if c.Listen == "" {
		return "", 0, nil
	}
	host, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return "", 0, errs.New(errs.Invalid, "bus: listen must be host:port, not %q", c.Listen)
	}
	if host == "" {
		host = "127.0.0.1" // net would take it for every address
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(text), "%d", &port); err != nil || port < 0 || port > 65535 {
		return "", 0, errs.New(errs.Invalid, "bus: listen has no usable port: %q", c.Listen)
	}
	if port == 0 {
		port = -1
	}
	return host, port, nil
}
