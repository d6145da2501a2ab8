package auth

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"switchboard/platform/errs"
)

// validOrigins gives the origins in the form in which browsers send them.
func validOrigins(origins []string) (out []string, fields []errs.Field) {
	for i, text := range origins {
		origin, ok := canonicalOrigin(text)
		if !ok {
			fields = append(fields, errs.Field{
				Location: at("body.origins", i),
				Message:  "not an origin: want scheme and host, such as https://shop.example or https://shop.example:8443",
				Value:    text,
			})
			continue
		}
		out = append(out, origin)
	}
	return out, fields
}

// canonicalOrigin brings an origin to its serialized form (RFC 6454): lowercase,
// without the scheme's own port. Anything but http or https, scheme, host and
// port is refused; wildcards too.
func canonicalOrigin(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#") {
		return "", false
	}
	if u.Path != "" && u.Path != "/" || u.Scheme != "http" && u.Scheme != "https" {
		return "", false
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	} else if !validHost(host) {
		return "", false
	}
	if strings.HasSuffix(u.Host, ":") {
		return "", false
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", false
		}
		port = strconv.FormatUint(n, 10)
	}
	if u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
		port = ""
	}
	switch {
	case port != "":
		host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return u.Scheme + "://" + host, true
}

// validHost takes what a browser can send: ASCII labels, an international name
// in its xn-- form.
func validHost(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for _, label := range strings.Split(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
