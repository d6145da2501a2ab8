package mailing

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"switchboard/platform/config"
)

// sendOne sends a report to a server; change may alter the client.
func sendOne(t testing.TB, address string, change func(*reportMailClient)) error {
	t.Helper()
	c, err := newReportMailClient(config.Secret(address), "reports@sender.test")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c)
	}
	f, zone := sampleDay(t)
	return c.send(t.Context(), []reportMail{{To: "anna@firm.test", MessageID: "x@y", Date: time.Unix(1, 0), Report: renderedDay(t, f, zone), ChartID: "c"}})[0]
}

func TestReportsGoByEveryWayOfTLS(t *testing.T) {
	t.Parallel()
	cert, pool := testCertificate(t)
	trusts := func(c *reportMailClient) { c.roots = pool }
	for _, c := range []struct {
		name, address string // %: the server
		server        *mailServer
		implicit      bool
		trust         func(*reportMailClient)
		want          string // of the error; "" is success
		tls           bool
	}{
		{"opportunistic without TLS", "smtp://%", &mailServer{}, false, nil, "", false},
		{"opportunistic with TLS", "smtp://%?tls=opportunistic", &mailServer{tls: cert}, false, trusts, "", true},
		{"none", "smtp://%?tls=none", &mailServer{tls: cert}, false, nil, "", false},
		{"mandatory", "smtp://%?tls=mandatory", &mailServer{tls: cert}, false, trusts, "", true},
		{"mandatory, not offered", "smtp://%?tls=mandatory", &mailServer{}, false, nil, "the SMTP server offers no TLS", false},
		{"unknown certificate", "smtp://%?tls=mandatory", &mailServer{tls: cert}, false, nil, "the SMTP server's certificate is not to be trusted", false},
		{"implicit", "smtps://%", &mailServer{tls: cert}, true, trusts, "", true},
		{"implicit, unknown certificate", "smtps://%", &mailServer{tls: cert}, true, nil, "the SMTP server's certificate is not to be trusted", false},
		{"login over STARTTLS", "smtp://me:se%40cret@%?tls=mandatory", &mailServer{tls: cert, user: "me", password: "se@cret"}, false, trusts, "", true},
		{"login over TLS", "smtps://me:secret@%", &mailServer{tls: cert, user: "me", password: "secret"}, true, trusts, "", true},
		{"login to this machine", "smtp://me:secret@%", &mailServer{user: "me", password: "secret", insecure: true}, false, nil, "", false},
		{"login not offered", "smtp://me:secret@%", &mailServer{}, false, nil, "the SMTP server offers no way to log in that is safe on this connection", false},
		{"wrong password", "smtp://me:wrong@%?tls=mandatory", &mailServer{tls: cert, user: "me", password: "secret"}, false, trusts, "the SMTP server refused the connection or the login: 454", false},
		{"login asked for", "smtp://%", &mailServer{user: "me", password: "secret", insecure: true}, false, nil, "the SMTP server refused: sending SMTP MAIL FROM command, 502", false},
		{"refused recipient", "smtp://%", &mailServer{rcpt: func(to string) error {
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no " + to}
		}}, false, nil, "the SMTP server refused: sending SMTP RCPT TO command, 550 5.1.1", false},
		{"no such TLS", "smtps://%", &mailServer{}, false, nil, "the connection to the SMTP server broke", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := startMailServer(t, c.server, c.implicit)
			scheme, rest, _ := strings.Cut(c.address, "://")
			at := strings.LastIndexByte(rest, '%')
			err := sendOne(t, scheme+"://"+rest[:at]+server.Addr+rest[at+1:], c.trust)
			if c.want != "" {
				if err == nil || err.Error() != c.want && !strings.HasPrefix(err.Error(), c.want+" ") || len(server.took()) != 0 {
					t.Errorf("%v", err)
				}
				return
			}
			got := server.took()
			if err != nil || len(got) != 1 || got[0].TLS != c.tls || got[0].User != c.server.user {
				t.Errorf("%v, %d mails", err, len(got))
			}
		})
	}
}

func TestAMailServerThatIsAwayOrSilent(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	quick := func(c *reportMailClient) { c.limit = 200 * time.Millisecond }
	if err := sendOne(t, "smtp://"+l.Addr().String(), quick); err == nil || err.Error() != "the SMTP server gave no answer within 200ms" {
		t.Errorf("%v", err) // nobody accepts
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sendOne(t, "smtp://"+l.Addr().String(), nil); err == nil || err.Error() != "the SMTP server cannot be reached" {
		t.Errorf("%v", err)
	}
	broken := startMailServer(t, &mailServer{data: func() error { return errors.New("disk of anna@firm.test full") }}, false)
	if err := sendOne(t, "smtp://"+broken.Addr, nil); err == nil || !strings.HasPrefix(err.Error(), "the SMTP server refused: closing SMTP DATA writer, 554") {
		t.Errorf("%v", err)
	}
}

func TestBadAddressesOfMailServersAreRefusedWithoutShowingThem(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"mail.test", "http://u:secret@mail.test", "smtp://", "smtp://u:secret@:25", "smtp://u:secret@mail.test:99999", "smtp://u:secret@mail.test:x", "smtp://u@mail.test",
		"smtp://:secret@mail.test", "smtp://u:secret@mail.test/x", "smtp://u:secret@mail.test?tls=maybe", "smtp://u:secret@mail.test?secret=1", "smtps://u:secret@mail.test?tls=none", "smtp://u:sec ret%@mail.test"} {
		if _, err := newReportMailClient(config.Secret(address), ""); err == nil || !strings.HasPrefix(err.Error(), "smtp_url: ") || strings.Contains(err.Error(), "u:sec") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for address, want := range map[string]struct {
		from   string
		port   int
		policy string
	}{
		"smtp://mail.test":                                {"switchboard@mail.test", 587, "TLSOpportunistic"},
		"smtp://me%40firm.test:secret@mail.test":          {"me@firm.test", 587, "TLSMandatory"},
		"smtp://me:secret@mail.test:25?tls=opportunistic": {"switchboard@mail.test", 25, "TLSOpportunistic"},
		"smtps://10.0.0.1":                                {"switchboard@localhost", 465, "TLSOpportunistic"},
	} {
		c, err := newReportMailClient(config.Secret(address), "")
		if err != nil || c.from.Address != want.from || c.port != want.port || !c.implicit && c.policy.String() != want.policy {
			t.Errorf("%s: %+v, %v", address, c, err)
		}
	}
	if c, err := newReportMailClient("", ""); c != nil || err != nil {
		t.Error(c, err)
	}
}
