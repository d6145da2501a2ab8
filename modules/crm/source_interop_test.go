package crm

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/kafka"
)

// Clients that others wrote send the platform's events.

func TestEventsSentByKafkajsComeAsTheyWereSent(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(1))
	s := source(t, Config{}, cfg, bustest.Embedded(t), &intray{})
	list := npmSends(t, "kafka", cfg.Brokers[0])
	want := map[string]string{}
	next := map[string]int{}
	for _, l := range list {
		want["kafka/"+l.Topic+"/0/"+strconv.Itoa(next[l.Topic])] = l.Value
		next[l.Topic]++
	}
	apptest.Within(t, 30*time.Second, s.in.has(len(list)))
	compareEvents(t, s.in.all(), want)
	apptest.Within(t, 10*time.Second, s.lags("kafka", 0))
}

func TestEventsSentByNATSjsComeAsTheyWereSent(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]bus.Config{"embedded": {Dir: t.TempDir(), Listen: "127.0.0.1:0"}, "external": {URL: bustest.External(t)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.Open(t, cfg)
			s := source(t, Config{NATSSource: true}, kafka.Config{}, b, &intray{})
			apptest.Within(t, 10*time.Second, s.is("nats", sourceReading, ""))
			url := cfg.URL
			if url == "" {
				url = b.ClientURL()
			}
			if name == "embedded" { // it listens a moment after it says so
				publishLines(t, dial(t, url), numbered(topicUser, 0, 1))
				s.in.forget()
			}
			list := npmSends(t, "nats", url)
			apptest.Within(t, 30*time.Second, func() string {
				if got := len(s.in.all()); got < len(list) {
					return strconv.Itoa(got) + " events"
				}
				return ""
			})
			equalLines(t, s.in.all(), list)
		})
	}
}

// npmSends has a client of npm send the events of both files.
func npmSends(t *testing.T, to, address string) []line {
	t.Helper()
	node := apptest.Program(t, "node", "nodejs")
	dir := apptest.Packages(t, "testdata/npm")
	list := lines(t, "events.jsonl", "edge-cases.jsonl")
	if _, err := os.ReadFile("testdata/npm/produce.mjs"); err != nil { // or go test would keep an old result
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "testdata/npm/produce.mjs", to, address, "testdata/events.jsonl", "testdata/edge-cases.jsonl")
	cmd.Env = append(os.Environ(), "CRM_PACKAGES="+dir, "KAFKAJS_NO_PARTITIONER_WARNING=1")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != strconv.Itoa(len(list)) {
		t.Fatalf("%v\n%s", err, out)
	}
	return list
}

func TestAProductBringsEventsOfKafkaAndNATSToTheCRM(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(1))
	listen := "127.0.0.1:" + strconv.Itoa(freePort(t))
	o := newOffice(t, apptest.Env("APP_KAFKA_BROKERS="+cfg.Brokers[0], "APP_BUS_LISTEN="+listen))
	cl, _ := admin(t, cfg)
	list, edges := lines(t, "events.jsonl"), lines(t, "edge-cases.jsonl")
	send(t, cl, 1, list)
	publishLines(t, dial(t, "nats://"+listen), edges)
	want := map[string]bool{}
	for _, l := range append(list, edges...) {
		if user, _, err := parseEvent(l.Topic, []byte(l.Value)); err == nil && user != nil {
			want[user.ID] = true
		}
	}
	apptest.Within(t, 30*time.Second, func() string {
		var users []struct{ ID string }
		o.product.Call("GET", "/crm/users", nil, &users)
		if len(users) != len(want) {
			return strconv.Itoa(len(users)) + " users"
		}
		for _, u := range users {
			if !want[u.ID] {
				t.Errorf("the user %s is nobody's", u.ID)
			}
		}
		return ""
	})
	// What was published lies nowhere in the clear.
	var texts []string
	for _, l := range edges {
		if user, _, err := parseEvent(l.Topic, []byte(l.Value)); err == nil && user != nil {
			texts = append(texts, *user.Email)
		}
	}
	o.product.Stop()
	if hits := apptest.Hits(t, o.product.Dir, o.product.Log.String(), texts...); len(hits) > 0 {
		t.Errorf("in the clear: %q", hits)
	}
}
