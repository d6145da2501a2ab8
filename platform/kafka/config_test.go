package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSettingsThatMakeNoSenseAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  kafka.Config
		key  string
	}{
		{"none", kafka.Config{}, ""},
		{"all", kafka.Config{TLS: true, CAFile: "a", CertFile: "b", KeyFile: "c", SASL: "plain", User: "u", Password: "p"}, ""},
		{"nothing but defaults", kafka.Config{SASL: "none"}, ""},
		{"an authority without tls", kafka.Config{CAFile: "a"}, "ca_file"},
		{"a certificate without tls", kafka.Config{CertFile: "a", KeyFile: "b"}, "cert_file"},
		{"a certificate without key", kafka.Config{TLS: true, CertFile: "a"}, "key_file"},
		{"a key without certificate", kafka.Config{TLS: true, KeyFile: "a"}, "cert_file"},
		{"sasl without user", kafka.Config{SASL: "plain", Password: "p"}, "user"},
		{"sasl without password", kafka.Config{SASL: "plain", User: "u"}, "password"},
		{"a user without sasl", kafka.Config{User: "u"}, "sasl"},
		{"a password without sasl", kafka.Config{SASL: "none", Password: "p"}, "sasl"},
		{"an unknown mechanism", kafka.Config{SASL: "gssapi", User: "u", Password: "p"}, "sasl"},
	} {
		var got string
		err := c.cfg.Validate()
		for _, f := range errs.FieldsOf(err) {
			got += f.Location
		}
		if got != c.key || err != nil && errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for brokers, fine := range map[string]bool{"": true, "a:1": true, "a:1,[::1]:9092": true, "a": false, "a:x": false, "a:70000": false, "a:1,": false} {
		var list []string
		if brokers != "" {
			list = strings.Split(brokers, ",")
		}
		if err := kafka.CheckBrokers(list); (err == nil) != fine {
			t.Errorf("%q: %v", brokers, err)
		}
	}
}

// cluster is a broker that lets Ana in with her password alone.
func cluster(t *testing.T, opts ...kfake.Opt) []string {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

// reaches tells whether a client can ask the cluster something.
func reaches(t *testing.T, cfg kafka.Config) error {
	t.Helper()
	cl, err := cfg.Open(kgo.RequestRetries(1))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return cl.Ping(ctx)
}

func TestEachLoginGetsInWithItsPasswordAlone(t *testing.T) {
	t.Parallel()
	for config, method := range map[string]string{"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"} {
		t.Run(config, func(t *testing.T) {
			t.Parallel()
			cfg := kafka.Config{Brokers: cluster(t, kfake.EnableSASL(), kfake.Superuser(method, "ana", "secret")), SASL: config, User: "ana", Password: "secret"}
			if err := reaches(t, cfg); err != nil {
				t.Error(err)
			}
			cfg.Password = "guessed"
			if err := reaches(t, cfg); err == nil || strings.Contains(err.Error(), "guessed") {
				t.Errorf("with a wrong password: %v", err)
			}
			if err := reaches(t, kafka.Config{Brokers: cfg.Brokers}); err == nil {
				t.Error("got in without a login")
			}
		})
	}
}

func TestTLSTrustsTheGivenAuthorityAndShowsItsCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority := issue(t, dir, "ca", nil)
	broker, client := issue(t, dir, "broker", authority), issue(t, dir, "client", authority)
	pool := x509.NewCertPool()
	pool.AddCert(authority.cert)
	brokers := cluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{broker.pair(t)}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}))
	good := kafka.Config{Brokers: brokers, TLS: true, CAFile: authority.certFile, CertFile: client.certFile, KeyFile: client.keyFile}
	if err := reaches(t, good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*kafka.Config){
		"an authority of the system": func(c *kafka.Config) { c.CAFile = "" },
		"no certificate":             func(c *kafka.Config) { c.CertFile, c.KeyFile = "", "" },
		"no TLS":                     func(c *kafka.Config) { *c = kafka.Config{Brokers: brokers} },
	} {
		cfg := good
		change(&cfg)
		if err := reaches(t, cfg); err == nil {
			t.Errorf("got in with %s", name)
		}
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, cfg := range map[string]kafka.Config{
		"kafka.ca_file":   {TLS: true, CAFile: text},
		"kafka.cert_file": {TLS: true, CertFile: text, KeyFile: text},
	} {
		if _, err := cfg.Open(); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestThePasswordIsNotShown(t *testing.T) {
	t.Parallel()
	cfg := kafka.Config{}
	v, err := config.Load(config.Source{Env: []string{"APP_KAFKA_SASL=plain", "APP_KAFKA_USER=ana", "APP_KAFKA_PASSWORD=secret"}}, config.Section{Name: "kafka", Value: &cfg})
	if err != nil || cfg.Password.Reveal() != "secret" || v == nil {
		t.Fatalf("%+v, %v", cfg, err)
	}
	_, err = config.Load(config.Source{Env: []string{"APP_KAFKA_PASSWORD=secret"}}, config.Section{Name: "kafka", Value: &cfg})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "kafka.sasl") {
		t.Errorf("%v", err)
	}
}

// paper is a certificate with its key.
type paper struct {
	cert              *x509.Certificate
	key               *ecdsa.PrivateKey
	certFile, keyFile string
}

func (p *paper) pair(t *testing.T) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// issue makes a certificate, signed by an authority or, without one, by itself.
func issue(t *testing.T, dir, name string, by *paper) *paper {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: by == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	p := &paper{key: key, certFile: filepath.Join(dir, name+".crt"), keyFile: filepath.Join(dir, name+".key")}
	parent, signer := form, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{p.certFile: {Type: "CERTIFICATE", Bytes: der}, p.keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}
