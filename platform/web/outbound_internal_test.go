package web

import (
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestOnlyAddressesOfThePublicInternetAreDialled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, addrs      string
		forbidden, never bool // never: with Private too
	}{
		{"public", "1.1.1.1 8.8.8.8 93.184.216.34 100.63.255.255 100.128.0.1 172.15.255.255 172.32.0.1 192.0.1.1 198.17.255.255 198.20.0.1 223.255.255.255 11.0.0.1 126.255.255.255 128.0.0.1 168.63.129.15", false, false},
		{"public, version 6", "2606:4700:4700::1111 2a00:1450::1 2001:200::1 2001:4860:4860::8888 2003::1 3ffe::1 ::ffff:1.1.1.1", false, false},
		{"loopback", "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1", true, false},
		{"unspecified", "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0", true, false},
		{"private", "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1 ::ffff:10.0.0.1 ::ffff:192.168.0.1", true, false},
		{"carrier-grade NAT", "100.64.0.1 100.127.255.255 ::ffff:100.64.0.1", true, false},
		{"ULA", "fc00::1 fd12:3456::1 fdff::1", true, false},
		{"site-local", "fec0::1", true, false},
		{"NAT64", "64:ff9b::10.0.0.1 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:ffff::808:808", true, false},
		{"6to4", "2002:7f00:1:: 2002:808:808::1 192.88.99.1", true, false},
		{"Teredo", "2001:0:1::1 2001::1", true, false},
		{"IPv4-compatible and translated", "::10.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1", true, false},
		{"benchmarks", "198.18.0.1 198.19.255.255 2001:2::1", true, false},
		{"assignments", "192.0.0.1 192.0.0.170", true, false},
		{"documentation", "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1", true, false},
		{"reserved and broadcast", "240.0.0.1 255.255.255.255 ::ffff:255.255.255.255 100::1 4000::1 5f00::1", true, false},
		{"multicast", "224.0.0.1 239.255.255.255 ff02::1 ff0e::1", true, false},
		{"link-local", "169.254.0.1 169.254.255.255 fe80::1 fe80::1%eth0 febf::1 ::ffff:169.254.1.1", true, true},
		{"metadata", "169.254.169.254 169.254.170.2 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 100.100.100.200 192.0.0.192 168.63.129.16", true, true},
		{"metadata in disguise", "::ffff:169.254.169.254 64:ff9b::169.254.169.254 64:ff9b:1::169.254.169.254 ::169.254.169.254 ::ffff:0:169.254.169.254 2002:a9fe:a9fe::1", true, true},
	} {
		for s := range strings.FieldsSeq(c.addrs) {
			a := netip.MustParseAddr(s)
			if got := forbidden(a, false); got != c.forbidden {
				t.Errorf("%s %s: forbidden %v", c.what, s, got)
			}
			if got := forbidden(a, true); got != c.never {
				t.Errorf("%s %s: forbidden %v with Private", c.what, s, got)
			}
		}
	}
	if !forbidden(netip.Addr{}, true) {
		t.Error("no address passes")
	}
}

func TestOutboundVerifiesTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	get := func(c *http.Client) (string, error) {
		t.Cleanup(c.CloseIdleConnections)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		if err != nil {
			return "", err
		}
		res, err := c.Do(req)
		if err != nil {
			return "", err
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		return string(text), err
	}
	if _, err := get(NewOutbound(OutboundConfig{})); !errors.Is(err, ErrForbiddenAddress) {
		t.Errorf("loopback over TLS: %v", err)
	}
	c := NewOutbound(OutboundConfig{Private: true})
	var unknown x509.UnknownAuthorityError
	if _, err := get(c); !errors.As(err, &unknown) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	c = NewOutbound(OutboundConfig{Private: true})
	inner := c.Transport.(outbound).transport
	inner.tls.RootCAs = x509.NewCertPool()
	inner.tls.RootCAs.AddCert(srv.Certificate())
	for range 2 {
		if proto, err := get(c); err != nil || proto != "HTTP/1.1" {
			t.Errorf("%q %v", proto, err)
		}
	}
	if len(inner.hosts) != 1 || len(inner.hosts[srv.URL].idle) != 1 {
		t.Errorf("%d hosts are kept", len(inner.hosts))
	}
	if c.CloseIdleConnections(); len(inner.hosts) != 0 || inner.sweep != nil {
		t.Errorf("%d hosts are kept without a connection", len(inner.hosts))
	}
}
