package web

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"

	"switchboard/platform/errs"
)

// ErrForbiddenAddress is found by errors.Is in the error of a client of
// NewOutbound that refused to dial. Its text tells nothing of the URL, nor of
// the address behind its name, and may be shown. Its kind is errs.Invalid.
var ErrForbiddenAddress = errs.New(errs.Invalid, "the host has a private, local or reserved address, which must not be called")

// OutboundConfig says how far a client of NewOutbound may go. A zero value
// means the default of that field.
type OutboundConfig struct {
	Timeout   time.Duration // of a whole exchange, the body of the answer included, unless its context has a deadline; 10 s
	Private   bool          // may reach private addresses: only for URLs that an operator configured
	MaxConns  int           // per host, also the idle ones that are kept; 64
	MaxHeader int64         // bytes of an answer's header; 64 KiB
}

// NewOutbound makes a client for calls to other systems. Its user bounds what
// is read of an answer, and calls CloseIdleConnections at its end.
//
// It refuses to connect to addresses that are not of the public Internet (see
// ErrForbiddenAddress), whatever name leads there: the address that is dialled
// is checked, so that a name cannot change between a check and the call. With
// Private all are allowed but link-local ones and those where clouds hand out
// credentials. It follows no redirect, gives the 3xx back as it is, heeds no
// proxy of the environment and sends nothing twice. Connections are kept and
// shared; HTTP/1.1, and TLS 1.2 or later.
//
// An error of http.Client repeats the whole URL: log and keep WithoutURL of it.
func NewOutbound(cfg OutboundConfig) *http.Client {
	or(&cfg.Timeout, 10*time.Second)
	or(&cfg.MaxConns, 64)
	or(&cfg.MaxHeader, 64<<10)
	dialer := &net.Dialer{
		Timeout: connectTime(cfg.Timeout),
		// Called with the address that a name was resolved to, for each attempt.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || forbidden(at.Addr(), cfg.Private) {
				return ErrForbiddenAddress
			}
			return nil
		},
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: outbound{&transport{
			dial:      dialer.DialContext,
			tls:       &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
			timeout:   cfg.Timeout,
			maxConns:  cfg.MaxConns,
			maxHeader: cfg.MaxHeader,
			hosts:     map[string]*host{},
		}},
	}
}

// WithoutURL gives the cause of an error of http.Client without its URL, whose
// path and query may hold what must not be logged. Other errors stay as they
// are.
func WithoutURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// outbound takes the address out of a refusal: it would tell the author of a
// URL how names resolve on the inside.
type outbound struct{ *transport }

// RoundTrip implements http.RoundTripper.
func (o outbound) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := o.transport.RoundTrip(r)
	if errors.Is(err, ErrForbiddenAddress) {
		return nil, ErrForbiddenAddress
	}
	return res, err
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var (
	// Link-local addresses, and those where clouds hand out credentials.
	neverDialled = prefixes(
		"169.254.0.0/16",     // AWS, GCP, Azure and most others
		"168.63.129.16/32",   // Azure's wire server
		"100.100.100.200/32", // Alibaba
		"192.0.0.192/32",     // Oracle
		"fe80::/10",
		"fd00:ec2::/64",    // AWS
		"fd20:ce::254/128", // GCP
	)
	// What the IANA registries of special-purpose addresses list for IPv4.
	special4 = prefixes(
		"0.0.0.0/8",       // this network; 0.0.0.0 reaches loopback
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // carrier-grade NAT
		"127.0.0.0/8",     // loopback
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarks
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved, broadcast
	)
	// Of IPv6 only this is given out to the public. Loopback, ULA, NAT64,
	// multicast and the IPv4-compatible forms are outside of it.
	global6  = netip.MustParsePrefix("2000::/3")
	special6 = prefixes(
		"2001::/23",     // protocol assignments: Teredo, benchmarks, ORCHID
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4
		"3fff::/20",     // documentation
	)
)

// forbidden tells whether a must not be dialled.
func forbidden(a netip.Addr, private bool) bool {
	a = a.Unmap().WithZone("") // a prefix contains no address with a zone
	within := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	switch {
	case !a.IsValid() || within(neverDialled, a):
		return true
	case private:
		v4, ok := embedded(a)
		return ok && within(neverDialled, v4)
	case a.Is4():
		return within(special4, a)
	}
	return !global6.Contains(a) || within(special6, a)
}

// embedded gives the IPv4 address to which a gateway would translate a.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case !a.Is6():
	case nat64.Contains(a), nat64Local.Contains(a), compatible.Contains(a), translated.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // its /96 prefixes
	compatible = netip.MustParsePrefix("::/96")
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// RetryAfter reads the header of that name (RFC 9110 section 10.2.3): how long
// the other side asks to be left alone, 0 if it does not. An hour at most is
// believed.
func RetryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if value == "" {
		return 0
	}
	d := time.Duration(0)
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = time.Until(at)
	}
	return min(max(d, 0), time.Hour)
}
