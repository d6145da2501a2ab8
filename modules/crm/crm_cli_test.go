package crm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
)

// crmLine runs "app crm …" against a server until ctx ends, and tells what was
// printed.
func crmLine(ctx context.Context, server, key string, out io.Writer, args ...string) error {
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(crmCommand())
	root.SetArgs(append([]string{"crm", "--server", server, "--key", key}, args...))
	root.SetOut(out)
	root.SetErr(io.Discard)
	return root.ExecuteContext(ctx)
}

// oneAnswer is a server that gives one answer to everything, and notes what was
// asked.
func oneAnswer(t *testing.T, answer string) (url string, asked func() string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body)))
		mu.Unlock()
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, "\n")
	}
}

func TestCRMCommandsAskAndPrint(t *testing.T) {
	t.Parallel()
	const (
		users  = `[{"Id":"u1","LastName":"One","FirstName":null,"Email":"a@b","LastTripType":"Scooter","LastTripId":"t1","LastTripDate":"2026-01-02T10:00:00.1234567+03:00"},{"Id":"\u001b[2J","LastName":"","FirstName":"F","Email":"","LastTripType":null,"LastTripId":null,"LastTripDate":"0001-01-01T00:00:00Z"}]`
		trips  = `[{"Id":"t1","UserId":"","From":null,"To":"There","Price":0.75,"StartDate":"2026-01-02T10:00:00+03:00","EndDate":null,"Type":"Rental"}]`
		status = `{"state":"failing","reasons":["the CRM fails"],"crm":{"address":"https://crm.example","breaker":"open","until":"2026-01-02T03:04:05.000000Z","calls":[{"kind":"user","call":"create","result":"not_found","count":7}]},` +
			`"sources":[{"source":"kafka","state":"reading","lag":4,"partitions":[{"topic":"internal_user_updated","partition":2,"position":9,"end":13,"lag":4,"at":"2026-01-02T03:04:05.000000Z"}]},{"source":"nats","state":"waiting","reason":"not there","lag":0,"partitions":[]}],` +
			`"bus_messages":1,"positions":[{"log":"kafka/x/2@a","events":12,"seq":8,"at":"2026-01-02T03:04:05.000000Z"}],"users":1,"trips":2,"dirty":{"units":1,"objects":3,"waiting":1,"oldest_seconds":65},` +
			`"dead_letters":{"events":1,"users":0,"trips":2},"backfill":{"state":"failed","reason":"no","users":3,"trips":1}}`
		letter  = `{"id":"0198","kind":"event","reason":"Event.Id is missing","created_at":"2026-01-02T03:04:05.000000Z","topic":"internal_user_updated","log":"kafka/x/0","seq":5,"at":"2026-01-02T03:04:05.000000Z","content":"{\"a\":\u001b1}"}`
		letters = `{"items":[` + letter + `,{"id":"0199","kind":"user","reason":"the CRM refuses it: status 400","created_at":"2026-01-02T03:04:05.000000Z","object_id":"u1"}],"next":null}`
		found   = `{"users":{"compared":3,"equal":1,"different":1,"missing":1,"waiting":0,"refused":0,"extra":0,"duplicate":0},"trips":{"compared":0,"equal":0,"different":0,"missing":0,"waiting":0,"refused":0,"extra":1,"duplicate":0},` +
			`"differences":[{"kind":"user","id":"u1","what":"different","fields":["Email","LastName"]},{"kind":"user","id":"u2","what":"missing"},{"kind":"trip","id":"t1","what":"extra"}],"truncated":true,"repairing":2}`
		redriven = `{"folded":1,"sending":2,"gone":0,"dead":0,"reasons":[]}`
	)
	for _, c := range []struct {
		name, answer string
		args         []string
		asked, want  string
	}{
		{"users", users, []string{"users", "list"}, "GET /crm/users",
			`^USER +LAST NAME +FIRST NAME +E-MAIL +LAST TRIP +TYPE +DATE\nu1 +One +- +a@b +t1 +Scooter +2026-01-02T10:00:00\.1234567\+03:00\n·\[2J +- +F +- +- +- +-\n$`},
		{"one user of many", users, []string{"users", "list", "--limit", "1", "--json"}, "GET /crm/users", `^\{"Id":"u1",.*\}\n$`},
		{"a user", users[1 : strings.Index(users, "},")+1], []string{"users", "get", "a/b"}, "GET /crm/users/a%2Fb", `^user +u1\nlast name +One\ne-mail +a@b\nlast trip +t1, Scooter, 2026-01-02\S+\n$`},
		{"trips", trips, []string{"trips", "list", "--limit", "0"}, "GET /crm/trips", `^TRIP .*\nt1 +- +Rental +2026-01-02T10:00:00\+03:00 +- +0\.75 +- +There\n$`},
		{"a trip for a script", trips[1 : len(trips)-1], []string{"trips", "get", "t1", "--json"}, "GET /crm/trips/t1", `^\{"Id":"t1".*\}\n$`},
		{"status", status, []string{"status"}, "GET /crm/integration/status", `^state +failing\n +the CRM fails\nCRM +https://crm\.example\nbreaker +open, next call at 2026-01-02T03:04:05Z\nknown +1 user, 2 trips\n` +
			`to be sent +3 objects of 1 user, the oldest for 1m05s\nwaiting +1 trip whose user has not come yet\ndead letters +1 event, 0 users, 2 trips\non the bus +1 message\nbackfill +failed, 3 users and 1 trip marked: no\n\n` +
			`SOURCE .*\nkafka +reading +internal_user_updated +2 +9 +4 +2026-01-02T03:04:05Z\nnats +waiting \(not there\) +- +- +- +0 +-\n\nLOG .*\nkafka/x/2@a +12 +8 +2026-01-02T03:04:05Z\n\nCALLS OF .*\nuser +create +not found +7\n$`},
		{"status for a script", status, []string{"status", "--json"}, "GET /crm/integration/status", `^\{"state":"failing".*\}\n$`},
		{"letters", letters, []string{"dead-letters", "list", "--kind", "event"}, "GET /crm/integration/dead-letters?kind=event&limit=50",
			`^LETTER +KIND +SINCE +ABOUT +REASON\n0198 +event +2026-01-02T03:04:05Z +kafka/x/0 place 5 +Event\.Id is missing\n0199 +user +\S+ +u1 +the CRM refuses it: status 400\n$`},
		{"a letter", letter, []string{"dead-letters", "show", "0198", "--content"}, "GET /crm/integration/dead-letters/0198?content=true", `^letter +0198\nkind +event\nreason +Event\.Id is missing\nsince .*\nabout +kafka/x/0 place 5\ntopic +internal_user_updated\nhappened .*\ncontent +\{"a":·1\}\n$`},
		{"redrive one", redriven, []string{"dead-letters", "redrive", "0198"}, "POST /crm/integration/dead-letters/0198/redrive", `^folded +1 event\nsending +2 users and trips\n$`},
		{"redrive a kind", redriven, []string{"dead-letters", "redrive", "--all", "--kind", "trip", "--json"}, `POST /crm/integration/dead-letters/redrive {"kind":"trip"}`, `^\{"folded":1.*\}\n$`},
		{"discard", "", []string{"dead-letters", "discard", "0198", "0199"}, "DELETE /crm/integration/dead-letters/0198\nDELETE /crm/integration/dead-letters/0199", `^$`},
		{"reconcile", found, []string{"reconcile"}, `POST /crm/integration/reconcile {"limit":50,"repair":true}`,
			`^KIND .*\nusers +3 +1 +1 +1 +0 +0 +0 +0\ntrips +0 +0 +0 +0 +0 +0 +1 +0\n\nuser +u1 +different +Email, LastName\nuser +u2 +missing *\ntrip +t1 +extra *\n…\n\n2 objects are sent again\n$`},
		{"only compare", found, []string{"reconcile", "--no-repair", "--limit", "0", "--json"}, `POST /crm/integration/reconcile {"limit":0,"repair":false}`, `^\{"users".*\}\n$`},
		{"backfill", `{"state":"reading","users":0,"trips":0}`, []string{"backfill", "--from", "2026-01-02T00:00:00Z"}, `POST /crm/integration/backfill {"from":"2026-01-02T00:00:00Z"}`, `^reading\n$`},
		{"faults", `{"latency":"20ms","jitter":"0s","errors":0.2,"throttle":0,"down":false,"ids":"own","refuse":["a"]}`, []string{"faults", "show"}, "GET /crm/mock/faults", `^errors +0\.2\nids +own\nlatency +20ms\nrefuse +\["a"\]\n$`},
		{"no faults", `{"latency":"0s","errors":0,"ids":"conflict","refuse":[]}`, []string{"faults", "clear"}, "PUT /crm/mock/faults {}", `^nothing goes wrong\n$`},
		{"more faults", `{"latency":"20ms"}`, []string{"faults", "set", "--errors", "0.5", "--jitter", "1s", "--down", "--json"}, "GET /crm/mock/faults\nPUT /crm/mock/faults " + `{"down":true,"errors":0.5,"jitter":"1s","latency":"20ms"}`, `^\{"latency":"20ms"\}\n$`},
	} {
		url, asked := oneAnswer(t, c.answer)
		var out bytes.Buffer
		err := crmLine(t.Context(), url, "k", &out, c.args...)
		if err != nil || asked() != c.asked || !regexp.MustCompile(c.want).MatchString(out.String()) {
			t.Errorf("%s: %v\nasked %s\nwant  %s\nprinted %s", c.name, err, asked(), c.asked, out.String())
		}
	}
}

func TestCRMCommandsTellWhatIsWrong(t *testing.T) {
	t.Parallel()
	url, _ := oneAnswer(t, `{"folded":0,"sending":0,"gone":0,"dead":2,"reasons":[{"reason":"Event is missing","count":2}]}`)
	for args, want := range map[string]string{
		"dead-letters redrive --all":               "2 events are still not understood",
		"dead-letters redrive":                     "give a letter, or --all",
		"dead-letters redrive x --all":             "give a letter, or --all",
		"dead-letters redrive x --kind event":      "give a letter, or --all",
		"dead-letters redrive --all --kind event,": "--kind is event, user or trip",
		"dead-letters list --kind letter":          "--kind is event, user or trip",
		"reconcile --limit 1001":                   "--limit is 0 to 1000",
		"backfill --from yesterday":                "--from is a time",
		"users list":                               "is no list",
		"users list --limit -1":                    "--limit is 0 or more",
		"status --interval 1ms":                    "--interval is at least 100ms",
		"faults set":                               "at least one fault",
		"trace":                                    "accepts 1 arg(s)",
	} {
		if err := crmLine(t.Context(), url, "k", io.Discard, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
	broken, _ := oneAnswer(t, `[{"Id":"u1","LastTripDate":""}`)
	if err := crmLine(t.Context(), broken, "k", io.Discard, "users", "list"); err == nil || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("a list that ends early: %v", err)
	}
}

// printout takes what a command prints while it runs.
type printout struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *printout) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *printout) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestCRMCommandsOverTheProduct(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	run := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if err := crmLine(t.Context(), o.product.URL, o.product.Key, &out, args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return out.String()
	}
	ctx, stop := context.WithCancel(t.Context())
	var watched printout
	done := make(chan error, 1)
	go func() {
		done <- crmLine(ctx, o.product.URL, o.product.Key, &watched, "status", "--watch", "--interval", "100ms")
	}()
	o.say(topicUser, user("u1", "One"))
	o.say(topicBooking, trip("t1", "u1", 1))
	o.say(topicUser, map[string]any{})
	letters := o.dies(1)
	o.rests(1, 1)
	apptest.Eventually(t, func() string {
		if text := watched.String(); !strings.HasSuffix(text, "in step  lag 0, to be sent 0, breaker closed, dead letters 1\n") {
			return text
		}
		return ""
	})
	stop()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
	if out := run("users", "get", "u1"); !strings.Contains(out, "last trip      t1, Scooter, 2026-01-01") {
		t.Error(out)
	}
	apptest.Eventually(t, func() string {
		out := run("trace", "u1")
		for _, want := range []string{"user           u1\n", "state          in step\n", "at the CRM     there, sent at ", "crm.user.received", "crm.trip.created", "seq=0"} {
			if !strings.Contains(out, want) {
				return out
			}
		}
		return ""
	})
	var first struct{ Trip crmTrip }
	if out := run("trace", "t1", "--trip", "--json"); json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &first) != nil || first.Trip.ID != "t1" {
		t.Error(out)
	}
	if out := run("faults", "set", "--latency", "1ms", "--ids", mock.Own); !strings.Contains(out, "ids            own\nlatency        1ms\n") {
		t.Error(out)
	}
	if out := run("faults", "set", "--latency", "0s"); out != "ids            own\n" {
		t.Error(out)
	}
	if out := run("faults", "clear"); out != "nothing goes wrong\n" {
		t.Error(out)
	}
	if out := run("reconcile"); !strings.Contains(out, "users  1         1 ") {
		t.Error(out)
	}
	if out := run("backfill", "--json"); !strings.HasPrefix(out, `{`) {
		t.Error(out)
	}
	id := letters[0].ID.String()
	if out := run("dead-letters", "show", id, "--content"); !strings.Contains(out, `{"Event":{}`) {
		t.Error(out)
	}
	run("dead-letters", "discard", id)
	if err := crmLine(t.Context(), o.product.URL, o.product.Key, io.Discard, "dead-letters", "show", id); err == nil || !strings.Contains(err.Error(), "(404)") {
		t.Errorf("a letter that was discarded: %v", err)
	}
}
