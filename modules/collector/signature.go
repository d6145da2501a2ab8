package collector

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

const signatureTolerance = 5 * time.Minute

// checkSignature checks `t=<unix seconds>,v1=<hex>`, where v1 is the
// HMAC-SHA256 of "t.body" over the body as it travelled. It gives the reason
// why not, empty if the signature is good.
func checkSignature(header string, body, secret []byte, now time.Time) string {
	if header == "" {
		return "is missing: this key demands signed requests"
	}
	var stamp string
	var macs []string
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "t":
			stamp = value
		case "v1":
			macs = append(macs, value)
		}
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || len(macs) == 0 {
		return "is not of the form t=<unix>,v1=<hex>"
	}
	if d := now.Sub(time.Unix(seconds, 0)); d > signatureTolerance || d < -signatureTolerance {
		return "is more than 5 minutes off"
	}
	h := hmac.New(sha256.New, secret)
	_, _ = h.Write([]byte(stamp + "."))
	_, _ = h.Write(body)
	want := h.Sum(nil)
	for _, m := range macs {
		if got, err := hex.DecodeString(m); err == nil && hmac.Equal(got, want) {
			return ""
		}
	}
	return "does not match the body"
}
