package mailing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// reportMailClient sends reports through one SMTP server.
type reportMailClient struct {
	host           string
	port           int
	implicit       bool // TLS from the first byte
	policy         gomail.TLSPolicy
	user, password string
	from           *mail.Address

	roots *x509.CertPool // nil: those of the system
	limit time.Duration  // for a connection, and for each mail
}

// reportMail is a mail to one recipient.
type reportMail struct {
	To        string
	MessageID string // without the brackets
	Date      time.Time
	Report    *dailyReport
	ChartID   string // of the chart in the HTML
}

// newReportMailClient reads the URL of an SMTP server:
// smtp://user:password@host:587?tls=opportunistic|mandatory|none or
// smtps://user:password@host:465. Without tls it is opportunistic, and
// mandatory if there is a password, which an opportunistic connection might
// give away. Without from the user is the sender if it is an address. It is nil
// for an empty URL; the error is Invalid and never shows the URL.
func newReportMailClient(address config.Secret, from string) (*reportMailClient, error) {
	if address == "" {
		return nil, nil
	}
	bad := func(why string) error {
		return errs.New(errs.Invalid, "smtp_url: %s; it must be like smtp://user:password@host:587 or smtps://host:465", why)
	}
	u, err := url.Parse(address.Reveal())
	if err != nil {
		return nil, bad("is not a URL")
	}
	c := &reportMailClient{host: u.Hostname(), limit: 30 * time.Second}
	if u.User != nil {
		c.user = u.User.Username()
		c.password, _ = u.User.Password()
	}
	switch {
	case u.Scheme != "smtp" && u.Scheme != "smtps":
		return nil, bad("has another scheme")
	case c.host == "":
		return nil, bad("names no host")
	case u.Path != "" && u.Path != "/" || u.Fragment != "":
		return nil, bad("has a path")
	case (c.user == "") != (c.password == ""):
		return nil, bad("needs a user and a password, or neither")
	}
	c.implicit = u.Scheme == "smtps"
	if err := c.readPort(u.Port()); err != nil {
		return nil, bad(err.Error())
	}
	if err := c.readTLS(u.Query()); err != nil {
		return nil, bad(err.Error())
	}
	if from == "" {
		if from = c.user; !strings.Contains(from, "@") {
			from = "switchboard@" + domainOf(c.host)
		}
	}
	if c.from, err = mail.ParseAddress(from); err != nil {
		return nil, errs.New(errs.Invalid, "mailing.report_from: is not an address")
	}
	return c, nil
}

// domainOf is what may follow the @ of an address.
func domainOf(host string) string {
	if ip := net.ParseIP(host); ip == nil {
		return host
	}
	return "localhost"
}

func (c *reportMailClient) readPort(text string) error {
	switch {
	case text != "":
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 65535 {
			return errors.New("has no such port")
		}
		c.port = n
	case c.implicit:
		c.port = 465
	default:
		c.port = 587
	}
	return nil
}

func (c *reportMailClient) readTLS(q url.Values) error {
	for key := range q {
		if key != "tls" {
			return fmt.Errorf("has an unknown parameter %q", key)
		}
	}
	switch way := q.Get("tls"); {
	case way != "" && c.implicit:
		return errors.New("has tls=, which smtps:// makes senseless")
	case way == "none":
		c.policy = gomail.NoTLS
	case way == "mandatory", way == "" && c.password != "" && !loopback(c.host):
		c.policy = gomail.TLSMandatory
	case way == "opportunistic", way == "":
		c.policy = gomail.TLSOpportunistic
	default:
		return errors.New("has another tls= than opportunistic, mandatory or none")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// send sends mails over one connection, one after another. It gives an error
// for each that the server has not taken, nil for one that it has; their texts
// name no recipient, and nothing of what the server said but its code.
func (c *reportMailClient) send(ctx context.Context, mails []reportMail) []error {
	out := make([]error, len(mails))
	fail := func(err error) []error {
		for i := range out {
			out[i] = err
		}
		return out
	}
	var conn net.Conn
	client, err := gomail.NewClient(c.host, gomail.WithPort(c.port), gomail.WithTimeout(c.limit), gomail.WithTLSPolicy(c.policy),
		gomail.WithTLSConfig(c.tls()), gomail.WithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			var err error
			if c.implicit {
				conn, err = (&tls.Dialer{Config: c.tls()}).DialContext(ctx, network, address)
			} else {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
			}
			return conn, err
		}))
	if err != nil {
		return fail(c.explain(ctx, err))
	}
	if c.user != "" {
		client.SetSMTPAuthCustom(&reportLogin{user: c.user, password: c.password, host: c.host})
	}
	dialing, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	session, err := client.DialToSMTPClientWithContext(dialing)
	if conn != nil { // also where the greeting failed
		defer func() { _ = conn.Close() }()
		// The library's steps after the connection do not know ctx.
		defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	}
	if err != nil {
		return fail(c.explain(ctx, err))
	}
	for i := range mails {
		msg, err := c.compose(&mails[i])
		if err != nil {
			out[i] = err
			continue
		}
		if ctx.Err() != nil {
			out[i] = ctx.Err()
			continue
		}
		// A fault after the server took the mail is none.
		if err := client.SendWithSMTPClient(session, msg); err != nil && !msg.IsDelivered() {
			out[i] = c.explain(ctx, err)
		}
	}
	_ = client.CloseWithSMTPClient(session) // what was taken was taken
	return out
}

func (c *reportMailClient) tls() *tls.Config {
	return &tls.Config{ServerName: c.host, RootCAs: c.roots, MinVersion: tls.VersionTLS12}
}

// compose makes of a report a mail with a text, and with HTML and the chart
// that it shows.
func (c *reportMailClient) compose(m *reportMail) (*gomail.Msg, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(c.from)
	if err := msg.To(m.To); err != nil {
		return nil, errors.New("one of mailing.report_to is not an address")
	}
	msg.Subject(m.Report.Subject)
	msg.SetDateWithValue(m.Date)
	msg.SetMessageIDWithValue(m.MessageID)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's absence notice is wanted
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	msg.SetBodyString(gomail.TypeTextPlain, m.Report.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, m.Report.HTML)
	if err := msg.EmbedReader("sent-by-hour.png", bytes.NewReader(m.Report.Chart), gomail.WithFileContentID(m.ChartID), gomail.WithFileContentType("image/png")); err != nil {
		return nil, fmt.Errorf("compose the report: %w", err)
	}
	return msg, nil
}

// domain is that of the sender.
func (c *reportMailClient) domain() string {
	_, domain, _ := strings.Cut(c.from.Address, "@")
	return domain
}

// explain says what went wrong without what the server or the library said:
// that may hold addresses.
func (c *reportMailClient) explain(ctx context.Context, err error) error {
	var refused *gomail.SendError
	var reply *textproto.Error
	var network net.Error
	var cert *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errNoLogin):
		return errNoLogin
	case errors.As(err, &refused) && refused.ErrorCode() != 0:
		return fmt.Errorf("the SMTP server refused: %s, %s", refused.Reason, strings.TrimSpace(fmt.Sprintf("%d %s", refused.ErrorCode(), refused.EnhancedStatusCode())))
	case errors.As(err, &cert):
		return errors.New("the SMTP server's certificate is not to be trusted")
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("the SMTP server gave no answer within %s", c.limit)
	case errors.As(err, &reply):
		return fmt.Errorf("the SMTP server refused the connection or the login: %d", reply.Code)
	case strings.Contains(err.Error(), "does not support STARTTLS"):
		return errors.New("the SMTP server offers no TLS")
	case errors.As(err, &network):
		return errors.New("the SMTP server cannot be reached")
	}
	return errors.New("the connection to the SMTP server broke")
}

// reportLogin picks a way to log in that does not give the password away: in
// the clear only over TLS or to this machine.
type reportLogin struct {
	user, password, host string
	smtp.Auth
}

var errNoLogin = errors.New("the SMTP server offers no way to log in that is safe on this connection")

// Start begins the exchange.
func (l *reportLogin) Start(server *smtp.ServerInfo) (string, []byte, error) {
	offered := func(way string) bool { return slices.Contains(server.Auth, way) }
	switch open := !server.TLS && !loopback(l.host); {
	case offered("SCRAM-SHA-256"):
		l.Auth = smtp.ScramSHA256Auth(l.user, l.password)
	case offered("PLAIN") && !open:
		l.Auth = smtp.PlainAuth("", l.user, l.password, l.host, true)
	case offered("LOGIN") && !open:
		l.Auth = smtp.LoginAuth(l.user, l.password, l.host, true)
	case offered("CRAM-MD5"):
		l.Auth = smtp.CRAMMD5Auth(l.user, l.password)
	default:
		return "", nil, errNoLogin
	}
	return l.Auth.Start(server)
}
