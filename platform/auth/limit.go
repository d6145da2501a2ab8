package auth

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"switchboard/platform/errs"
)

// limitAddresses bounds the addresses that are remembered; the one that failed
// longest ago is forgotten first.
const limitAddresses = 10_000

// LimitError refuses an address that sent too many wrong credentials. Its kind
// is errs.Denied.
type LimitError struct {
	// RetryAfter is how long to wait.
	RetryAfter time.Duration
}

// Error says how long to wait.
func (e *LimitError) Error() string {
	return fmt.Sprintf("too many wrong credentials from this address: wait %s", e.RetryAfter.Round(time.Second))
}

// Unwrap gives the kind.
func (e *LimitError) Unwrap() error { return errs.New(errs.Denied, "too many wrong credentials") }

// limiter counts wrong credentials per address: a burst of a minute's worth,
// then one for each that the minute gives back.
type limiter struct {
	limit rate.Limit
	burst int // 0: no limit

	mu        sync.Mutex
	addresses *simplelru.LRU[string, *rate.Limiter]
}

func newLimiter(perMinute int) (*limiter, error) {
	addresses, err := simplelru.NewLRU[string, *rate.Limiter](limitAddresses, nil)
	return &limiter{limit: rate.Limit(float64(perMinute) / 60), burst: perMinute, addresses: addresses}, err
}

// exceeded tells whether the address has used up its attempts; nil if not.
func (l *limiter) exceeded(remoteIP string, now time.Time) *LimitError {
	if l.burst == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Peek, so that only failures keep an address remembered.
	r, ok := l.addresses.Peek(network(remoteIP))
	if !ok {
		return nil
	}
	tokens := r.TokensAt(now)
	if tokens >= 1 {
		return nil
	}
	return &LimitError{RetryAfter: max(time.Duration((1-tokens)/float64(l.limit)*float64(time.Second)), time.Second)}
}

// failed counts one wrong credential.
func (l *limiter) failed(remoteIP string, now time.Time) {
	if l.burst == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := network(remoteIP)
	r, ok := l.addresses.Get(key)
	if !ok {
		r = rate.NewLimiter(l.limit, l.burst)
		l.addresses.Add(key, r)
	}
	r.AllowN(now, 1)
}

// network gives what counts as one address: an IPv4 address, and the /64 of an
// IPv6 address, for a host has a whole one to choose from.
func network(remoteIP string) string {
	ip, err := netip.ParseAddr(remoteIP)
	if err != nil {
		return remoteIP
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	block, err := ip.Prefix(64)
	if err != nil {
		return remoteIP
	}
	return block.String()
}
