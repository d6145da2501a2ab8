package mailing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"switchboard/platform/apptest"
	"switchboard/platform/config"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// mailServer is an SMTP server that keeps what it takes.
type mailServer struct {
	Addr string
	tls  *tls.Config // offers STARTTLS if set

	user, password string // asks for a login if set
	insecure       bool   // also without TLS

	mu    sync.Mutex
	mails []receivedMail
	rcpt  func(to string) error // nil: takes everybody
	data  func() error
	calls int // of MAIL
}

type receivedMail struct {
	To   string
	Raw  []byte
	TLS  bool
	User string
}

// startMailServer serves until the end of the test; implicit is TLS from the
// first byte.
func startMailServer(t testing.TB, m *mailServer, implicit bool) *mailServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.Addr = l.Addr().String()
	s := smtp.NewServer(m)
	s.Domain, s.AllowInsecureAuth, s.ErrorLog = "mail.test", m.insecure, silent{}
	if implicit {
		l = tls.NewListener(l, m.tls)
	} else {
		s.TLSConfig = m.tls
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		_ = l.Close() // the server may not have begun to serve
		<-done
	})
	return m
}

type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// NewSession begins a session.
func (m *mailServer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	s := &mailSession{m: m, c: c}
	if m.user != "" {
		return &loginSession{s}, nil
	}
	return s, nil
}

type mailSession struct {
	m        *mailServer
	c        *smtp.Conn
	user, to string
}

func (s *mailSession) Mail(string, *smtp.MailOptions) error {
	s.m.mu.Lock()
	s.m.calls++
	s.m.mu.Unlock()
	if s.m.user != "" && s.user == "" {
		return smtp.ErrAuthRequired
	}
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.m.mu.Lock()
	refuse := s.m.rcpt
	s.m.mu.Unlock()
	if s.to = to; refuse != nil {
		return refuse(to)
	}
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.m.mu.Lock()
	refuse := s.m.data
	s.m.mu.Unlock()
	if refuse != nil {
		if err := refuse(); err != nil {
			return err
		}
	}
	_, encrypted := s.c.TLSConnectionState()
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.mails = append(s.m.mails, receivedMail{s.to, raw, encrypted, s.user})
	return nil
}

func (s *mailSession) Reset()        { s.to = "" }
func (s *mailSession) Logout() error { return nil }

type loginSession struct{ *mailSession }

func (s *loginSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *loginSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != s.m.user || password != s.m.password {
			return errors.New("no")
		}
		s.user = user
		return nil
	}), nil
}

func (m *mailServer) took() []receivedMail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]receivedMail(nil), m.mails...)
}

func (m *mailServer) refuse(rcpt func(string) error, data func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rcpt, m.data = rcpt, data
}

// testCertificate gives a certificate for 127.0.0.1 and those who trust it.
func testCertificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// reportClock is a clock that tests move.
type reportClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *reportClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *reportClock) set(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.at, err = time.Parse(time.RFC3339, at); err != nil {
		panic(err)
	}
}

func (c *reportClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type reportEvents struct {
	mu    sync.Mutex
	names []string
}

func (e *reportEvents) Log(_ context.Context, entry eventlog.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.names = append(e.names, entry.Event+" "+entry.Refs[0].ID)
	return nil
}

func (e *reportEvents) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.names, ", ")
}

// desk is a report service with its surroundings.
type desk struct {
	*reportService
	db     *store.DB
	clock  *reportClock
	events *reportEvents
	log    *apptest.Log
}

func newDesk(t testing.TB, db *store.DB, clock *reportClock, address, to string) *desk {
	t.Helper()
	d := &desk{db: db, clock: clock, events: &reportEvents{}, log: &apptest.Log{}}
	client, err := newReportMailClient(config.Secret(address), "Switchboard <reports@sender.test>")
	if err != nil {
		t.Fatal(err)
	}
	if client != nil {
		client.limit = 10 * time.Second
	}
	var recipients []string
	if to != "" {
		recipients = strings.Split(to, ",")
	}
	d.reportService, err = newReportService(reportConfig{To: recipients, At: "08:00", TimeZone: "UTC"}, db, client, d.events, slog.New(slog.NewTextHandler(d.log, nil)), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// must looks once.
func (d *desk) must(t testing.TB) {
	t.Helper()
	if err := d.look(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// row gives what is known of a day.
func (d *desk) row(t testing.TB, day reportDay) string {
	t.Helper()
	r, err := d.store.get(t.Context(), d.db.Read(), day)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%s after %d", r.Status, r.Attempts)
}

// onBothStores runs a test on SQLite and on PostgreSQL, with a campaign of 18
// to 25 November 2026 that has sent three messages on the 21st, two of them in
// one hour, and one the day before and the day after.
func onBothStores(t *testing.T, test func(t *testing.T, db *store.DB)) {
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		addReportCampaign(t, db, 1, "First <one>", "running", "2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-18T00:00:00Z")
		addReportMessages(t, db, 1, "2026-11-20T23:59:59.999999Z", "2026-11-21T00:00:00Z", "2026-11-21T13:10:00Z", "2026-11-21T13:59:59.999999Z", "2026-11-22T00:00:00Z")
		addReportCounts(t, db, 1, reportCounts{7, 0, 5, 1, 2, 0, 0})
		test(t, db)
	})
}

func reportExec(t testing.TB, db *store.DB, query string, args ...any) {
	t.Helper()
	if err := db.Tx(t.Context(), func(tx store.Querier) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func reportTime(t testing.TB, text string) store.Micros {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return store.MicrosOf(at)
}

func addReportCampaign(t testing.TB, db *store.DB, id int64, name, status, start, end, updated string) {
	t.Helper()
	reportExec(t, db, `insert into mailing_campaign (id, name, text, start_at, end_at, filter, status, expanded, created_at, updated_at)
		values ($1, $2, 'x', $3, $4, '{}', $5, 0, $3, $6)`, id, name, reportTime(t, start), reportTime(t, end), status, reportTime(t, updated))
}

func addReportMessages(t testing.TB, db *store.DB, campaign int64, sent ...string) {
	t.Helper()
	for i, at := range sent {
		reportExec(t, db, `insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error)
			values ($1, $2, $1, $3, 2, 1, 0, 0, 0, $4, '', '')`, campaign*1000+int64(i), campaign, fmt.Appendf(nil, "%d", i), reportTime(t, at))
	}
}

func addReportCounts(t testing.TB, db *store.DB, campaign int64, counts reportCounts) {
	t.Helper()
	for status, n := range counts {
		reportExec(t, db, `insert into mailing_count (campaign, status, messages) values ($1, $2, $3)`, campaign, status, n)
	}
}

// parts of a mail by their content type.
func mailParts(t testing.TB, raw []byte) (header mail.Header, parts map[string][]byte, ids map[string]string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	parts, ids = map[string][]byte{}, map[string]string{}
	var read func(contentType, encoding, id string, body io.Reader)
	read = func(contentType, encoding, id string, body io.Reader) {
		kind, params, err := mime.ParseMediaType(contentType)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(kind, "multipart/") {
			switch strings.ToLower(encoding) {
			case "base64":
				body = base64.NewDecoder(base64.StdEncoding, body)
			case "quoted-printable":
				body = quotedprintable.NewReader(body)
			}
			text, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			parts[kind], ids[kind] = text, id
			return
		}
		parts[kind] = nil
		for r := multipart.NewReader(body, params["boundary"]); ; {
			p, err := r.NextRawPart()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			read(p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p.Header.Get("Content-Id"), p)
		}
	}
	read(m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), "", m.Body)
	return m.Header, parts, ids
}

// checkReportMail looks at a mail about 21 November 2026 as a mail program does.
func checkReportMail(t testing.TB, raw []byte) mail.Header {
	t.Helper()
	header, parts, ids := mailParts(t, raw)
	subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
	if err != nil || subject != "Mailing: 3 sent on 21 November 2026" {
		t.Errorf("subject %q, %v", subject, err)
	}
	if _, ok := parts["multipart/alternative"]; !ok || header.Get("Auto-Submitted") != "auto-generated" || header.Get("Date") == "" {
		t.Errorf("%v", header)
	}
	text, html := string(parts["text/plain"]), string(parts["text/html"])
	for _, want := range []string{"3  sent, 200% more than the day before (1)", "First <one> (running)", "5 of 15 sent, 7 pending, 1 retrying, 2 failed", "13:00"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	if !strings.Contains(html, "First &lt;one&gt;") || strings.Contains(html, "<one>") || !strings.Contains(html, "Bar chart of messages sent by hour") {
		t.Errorf("%s", html)
	}
	cid := strings.Trim(ids["image/png"], "<>")
	if cid == "" || !strings.Contains(html, `src="cid:`+cid+`"`) {
		t.Errorf("the HTML does not show the image %q", cid)
	}
	if img, err := png.Decode(bytes.NewReader(parts["image/png"])); err != nil || img.Bounds().Dx() < 500 {
		t.Errorf("the image: %v", err)
	}
	return header
}

func TestAReportIsSentOnceADay(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-22T07:59:59Z")
		address := "smtp://" + server.Addr
		d := newDesk(t, db, clock, address, "anna@firm.test,bert@firm.test")
		d.must(t) // the 20th
		if n := len(server.took()); n != 2 || d.row(t, "2026-11-21") != "none" {
			t.Fatalf("%d mails, %s", n, d.row(t, "2026-11-21"))
		}
		clock.set("2026-11-22T08:00:00Z")
		for range 3 {
			d.must(t)
			newDesk(t, db, clock, address, "anna@firm.test,bert@firm.test").must(t) // a restart
			clock.add(time.Hour)
		}
		got := server.took()[2:]
		if len(got) != 2 || got[0].To != "anna@firm.test" || got[1].To != "bert@firm.test" || d.row(t, "2026-11-21") != "sent after 1" {
			t.Fatalf("%d mails, %s\n%s", len(got), d.row(t, "2026-11-21"), d.log)
		}
		header := checkReportMail(t, got[0].Raw)
		if to := header.Get("To"); to != "<anna@firm.test>" || !strings.Contains(header.Get("From"), "<reports@sender.test>") || header.Get("Cc")+header.Get("Bcc") != "" {
			t.Errorf("%v", header)
		}
		if all := d.events.all(); all != "report.sent 2026-11-20, report.sent 2026-11-21" || strings.Contains(d.log.String(), "anna") {
			t.Errorf("%s\n%s", all, d.log)
		}
	})
}

// Two instances run, each with many looks at once: still one mail.
func TestInstancesSendOneReport(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		var all sync.WaitGroup
		for range 4 {
			d := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
			all.Go(func() {
				for range 3 {
					if err := d.look(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if n := len(server.took()); n != 1 {
			t.Errorf("%d mails", n)
		}
	})
}

func TestAfterDowntimeTheLastDayIsReportedAlone(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-17T09:00:00Z")
		d := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		d.must(t) // no campaign yet: there is nothing to report
		if n := len(server.took()); n != 0 {
			t.Fatalf("%d mails", n)
		}
		server.refuse(func(string) error { return &smtp.SMTPError{Code: 451, Message: "later"} }, nil)
		clock.set("2026-11-19T09:00:00Z")
		d.must(t) // the 18th fails, and the product stops
		server.refuse(nil, nil)
		clock.set("2026-11-22T20:00:00Z")
		d = newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		d.must(t)
		d.must(t)
		if got := server.took(); len(got) != 1 || d.row(t, "2026-11-21") != "sent after 1" || d.row(t, "2026-11-20") != "none" || d.row(t, "2026-11-18") != "failed after 1" {
			t.Errorf("%d mails, %s, %s, %s", len(got), d.row(t, "2026-11-21"), d.row(t, "2026-11-20"), d.row(t, "2026-11-18"))
		}
	})
}

func TestARefusedReportIsTriedAgainForADay(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		d := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		tries := func() int { server.mu.Lock(); defer server.mu.Unlock(); return server.calls }
		server.refuse(nil, func() error {
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "later, anna@firm.test"}
		})
		for i, pause := range []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60} {
			clock.add(pause*time.Minute - time.Second)
			if i > 0 {
				d.must(t)
			}
			if tries() != i {
				t.Fatalf("attempt %d came early", i+1)
			}
			clock.add(time.Second)
			d.must(t)
			if tries() != i+1 {
				t.Fatalf("attempt %d did not come", i+1)
			}
		}
		if row, err := d.store.get(t.Context(), db.Read(), "2026-11-21"); err != nil || row.Error != "the SMTP server refused: closing SMTP DATA writer, 451 4.3.0" {
			t.Errorf("%+v, %v", row, err)
		}
		clock.set("2026-11-23T07:59:59Z")
		d.must(t)
		clock.add(time.Second)
		d.must(t) // the next day's is due; this one is given up
		if got := d.row(t, "2026-11-21"); got != "failed after 10" || d.row(t, "2026-11-22") != "pending after 1" {
			t.Errorf("%s, %s", got, d.row(t, "2026-11-22"))
		}
		server.refuse(nil, nil)
		clock.add(time.Minute)
		d.must(t)
		if got := server.took(); len(got) != 1 || !strings.Contains(string(got[0].Raw), "22 November") {
			t.Errorf("%d mails", len(got))
		}
		if !strings.Contains(d.log.String(), "level=ERROR") || strings.Contains(d.log.String(), "anna") || d.events.all() != "report.failed 2026-11-21, report.sent 2026-11-22" {
			t.Errorf("%s\n%s", d.events.all(), d.log)
		}
	})
}

// One recipient is refused for a while: the other gets one mail, and both the
// same.
func TestWhoGotTheReportIsNotBotheredAgain(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		server.refuse(func(to string) error {
			if to == "bert@firm.test" {
				return &smtp.SMTPError{Code: 450, Message: "greylisted " + to}
			}
			return nil
		}, nil)
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		d := newDesk(t, db, clock, "smtp://"+server.Addr, "bert@firm.test,anna@firm.test")
		d.must(t)
		if row, err := d.store.get(t.Context(), db.Read(), "2026-11-21"); err != nil || row.Status != reportPending || !strings.HasPrefix(row.Error, "1 of 2 recipients: ") || strings.Contains(fmt.Sprint(row.reportState), "firm") {
			t.Errorf("%+v, %v", row, err)
		}
		server.refuse(nil, nil)
		clock.add(time.Minute)
		newDesk(t, db, clock, "smtp://"+server.Addr, "bert@firm.test,anna@firm.test").must(t)
		got := server.took()
		if len(got) != 2 || got[0].To != "anna@firm.test" || got[1].To != "bert@firm.test" || d.row(t, "2026-11-21") != "sent after 2" {
			t.Fatalf("%d mails, %s", len(got), d.row(t, "2026-11-21"))
		}
		if one, two := checkReportMail(t, got[0].Raw).Get("Message-Id"), checkReportMail(t, got[1].Raw).Get("Message-Id"); one != two || !strings.Contains(one, "2026-11-21") || !strings.HasSuffix(one, "@sender.test>") {
			t.Errorf("%s, %s", one, two)
		}
	})
}

// A sender that died holds its claim for ten minutes; what it may have sent
// comes again under the same id.
func TestADeadSendersClaimIsTakenOver(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		dead := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		if err := dead.plan(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows, err := dead.store.open(t.Context(), 1)
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		was := *rows[0]
		if mine, err := dead.store.claim(t.Context(), rows[0], clock.now()); err != nil || !mine {
			t.Fatal(mine, err)
		}
		if mine, err := dead.store.claim(t.Context(), &was, clock.now()); err != nil || mine {
			t.Fatal("claimed twice", err)
		}
		if err := dead.send(t.Context(), rows[0]); err != nil { // and it dies
			t.Fatal(err)
		}
		d := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		clock.add(10*time.Minute - time.Second)
		d.must(t)
		if n := len(server.took()); n != 1 {
			t.Fatalf("%d mails", n)
		}
		clock.add(time.Second)
		d.must(t)
		got := server.took()
		if len(got) != 2 || checkReportMail(t, got[0].Raw).Get("Message-Id") != checkReportMail(t, got[1].Raw).Get("Message-Id") {
			t.Errorf("%d mails", len(got))
		}
		// The dead one wakes up: what it thinks does not count.
		late := *rows[0]
		late.Status = reportPending
		if changed, err := d.store.settle(t.Context(), rows[0], &late); err != nil || changed || d.row(t, "2026-11-21") != "sent after 2" {
			t.Errorf("%v, %v, %s", changed, err, d.row(t, "2026-11-21"))
		}
	})
}

// A server that takes the connection and says nothing, and one that hangs
// while it takes the mail, do not hold up a stop.
func TestAStopDoesNotWaitForASlowServer(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		begun, end := make(chan struct{}), make(chan struct{})
		server := startMailServer(t, &mailServer{}, false)
		t.Cleanup(func() { close(end) })
		server.refuse(nil, sync.OnceValue(func() error { close(begun); <-end; return errors.New("too late") }))
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		d := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.run(ctx) }()
		<-begun
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := d.row(t, "2026-11-21"); got != "pending after 0" {
			t.Errorf("%s\n%s", got, d.log)
		}
	})
}

// The loop works by itself, by the clock it was given.
func TestReportsGoByTheClock(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		d := newDesk(t, db, clock, "smtp://"+server.Addr, "anna@firm.test")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.run(ctx) }()
		mails := func(want int) func() string {
			return func() string {
				if n := len(server.took()); n != want {
					return fmt.Sprintf("%d mails", n)
				}
				return ""
			}
		}
		apptest.Eventually(t, mails(1))
		clock.set("2026-11-23T08:00:00Z")
		apptest.Eventually(t, mails(2))
		// Asked for again, it is a mail of its own.
		apptest.Eventually(t, func() string {
			if _, err := d.again(ctx, "2026-11-21"); err != nil {
				return err.Error()
			}
			return ""
		})
		apptest.Eventually(t, mails(3))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		got := server.took()
		if one, again := checkReportMail(t, got[0].Raw).Get("Message-Id"), checkReportMail(t, got[2].Raw).Get("Message-Id"); one == again {
			t.Errorf("%s twice: mail servers would drop it", one)
		}
	})
}

func TestWithoutRecipientsOrServerNothingIsSent(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		server := startMailServer(t, &mailServer{}, false)
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		for _, d := range []*desk{newDesk(t, db, clock, "", "anna@firm.test"), newDesk(t, db, clock, "smtp://"+server.Addr, "")} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.run(ctx); err != nil || d.why() == "" {
				t.Error(err)
			}
			if d.row(t, "2026-11-21") != "none" {
				t.Error("it was planned")
			}
		}
	})
}

func TestTheFiguresOfADay(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, db *store.DB) {
		addReportCampaign(t, db, 2, "over before", "finished", "2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-20T23:00:00Z")
		addReportCampaign(t, db, 3, "finished that day", "finished", "2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-21T23:00:00Z")
		addReportCampaign(t, db, 4, "begins later", "running", "2026-11-22T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-22T00:00:00Z")
		addReportCampaign(t, db, 5, "ended before", "paused", "2026-11-18T00:00:00Z", "2026-11-21T00:00:00Z", "2026-11-18T00:00:00Z")
		addReportCampaign(t, db, 6, "never began", "scheduled", "2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-18T00:00:00Z")
		addReportCampaign(t, db, 7, "being removed", "deleted", "2026-11-18T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-22T00:00:00Z")
		addReportCounts(t, db, 2, reportCounts{0, 0, 100, 0, 0, 0, 0})
		addReportCounts(t, db, 3, reportCounts{0, 0, 1, 0, 3, 0, 0})
		for id := int64(100); id < 160; id++ {
			addReportCampaign(t, db, id, "one of many", "running", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-21T00:00:00Z")
		}
		clock := &reportClock{}
		clock.set("2026-11-22T08:00:00Z")
		f, err := newDesk(t, db, clock, "", "").figures(t.Context(), "2026-11-21")
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Hours) != 24 || f.Hours[0] != 1 || f.Hours[13] != 2 || f.sent() != 3 || f.SentBefore != 1 {
			t.Errorf("%+v", f)
		}
		if f.Running != 62 || len(f.Campaigns) != maxReportCampaigns || f.Totals != (reportCounts{7, 0, 6, 1, 5, 0, 0}) {
			t.Errorf("%d, %d, %v", f.Running, len(f.Campaigns), f.Totals)
		}
		if c := f.Campaigns[0]; c.ID != 1 || c.Sent != 3 || c.Counts != (reportCounts{7, 0, 5, 1, 2, 0, 0}) {
			t.Errorf("%+v", c)
		}
		if c := f.Campaigns[1]; c.ID != 3 || c.Counts.failed() != 3 {
			t.Errorf("%+v", c)
		}
	})
}
