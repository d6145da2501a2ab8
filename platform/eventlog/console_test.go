package eventlog_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"switchboard/platform/eventlog"
	"switchboard/platform/store"
)

// consoleLine is what the sample's lines have in common; the product's name
// and the space after "to:", which the sample has and has not, apart.
var consoleLine = regexp.MustCompile(`^\[(?:Nest|App)\] (\d+) - (\d{2}/\d{2}/\d{4}, \d{1,2}:\d{2}:\d{2} [AP]M)  \[([^\]]+)\] (.+) \+(\d+)ms$`)

func TestConsoleLinesLookLikeTheSample(t *testing.T) {
	t.Parallel()
	sample, err := os.ReadFile("testdata/log-lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	console := &screen{}
	l := p.open(eventlog.Config{Strategies: []string{eventlog.Console}}, outputs{console: console})
	var want []string
	last := p.now()
	for line := range strings.Lines(string(sample)) {
		line = strings.TrimSuffix(line, "\n")
		m := consoleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("the sample has another form: %q", line)
		}
		at, err := time.Parse("01/02/2006, 3:04:05 PM", m[2])
		if err != nil {
			t.Fatal(err)
		}
		// The same entry, written as long after the one before as in the sample.
		delta, err := time.ParseDuration(m[5] + "ms")
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 {
			m[5] = "0" // nothing came before
		}
		p.advance(delta)
		last = last.Add(delta)
		want = append(want, fmt.Sprintf("[App] %d - %s  [%s] %s +%sms", os.Getpid(), m[2], m[3], m[4], m[5]))
		l.log(eventlog.Entry{Event: m[3], Text: m[4], Time: at})
		eventually(t, "the line is out", func() bool { return l.figures(eventlog.Console).written == len(want) })
	}
	if got := strings.Join(console.lines(), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("have\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestConsoleHasALineForEachTarget(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	console := &screen{}
	l := p.open(eventlog.Config{Strategies: []string{eventlog.Console}}, outputs{console: console})
	targets := make([]string, 3000)
	for i := range targets {
		targets[i] = fmt.Sprint("socket-", i)
	}
	l.log(eventlog.Entry{Event: "customer.suscribed", Text: "suscriptionId: 7e29", Targets: targets, TargetKind: "socket"})
	l.log(eventlog.Entry{Event: "bare"})
	l.stop()
	lines := console.lines()
	if len(lines) != 3002 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines[:3001] {
		m := consoleLine.FindStringSubmatch(line)
		text := "suscriptionId: 7e29"
		if i > 0 {
			text = fmt.Sprintf("event sent to: socket-%d", i-1)
		}
		if m == nil || m[3] != "customer.suscribed" || m[4] != text {
			t.Fatalf("line %d: %q", i, line)
		}
	}
	if want := "  [bare] +0ms"; !strings.HasSuffix(lines[3001], want) {
		t.Errorf("%q does not end with %q", lines[3001], want)
	}
}

// What comes from outside must not forge a line or command the terminal.
func TestConsoleKeepsToItsLine(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	console := &screen{}
	l := p.open(eventlog.Config{Strategies: []string{eventlog.Console}}, outputs{console: console})
	l.log(eventlog.Entry{Event: "a\r\n[App] 1", Text: "b\x1b[2J\u202egpj.exe \u00e9👩‍👩‍👧", Targets: []string{"t\n"}})
	l.stop()
	lines := console.lines()
	if len(lines) != 2 || !strings.Contains(lines[0], `[a\r\n[App] 1] b\x1b[2J\u202egpj.exe é👩‍👩‍👧 +`) || !strings.Contains(lines[1], `sent to: t\n +`) {
		t.Errorf("%q", lines)
	}
}
