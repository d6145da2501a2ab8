package web

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// Config holds the settings of the listener. A zero value means the default
// of that field, so that Config{} is usable.
type Config struct {
	// Listen is host:port. The host binds it as the top-level key listen.
	Listen string `key:"-"`
	// MetricsRequireKey asks for a key with the scope metrics:read on /metrics.
	// The host binds it as metrics.require_key.
	MetricsRequireKey bool `key:"-"`

	MaxBody           config.Bytes  `key:"max_body" default:"8MiB" doc:"Largest request body as it travels; more is answered with 413."`
	MaxInflated       config.Bytes  `key:"max_inflated" default:"64MiB" doc:"Largest request body after gzip was undone; more is answered with 413."`
	ReadHeaderTimeout time.Duration `key:"read_header_timeout" default:"5s" doc:"Time a client has to send its request header."`
	ReadTimeout       time.Duration `key:"read_timeout" default:"30s" doc:"Time a client has to send its request body."`
	WriteTimeout      time.Duration `key:"write_timeout" default:"60s" doc:"Time for an answer, from the end of the request header; streams are exempt."`
	IdleTimeout       time.Duration `key:"idle_timeout" default:"2m" doc:"Time an unused connection is kept."`
	MaxHeader         config.Bytes  `key:"max_header" default:"64KiB" doc:"Largest request header."`
	AccessLog         string        `key:"access_log" default:"failed" enum:"failed,all,off" doc:"Which requests are logged: those answered with 400 or more, all, or none."`
	TrustedProxies    []string      `key:"trusted_proxies" doc:"Networks (CIDR) of reverse proxies whose X-Forwarded-For is believed when wrong credentials are counted per address."`
}

// Validate says what is wrong with c; the error is of kind errs.Invalid.
func (c *Config) Validate() error {
	if c.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			return errs.New(errs.Invalid, "listen: want host:port")
		}
	}
	for name, v := range map[string]int64{
		"max_body": int64(c.MaxBody), "max_inflated": int64(c.MaxInflated), "max_header": int64(c.MaxHeader),
		"read_header_timeout": int64(c.ReadHeaderTimeout), "read_timeout": int64(c.ReadTimeout),
		"write_timeout": int64(c.WriteTimeout), "idle_timeout": int64(c.IdleTimeout),
	} {
		if v < 0 {
			return errs.New(errs.Invalid, "%s: must not be negative", name)
		}
	}
	switch c.AccessLog {
	case "", logFailed, logAll, logOff:
	default:
		return errs.New(errs.Invalid, "access_log: want failed, all or off")
	}
	_, err := c.proxies()
	return err
}

const (
	logFailed = "failed"
	logAll    = "all"
	logOff    = "off"
)

// proxies parses TrustedProxies; a bare address stands for itself.
func (c *Config) proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, errs.New(errs.Invalid, "trusted_proxies: %q is no network such as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// withDefaults fills what is zero, so that a Config made by hand works.
func (c Config) withDefaults() (Config, error) {
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("web: %w", err)
	}
	or(&c.Listen, "127.0.0.1:8080")
	or(&c.MaxBody, 8<<20)
	or(&c.MaxInflated, 64<<20)
	or(&c.ReadHeaderTimeout, 5*time.Second)
	or(&c.ReadTimeout, 30*time.Second)
	or(&c.WriteTimeout, time.Minute)
	or(&c.IdleTimeout, 2*time.Minute)
	or(&c.MaxHeader, 64<<10)
	or(&c.AccessLog, logFailed)
	return c, nil
}

func or[T comparable](field *T, def T) {
	var zero T
	if *field == zero {
		*field = def
	}
}
