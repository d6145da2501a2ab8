package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// Config says where the cluster is and how to get in. The zero value is none.
type Config struct {
	// Brokers to begin with, host:port. The host binds it as kafka_brokers.
	Brokers []string `key:"-"`

	TLS      bool          `key:"tls" default:"false" doc:"Speak TLS with the brokers."`
	CAFile   string        `key:"ca_file" doc:"PEM file of the authorities that sign the brokers' certificates; empty trusts those of the system."`
	CertFile string        `key:"cert_file" doc:"PEM file of the client certificate, for brokers that ask for one."`
	KeyFile  string        `key:"key_file" doc:"PEM file of the key of cert_file."`
	SASL     string        `key:"sasl" default:"none" enum:"none,plain,scram-sha-256,scram-sha-512" doc:"How to log in with user and password. plain sends them as they are: use it with tls."`
	User     string        `key:"user" doc:"User for SASL."`
	Password config.Secret `key:"password" doc:"Password for SASL."`
}

const saslNone = "none"

// On tells whether there is a cluster.
func (c Config) On() bool { return len(c.Brokers) > 0 }

// Validate says what makes no sense, as errs.Invalid with the key. Files are
// read by Open.
func (c Config) Validate() error {
	wrong := func(key, text string) error {
		return errs.InvalidFields("kafka: "+key+": "+text, errs.Field{Location: key, Message: text})
	}
	login := c.SASL != "" && c.SASL != saslNone
	switch {
	case !c.TLS && c.CAFile != "":
		return wrong("ca_file", "needs tls")
	case !c.TLS && c.CertFile != "":
		return wrong("cert_file", "needs tls")
	case c.CertFile != "" && c.KeyFile == "":
		return wrong("key_file", "is missing for cert_file")
	case c.CertFile == "" && c.KeyFile != "":
		return wrong("cert_file", "is missing for key_file")
	case login && c.User == "":
		return wrong("user", "is missing for sasl")
	case login && c.Password == "":
		return wrong("password", "is missing for sasl")
	case !login && c.User != "":
		return wrong("sasl", "is none, but there is a user")
	case !login && c.Password != "":
		return wrong("sasl", "is none, but there is a password")
	}
	switch c.SASL {
	case "", saslNone, "plain", "scram-sha-256", "scram-sha-512":
		return nil
	}
	return wrong("sasl", "is not one of none, plain, scram-sha-256, scram-sha-512")
}

// CheckBrokers says which address of a list is none, as errs.Invalid.
func CheckBrokers(brokers []string) error {
	for _, b := range brokers {
		_, port, err := net.SplitHostPort(b)
		if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 1 || n > 65535 {
			return errs.New(errs.Invalid, "%q is not host:port", b)
		}
	}
	return nil
}

// Open makes a client. It connects when it is used: a cluster that is away is
// no error here, files that cannot be read are, of kind errs.Invalid.
func (c Config) Open(opts ...kgo.Opt) (*kgo.Client, error) {
	all := []kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID("switchboard"), kgo.DisableClientMetrics()}
	if c.TLS {
		t, err := c.tls()
		if err != nil {
			return nil, err
		}
		all = append(all, kgo.DialTLSConfig(t))
	}
	switch c.SASL {
	case "plain":
		all = append(all, kgo.SASL(plain.Auth{User: c.User, Pass: c.Password.Reveal()}.AsMechanism()))
	case "scram-sha-256":
		all = append(all, kgo.SASL(scram.Auth{User: c.User, Pass: c.Password.Reveal()}.AsSha256Mechanism()))
	case "scram-sha-512":
		all = append(all, kgo.SASL(scram.Auth{User: c.User, Pass: c.Password.Reveal()}.AsSha512Mechanism()))
	}
	cl, err := kgo.NewClient(append(all, opts...)...)
	return cl, errs.Wrap(errs.Invalid, err, "kafka")
}

func (c Config) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "kafka.ca_file")
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errs.New(errs.Invalid, "kafka.ca_file: holds no certificate in PEM")
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "kafka.cert_file and kafka.key_file")
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
