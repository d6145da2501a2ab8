package bus

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

const (
	// maxPayload lets one event of 8 MiB through with its envelope, frame,
	// seal and headers.
	maxPayload = 10 << 20
	// payloadSlack is what an item may grow by on its way into a message.
	payloadSlack = 64 << 10
	// maxPending is what the server may hold back for one client: a few of the
	// largest messages, else it would cut the connection off as too slow.
	maxPending = 128 << 20
	maxMemory  = 64 << 20
)

// startServer starts an embedded server on dir and returns when it answers and
// every stream on the disk has been recovered. addr is where it listens, ""
// for nowhere.
func startServer(cfg Config, addr string, log *slog.Logger) (*server.Server, error) {
	always, every, err := cfg.sync()
	if err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName:             serverName,
		DontListen:             true,
		NoSigs:                 true, // its handler would call os.Exit
		JetStream:              true,
		StoreDir:               cfg.Dir,
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      int64(cfg.MaxStore),
		SyncAlways:             always,
		SyncInterval:           every,
		MaxPayload:             maxPayload,
		MaxPending:             maxPending,
		DisableJetStreamBanner: true,
	}
	if addr != "" {
		c := cfg
		c.Listen = addr
		opts.DontListen = false
		if opts.Host, opts.Port, err = c.listen(); err != nil {
			return nil, err
		}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "bus: prepare the embedded server")
	}
	srv.SetLoggerV2(serverLog{log}, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(30 * time.Second) {
		stopServer(srv)
		return nil, errs.New(errs.Unavailable, "bus: the embedded server did not start, see the log (bus.dir %s)", cfg.Dir)
	}
	// A stream that could not be recovered would be made anew by the next
	// Declare, over its files: refuse to go on instead.
	if err := health(srv); err != nil {
		stopServer(srv)
		return nil, errs.Wrap(errs.Unavailable, err, "bus: the embedded server could not recover its streams in %s", cfg.Dir)
	}
	return srv, nil
}

func stopServer(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// health is the server's own opinion of itself, streams' write errors included.
// It begins by giving itself a millisecond to see that it has started, which it has;
// a busy machine may take that from it, and so it is asked again.
func health(srv *server.Server) (err error) {
	for range 5 {
		if err = opinion(srv); err == nil || !strings.Contains(err.Error(), "failed to be ready for connections") {
			return err
		}
	}
	return err
}

func opinion(srv *server.Server) error {
	st := srv.Healthz(&server.HealthzOptions{})
	if st.Error == "" && len(st.Errors) == 0 && st.StatusCode < 300 {
		return nil
	}
	text := st.Error
	if text == "" {
		text = st.Status
	}
	return errs.New(errs.Unavailable, "%s", text)
}

// unrecovered tells whether the server misses a stream that its disk has.
func unrecovered(err error) bool { return strings.Contains(err.Error(), "could not be recovered") }

// noSpace tells whether a text of the server or the system speaks of a full disk.
func noSpace(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "no space left") || strings.Contains(text, "disk quota exceeded") ||
		strings.Contains(text, "insufficient resources") || strings.Contains(text, "insufficient storage")
}

// link is one connection with what hangs on it. The guard replaces it when it
// restarts the server.
type link struct {
	srv  *server.Server // nil when the server is external
	nc   *nats.Conn
	js   jetstream.JetStream
	gone chan struct{} // closed when the link has been given up
	// taken names the consumers that were taken over from the server before;
	// under the bus's mutex.
	taken map[string]bool
}

func (b *Bus) newLink(ctx context.Context) (*link, error) {
	l := &link{gone: make(chan struct{})}
	opts := []nats.Option{
		nats.Name("switchboard"),
		nats.MaxReconnects(-1),
		// Requests sent while away would only be answered after their caller
		// gave up: fail them at once, publish tries again by itself.
		nats.ReconnectBufSize(-1),
		nats.ReconnectHandler(func(*nats.Conn) { b.reconnected() }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			b.log.Warn("bus connection error", "error", err, "subject", subject)
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() && err != nil {
				b.log.Warn("bus disconnected", "error", err)
			}
		}),
	}
	url := b.cfg.URL
	if url == "" {
		srv, err := startServer(b.cfg, b.addr, b.log)
		if err != nil {
			return nil, err
		}
		l.srv = srv
		if a, ok := srv.Addr().(*net.TCPAddr); ok && b.addr != "" {
			b.addr = a.String() // keep a port that was chosen freely
		}
		opts = append(opts, nats.InProcessServer(srv), nats.ReconnectWait(50*time.Millisecond))
	} else {
		opts = append(opts, nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 250*time.Millisecond))
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := l.connect(ctx, url, opts)
		if err == nil {
			return l, nil
		}
		l.close()
		if l.srv != nil || ctx.Err() != nil || !retryConnect(err) {
			return nil, err
		}
		b.log.Warn("bus not reachable yet", "error", err)
		if !pause(ctx, wait) {
			return nil, err
		}
	}
}

func (l *link) connect(ctx context.Context, url string, opts []nats.Option) error {
	var err error
	if l.nc, err = nats.Connect(url, opts...); err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: connect")
	}
	if l.js, err = jetstream.New(l.nc); err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: connect")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err = l.js.AccountInfo(ctx); err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: the server offers no JetStream")
	}
	return nil
}

// retryConnect tells a server that is not up yet from one that refuses us.
func retryConnect(err error) bool {
	text := strings.ToLower(err.Error())
	return !strings.Contains(text, "authorization") && !strings.Contains(text, "authentication") &&
		!strings.Contains(text, "jetstream not enabled")
}

// close ends the connection and the server. The channel gone is not touched.
func (l *link) close() {
	if l.nc != nil {
		l.nc.Close()
	}
	if l.srv != nil {
		stopServer(l.srv)
	}
}

// serverLog passes the embedded server's lines to slog. Its many notices are
// of interest to nobody but us.
type serverLog struct{ log *slog.Logger }

func (s serverLog) Noticef(format string, v ...any) { s.log.Debug(fmt.Sprintf(format, v...)) }
func (s serverLog) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.HasPrefix(text, "Maximum payloads over") { // we mean it
		s.log.Debug(text)
		return
	}
	s.log.Warn(text)
}
func (s serverLog) Fatalf(format string, v ...any) { s.log.Error(fmt.Sprintf(format, v...)) }
func (s serverLog) Errorf(format string, v ...any) { s.log.Error(fmt.Sprintf(format, v...)) }
func (s serverLog) Debugf(format string, v ...any) { s.log.Debug(fmt.Sprintf(format, v...)) }
func (s serverLog) Tracef(string, ...any)          {}
