package mailing

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

// importResult is what an import answered.
type importResult struct {
	end    ImportLine
	faults []string
}

// send imports a body.
func send(t *testing.T, b *book, format, mode, body string) importResult {
	t.Helper()
	return sendReader(t, b, format, mode, strings.NewReader(body), nil)
}

func sendReader(t *testing.T, b *book, format, mode string, body io.Reader, header http.Header) (got importResult) {
	t.Helper()
	r := b.Request(b.Key, http.MethodPost, "/mailing/clients/import?format="+format+"&existing="+mode, body)
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%s", resp.Status)
	}
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		var l ImportLine
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatalf("%v: %s", err, in.Bytes())
		}
		switch {
		case got.end.Done != nil:
			t.Errorf("a line behind the last one: %s", in.Bytes())
		case l.Done != nil:
			got.end = l
		case l.Error != nil:
			got.faults = append(got.faults, fmt.Sprintf("%d %s %s", l.Error.Line, l.Error.Field, l.Error.Message))
		}
	}
	if got.end.Done == nil || !*got.end.Done || got.end.Seconds == nil {
		t.Fatalf("the import did not end well: %+v %+v", got, got.end.Error)
	}
	return got
}

func (r importResult) counts() string {
	return fmt.Sprintf("%d created, %d updated, %d skipped, %d failed", r.end.Created, r.end.Updated, r.end.Skipped, r.end.Failed)
}

// shown gives all clients, a line for each.
func (b *book) shown() (out []string) {
	b.t.Helper()
	var page web.Page[Client]
	if status := b.Call(http.MethodGet, "/mailing/clients?limit=1000", nil, &page); status != http.StatusOK {
		b.t.Fatal(status)
	}
	for _, c := range page.Items {
		attributes, _ := json.Marshal(c.Attributes)
		out = append(out, fmt.Sprintf("%d %s %s %s %s %s", c.ID, c.PhoneNumber, c.OperatorCode, c.Tag, c.Timezone, attributes))
	}
	return out
}

func TestAnImportStoresWhatIsGoodAndTellsTheRest(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		b := newBook(t, options...)
		b.make("79160000000", "old")
		got := send(t, b, "csv", "", "\uFEFFname;Timezone;tag;phone_number;operator_code\r\n"+
			"\"Anna; \"\"A\"\"\";Europe/Moscow;vip;79160000000;901\r\n"+
			"\r\n"+
			"Bob;Europe/Nowhere;vip;79160000001;\r\n"+
			";UTC;\"two\nlines\";79160000002;\r\n"+
			"\"open;UTC;vip;79160000003;\r\n"+
			"Eve;UTC;vip;79160000004;\r\n"+
			"short;UTC\r\n"+
			"Eve;UTC;vip;79160000004;904\r\n"+
			"\"Two\nnames\";UTC;vip;79160000005;\n"+
			"\xff;UTC;vip;79160000006;\n"+
			"Last;UTC;;1;x")
		want := []string{
			"4 timezone must be the name of an IANA time zone, such as Europe/Moscow",
			"5 tag must not hold control characters",
			"7  a quotation mark is in the wrong place or missing",
			"9  has 2 fields where the header has 5",
			"13  the line is not valid UTF-8",
			"14 phone_number must be 7 and ten more digits",
			"14 operator_code must be three digits",
			"14 tag must not be empty",
		}
		if strings.Join(got.faults, "\n") != strings.Join(want, "\n") || got.counts() != "2 created, 2 updated, 0 skipped, 6 failed" || got.end.Line != 14 {
			t.Errorf("%s, %+v\n%s", got.counts(), got.end, strings.Join(got.faults, "\n"))
		}
		clients := strings.Join(b.shown(), "\n")
		if want := "1 79160000000 901 vip Europe/Moscow {\"name\":\"Anna; \\\"A\\\"\"}\n2 79160000004 904 vip UTC {\"name\":\"Eve\"}\n3 79160000005 916 vip UTC {\"name\":\"Two\\nnames\"}"; clients != want {
			t.Errorf("%s\nwant\n%s", clients, want)
		}
		got = send(t, b, "ndjson", "skip", `{"phone_number":"79160000000","tag":"x","timezone":"UTC"}`+"\n"+
			`{"phone_number":"79160000009","tag":"x","timezone":"UTC","operator_code":"","attributes":{"n":1.50}}`+"\n"+
			`{"phone_number":"79160000009","tag":"x","timezone":"UTC","attributes":{"n":1.50}}`+"\n"+
			`{"phone_number":"79160000009","tag":"y","timezone":"UTC","attributes":{"n":1.50}}`+"\n[]\n{\n{\"x\":1}\n{\"phone_number\":1,\"tag\":\"x\",\"timezone\":null}\nnull")
		want = []string{"2 operator_code must be three digits", "5  is not an object", "6  is not JSON at byte 1", "7  has a member that is not known",
			"8 phone_number must be a text", "8 timezone must be a text", "9  is not an object"}
		if strings.Join(got.faults, "\n") != strings.Join(want, "\n") || got.counts() != "1 created, 1 updated, 1 skipped, 6 failed" {
			t.Errorf("%s\n%s", got.counts(), strings.Join(got.faults, "\n"))
		}
		got = send(t, b, "ndjson", "error", `{"phone_number":"79160000009","tag":"z","timezone":"UTC"}`+"\n"+`{"phone_number":"79160000010","tag":"z","timezone":"UTC"}`)
		if fmt.Sprint(got.faults) != "[1 phone_number belongs to another client]" || got.counts() != "1 created, 0 updated, 0 skipped, 1 failed" {
			t.Errorf("%s %s", got.counts(), got.faults)
		}
		clients = strings.Join(b.shown()[3:], "\n")
		if want := "4 79160000009 916 y UTC {\"n\":1.50}\n5 79160000010 916 z UTC null"; clients != want {
			t.Errorf("%s\nwant\n%s", clients, want)
		}
	})
}

func TestImportsThatCannotBegin(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	for name, c := range map[string]struct{ query, media, body, want string }{
		"no format":       {"", "application/json", "x", "415 header.Content-Type"},
		"unknown format":  {"?format=xml", "text/csv", "x", "415 header.Content-Type"},
		"unknown mode":    {"?existing=drop", "text/csv", "x", "422 query.existing"},
		"empty":           {"", "text/csv", "", "422 body (the header is missing)"},
		"no tag":          {"", "text/csv; charset=utf-8", "phone_number,timezone", "422 body (the header lacks the column tag)"},
		"twice":           {"", "text/csv", "phone_number,timezone,tag,TAG", "422 body (the header names column 4 as another one)"},
		"bad name":        {"", "text/csv", "phone_number,timezone,tag,last name", "422 body (the header has a name for column 4 that is not 1 to 64 letters, digits and underscores, the first no digit)"},
		"quotation marks": {"", "text/csv", "phone_number,timezone,\"tag", "422 body (the header has a quotation mark in the wrong place)"},
		"long":            {"", "text/csv", strings.Repeat("x", 70<<10), "422 body (the header cannot be read: the line is longer than 65536 bytes)"},
	} {
		r := b.Request(b.Key, http.MethodPost, "/mailing/clients/import"+c.query, c.body)
		r.Header.Set("Content-Type", c.media)
		resp, raw := b.Exchange(r)
		var p struct {
			Errors []struct{ Location, Message string }
		}
		if err := json.Unmarshal(raw, &p); err != nil || len(p.Errors) != 1 {
			t.Fatalf("%s: %s %s", name, resp.Status, raw)
		}
		got := fmt.Sprintf("%d %s", resp.StatusCode, p.Errors[0].Location)
		if p.Errors[0].Location == "body" {
			got += " (" + p.Errors[0].Message + ")"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// aMess is so many lines of CSV, of which each hundredth is bad.
func aMess(lines int) io.Reader {
	r, w := io.Pipe()
	go func() {
		out := bufio.NewWriter(w)
		_, _ = fmt.Fprintln(out, "phone_number,operator_code,tag,timezone,name")
		for i := range lines {
			zone := "Europe/Moscow"
			if i%100 == 99 {
				zone = "Europe/Nowhere"
			}
			_, _ = fmt.Fprintf(out, "7916%07d,,tag%d,%s,name %d\n", i, i%7, zone, i)
		}
		_ = w.CloseWithError(out.Flush())
	}()
	return r
}

func TestAnImportOfManyLinesCountsExactly(t *testing.T) {
	t.Parallel()
	const lines = 10_000
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		b := newBook(t, options...)
		got := sendReader(t, b, "csv", "", aMess(lines), nil)
		if got.counts() != "9900 created, 0 updated, 0 skipped, 100 failed" || len(got.faults) != 100 || got.end.Line != lines+1 {
			t.Errorf("%s, %d faults, line %d", got.counts(), len(got.faults), got.end.Line)
		}
		if got.faults[0] != "101 timezone must be the name of an IANA time zone, such as Europe/Moscow" {
			t.Error(got.faults[0])
		}
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, _ = io.Copy(w, aMess(lines))
		_ = w.Close()
		got = sendReader(t, b, "csv", "", &zipped, http.Header{"Content-Encoding": {"gzip"}})
		if got.counts() != "0 created, 9900 updated, 0 skipped, 100 failed" {
			t.Error(got.counts())
		}
		// What the audience is made of: all, each once, along an index.
		picked := 0
		for after := int64(0); ; {
			rows, err := b.clients.store.audience(t.Context(), b.p.DB.Read(), filter{Tag: []string{"tag1", "tag2"}}, after, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) == 0 {
				break
			}
			for _, r := range rows {
				if r.ID <= after {
					t.Fatalf("client %d after %d", r.ID, after)
				}
				after = r.ID
			}
			picked += len(rows)
		}
		want := 0
		for i := range lines {
			if i%100 != 99 && (i%7 == 1 || i%7 == 2) {
				want++
			}
		}
		if picked != want {
			t.Errorf("%d clients are picked, want %d", picked, want)
		}
	})
}

func TestAnImportEndsWithItsClient(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	body, feed := io.Pipe()
	r := b.Request(b.Key, http.MethodPost, "/mailing/clients/import?format=csv", body)
	answered := make(chan *http.Response, 1)
	go func() {
		resp, _ := http.DefaultClient.Do(r) // it breaks off, before or after the first line of the answer
		answered <- resp
	}()
	_, _ = io.Copy(feed, io.LimitReader(aMess(600), 1<<20))
	// Lines that were taken are stored while the body still comes.
	apptest.Eventually(t, func() string {
		if n := len(b.shown()); n < 400 {
			return fmt.Sprintf("%d clients", n)
		}
		return ""
	})
	_ = feed.CloseWithError(io.ErrClosedPipe)
	if resp := <-answered; resp != nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	apptest.Eventually(t, func() string {
		if n := len(b.shown()); n != 594 {
			return fmt.Sprintf("%d clients", n)
		}
		return ""
	})
}

func TestAnImportEndsWithTheServer(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	body, feed := io.Pipe()
	defer feed.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultClient.Do(b.Request(b.Key, http.MethodPost, "/mailing/clients/import?format=csv", body)); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	_, _ = io.WriteString(feed, "phone_number,tag,timezone\n79160000000,t,UTC\n")
	b.Stop()
	_ = feed.CloseWithError(io.ErrClosedPipe)
	<-gone
}
