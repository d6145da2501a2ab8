package crm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
	node := program(t, "node", "nodejs")
	dir := installed(t)
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

// program finds a program by one of its names. A test without it is skipped,
// in CI it fails.
func program(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	unable(t, "no "+names[0])
	return ""
}

func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// installed gives a folder in the user's cache with the packages of
// package.json, installed by npm if they are not there yet.
func installed(t *testing.T) string {
	t.Helper()
	npm := program(t, "npm")
	npmOnce.Do(func() { npmOnce.dir, npmOnce.err = install(npm) })
	var refused *exec.ExitError
	switch {
	case errors.As(npmOnce.err, &refused):
		unable(t, npmOnce.err.Error())
	case npmOnce.err != nil:
		t.Fatal(npmOnce.err)
	}
	return npmOnce.dir
}

var npmOnce struct {
	sync.Once
	dir string
	err error
}

func install(npm string) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	list, err := os.ReadFile("testdata/npm/package.json")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(list)
	cache = filepath.Join(cache, "switchboard")
	dir = filepath.Join(cache, "npm-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(cache, "npm-new-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // renamed if all went well
	if err := os.WriteFile(filepath.Join(fresh, "package.json"), list, 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command(npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", fresh)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	// Another test process may have been quicker.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
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
