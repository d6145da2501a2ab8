package browser_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// create is the line of a page that makes its client.
func create(c *collector, more string) string {
	return fmt.Sprintf(`
const errors = []
const client = createClient({ url: %q, key: %q, onError: e => errors.push(e), %s })
`, c.url, key, more)
}

func TestClientIsSmall(t *testing.T) {
	source, err := os.ReadFile("client.js")
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	z := gzip.NewWriter(&small) // the level a server would choose
	if _, err := z.Write(source); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d gzipped", len(source), small.Len())
	if small.Len() >= 5000 {
		t.Errorf("client.js is %d bytes gzipped, must be below 5000", small.Len())
	}
}

func TestClientUnderNode(t *testing.T) {
	t.Parallel()
	node := apptest.Program(t, "node", "nodejs")
	for _, read := range []string{"client.js", "client.test.mjs", "package.json"} {
		if _, err := os.ReadFile(read); err != nil { // or go test would keep an old result
			t.Fatal(err)
		}
	}
	out, err := exec.Command(node, "--test", "client.test.mjs").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBatchesCrossOriginsWithTheKeyInAHeader(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{"/": create(c, "maxBatch: 10, userId: 'u1'") + `
		for (let i = 0; i < 25; i++) client.track('page interaction', 'e' + i, { path: location.pathname })
		const left = await client.flush()
		report({ left, errors: errors.length, stored: localStorage.length, session: client.session === sessionStorage.getItem('switchboard:session') })`})
	apptest.Chromium(t, s.URL)
	s.want(t, `{"left":0,"errors":0,"stored":0,"session":true}`)
	var sizes []int
	for _, r := range c.posts() {
		sizes = append(sizes, len(r.events))
		if r.beacon || r.contentType != "application/json" {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(sizes, []int{10, 10, 5}) || !c.all()[0].preflight {
		t.Errorf("batches %v, first a preflight: %v", sizes, c.all()[0].preflight)
	}
	for i, e := range c.events() {
		if e.Name != "e"+strconv.Itoa(i) || e.UserID != "u1" || e.Data["path"] != "/" || time.Since(e.Timestamp).Abs() > 5*time.Minute || e.SessionID != c.events()[0].SessionID {
			t.Errorf("%d: %+v", i, e)
		}
		if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7`).MatchString(e.ID) {
			t.Errorf("id %s", e.ID)
		}
	}
}

func TestOriginThatIsNotAllowedKeepsItsQueue(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.allowed = "https://example.com"
	s := newSite(t, map[string]string{"/": create(c, "") + `
		client.track('c', 'a')
		report([await client.flush(), errors.map(e => e.kind), localStorage.length])`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[1,["retry"],1]`)
	if c.names() != "" {
		t.Errorf("stored %s", c.names())
	}
}

func TestOfflineThenOnline(t *testing.T) {
	t.Parallel()
	c, up := newCollectorDown(t)
	s := newSite(t, map[string]string{"/": create(c, "flushInterval: 10") + `
		const ids = ['a', 'b', 'd'].map(name => client.track('c', name))
		while (!errors.length) await sleep(5)
		await report([client.queued, localStorage.length, errors[0].kind])
		while (client.queued) await sleep(5)
		report(ids)`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[3,3,"retry"]`)
	up()
	ids := s.next(t)
	var stored []string
	for _, e := range c.events() {
		stored = append(stored, e.ID)
	}
	if got, _ := json.Marshal(stored); string(got) != ids || c.names() != "a b d" {
		t.Errorf("stored %s %s, tracked %s", got, c.names(), ids)
	}
}

func TestBusyCollectorIsAskedAgainAfterItsTimeWithTheSameEvents(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.says(status(503, "Retry-After", "1"), status(429, "Retry-After", "1"))
	s := newSite(t, map[string]string{"/": create(c, "flushInterval: 10") + `
		client.track('c', 'a')
		client.track('c', 'b')
		while (client.queued) await sleep(5)
		report(errors.map(e => [e.kind, e.status]))`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[["retry",503],["retry",429]]`)
	posts := c.posts()
	if len(posts) != 3 {
		t.Fatalf("%d attempts", len(posts))
	}
	for i := range posts[1:] {
		if gap := posts[i+1].at.Sub(posts[i].at); gap < 990*time.Millisecond {
			t.Errorf("asked again after %s", gap)
		}
		if posts[i+1].events[0].ID != posts[0].events[0].ID {
			t.Error("another attempt, another id")
		}
	}
	if c.names() != "a b" {
		t.Errorf("stored %s", c.names())
	}
}

func TestRejectedEventsAreReported(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{"/": create(c, "") + `
		client.track('c', 'a')
		client.track('c', 'b', { bad: 1 })
		await client.flush()
		client.track('c', 'd', { bad: 2 })
		report([await client.flush(), errors.map(e => [e.kind, e.status, e.events.map(r => [r.event.name, r.errors])])])`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[0,[["rejected",202,[["b",[{"location":"data.bad","message":"unexpected"}]]]],["rejected",422,[["d",[{"location":"data.bad","message":"unexpected"}]]]]]]`)
	if c.names() != "a" || len(c.posts()) != 2 {
		t.Errorf("stored %s in %d requests", c.names(), len(c.posts()))
	}
}

func TestLeavingThePageSendsByBeaconAndTheNextPageConfirms(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{
		"/": create(c, "flushInterval: 60000") + `
			for (const name of ['a', 'b', 'd']) client.track('c', name)
			location.href = '/without'`,
		"/without": `
			await report(localStorage.length)
			location.href = '/with'`,
		"/with": create(c, "") + `
			await report([client.queued, await client.flush(), localStorage.length])`,
	})
	apptest.Chromium(t, s.URL)
	s.want(t, `3`)
	s.want(t, `[3,0,0]`)
	until(t, "the beacon", func() bool { return len(c.posts()) == 2 })
	if c.names() != "a b d" {
		t.Errorf("stored %s", c.names())
	}
	beacon := func(r request) bool { return r.beacon && r.contentType == "text/plain;charset=UTF-8" }
	if posts := c.posts(); !slices.ContainsFunc(posts, beacon) || posts[0].beacon == posts[1].beacon {
		t.Errorf("%+v, want a beacon and its confirmation", posts)
	}
	if n := len(c.all()); n != 3 {
		t.Errorf("%d preflights, want one, for the confirmation", n-2)
	}
}

func TestBeaconsAreSmallAndWhatTheyCanNotCarryStays(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{
		"/": create(c, "flushInterval: 60000, maxBatch: 1000") + `
			for (let i = 0; i < 150; i++) client.track('c', 'e' + i, { x: 'ж'.repeat(500) })
			location.href = '/next'`,
		"/next": create(c, "maxBatch: 1000") + `
			report([client.queued, await client.flush()])`,
	})
	apptest.Chromium(t, s.URL)
	s.want(t, `[150,0]`)
	var want []string
	for i := range 150 {
		want = append(want, "e"+strconv.Itoa(i))
	}
	got := strings.Fields(c.names())
	slices.SortFunc(got, func(a, b string) int {
		return slices.Index(want, a) - slices.Index(want, b)
	})
	if !slices.Equal(got, want) {
		t.Errorf("stored %d: %v", len(got), got)
	}
	beacons := 0
	for _, r := range c.posts() {
		if r.beacon {
			beacons++
			if r.size > 60_000 {
				t.Errorf("a beacon of %d bytes", r.size)
			}
		}
	}
	if beacons == 0 {
		t.Error("no beacon")
	}
}

func TestWithoutSendBeaconAKeepaliveFetchTakesItsPlace(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{
		"/": create(c, "flushInterval: 60000, storage: null") + `
			navigator.sendBeacon = undefined
			client.track('c', 'a')
			location.href = '/without'`,
		"/without": `report(localStorage.length)`,
	})
	apptest.Chromium(t, s.URL)
	s.want(t, `0`)
	until(t, "the event", func() bool { return c.names() == "a" })
	if all := c.all(); len(all) != 1 || !all[0].beacon {
		t.Errorf("%+v", all)
	}
}

func TestQueueSurvivesAReload(t *testing.T) {
	t.Parallel()
	c, up := newCollectorDown(t)
	s := newSite(t, map[string]string{"/": create(c, "flushInterval: 10") + `
		const loads = +sessionStorage.getItem('loads') + 1
		sessionStorage.setItem('loads', loads)
		if (loads < 4) {
			client.track('c', 'load' + loads)
			await client.flush()
			await report([client.queued, errors.at(-1).kind])
			location.reload()
		} else {
			while (client.queued) await sleep(5)
			report([loads, localStorage.length])
		}`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[1,"retry"]`)
	s.want(t, `[2,"retry"]`)
	s.want(t, `[3,"retry"]`)
	up()
	s.want(t, `[4,0]`)
	stored := strings.Fields(c.names())
	slices.Sort(stored) // the last page's beacon may find the collector up
	if !slices.Equal(stored, []string{"load1", "load2", "load3"}) {
		t.Errorf("stored %v", stored)
	}
	for _, e := range c.events() {
		if e.SessionID != c.events()[0].SessionID {
			t.Error("a reload began another session")
		}
	}
}

func TestTwoTabsSendASharedQueueOnceAndLoseNothing(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{
		"/": `
			const old = createClient({ url: '` + c.url + `', key: '` + key + `', flushInterval: 60000 })
			for (let i = 0; i < 40; i++) old.track('c', 'old' + i)
			let done = 0
			addEventListener('message', e => e.data === 'done' && ++done === 4 && report(['done', localStorage.length]))
			for (let i = 0; i < 4; i++) {
				const frame = document.createElement('iframe')
				frame.src = '/tab#' + i
				document.body.append(frame)
			}`,
		"/tab": create(c, "flushInterval: 10, maxBatch: 10") + `
			for (let i = 0; i < 20; i++) { client.track('c', 'tab' + location.hash + i); await sleep(5) }
			while (await client.flush()) await sleep(5)
			parent.postMessage(errors.length ? String(errors[0]) : 'done', '*')`,
	})
	apptest.Chromium(t, s.URL)
	s.want(t, `["done",0]`)
	sent := map[string]int{}
	for _, r := range c.posts() {
		for _, n := range r.names() {
			sent[n]++
		}
	}
	for n, times := range sent {
		if times != 1 {
			t.Errorf("%s sent %d times", n, times)
		}
	}
	if len(sent) != 120 {
		t.Errorf("%d events sent, want 120", len(sent))
	}
}

// Tabs in processes of their own see each other's storage a little late, so an
// event may go out twice. It is stored once.
func TestTabsInOtherProcessesLoseNothing(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{
		"/": create(c, "flushInterval: 60000") + `
			for (let i = 0; i < 40; i++) client.track('c', 'old' + i)
			for (let i = 0; i < 3; i++) open('/tab#' + i, '_blank', 'noopener')`,
		"/tab": create(c, "flushInterval: 10, maxBatch: 10") + `
			for (let i = 0; i < 20; i++) client.track('c', 'tab' + location.hash + i)
			while (await client.flush()) await sleep(5)
			report(['done', errors.length])`,
	})
	apptest.Chromium(t, s.URL)
	for range 3 {
		s.want(t, `["done",0]`)
	}
	seen := map[string]bool{}
	for _, name := range strings.Fields(c.names()) {
		if seen[name] {
			t.Errorf("%s is stored twice", name)
		}
		seen[name] = true
	}
	sent, carried := 0, 0
	for _, r := range c.posts() {
		if r.beacon {
			carried += len(r.events)
		} else {
			sent += len(r.events)
		}
	}
	t.Logf("%d events, sent %d times, carried by beacon %d times", len(seen), sent, carried)
	if len(seen) != 100 {
		t.Errorf("%d events stored, want 100", len(seen))
	}
}

func TestAHiddenPageSendsNewEventsOnceByBeaconAndConfirmsThemLater(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{"/": create(c, "flushInterval: 60000") + `
		let state = 'hidden'
		Object.defineProperty(document, 'visibilityState', { get: () => state })
		const turn = to => { state = to; document.dispatchEvent(new Event('visibilitychange')) }
		client.track('c', 'a')
		turn('hidden')
		turn('visible')
		turn('hidden')
		turn('visible')
		client.track('c', 'b')
		turn('hidden')
		report([client.queued, await client.flush(), localStorage.length])
		client.close()
		turn('hidden')`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[2,0,0]`)
	until(t, "both beacons", func() bool { return len(c.posts()) == 3 })
	var beacons, others []string
	for _, r := range c.posts() {
		if r.beacon {
			beacons = append(beacons, strings.Join(r.names(), " "))
		} else {
			others = append(others, strings.Join(r.names(), " "))
		}
	}
	slices.Sort(beacons) // they may overtake each other
	if !slices.Equal(beacons, []string{"a", "b"}) || !slices.Equal(others, []string{"a b"}) {
		t.Errorf("beacons %v, others %v", beacons, others)
	}
}

func TestATabThatDiesWhileItSendsLeavesItsEventsToTheOthers(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{
		"/": create(c, "flushInterval: 60000") + `
			const frame = document.createElement('iframe')
			frame.src = '/tab'
			document.body.append(frame)
			await new Promise(resolve => addEventListener('message', resolve))
			frame.remove()
			report([await client.flush(), errors.length, localStorage.length])`,
		"/tab": create(c, "") + `
			globalThis.fetch = () => { parent.postMessage('sending', '*'); return new Promise(() => {}) }
			client.track('c', 'a')
			client.flush()`,
	})
	apptest.Chromium(t, s.URL)
	s.want(t, `[0,0,0]`)
	if c.names() != "a" {
		t.Errorf("stored %s", c.names())
	}
}

func TestAFullLocalStorageIsNoHindrance(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{"/": create(c, "flushInterval: 60000") + `
		let size = 1 << 22
		for (let i = 0; size; i++) try { localStorage.setItem('fill' + i, 'x'.repeat(size)) } catch { size >>= 1 }
		client.track('c', 'a')
		client.track('c', 'b')
		report([client.queued, await client.flush(), errors.length])`})
	apptest.Chromium(t, s.URL)
	s.want(t, `[2,0,0]`)
	if c.names() != "a b" {
		t.Errorf("stored %s", c.names())
	}
}

func TestAClassicScriptCanUseIt(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newSite(t, map[string]string{"/": `
		const classic = document.createElement('script')
		classic.text = "import('/client.js').then(m => { const c = m.createClient({ url: '` + c.url + `', key: '` + key + `' }); c.track('c', 'classic'); return c.flush() }).then(report_)"
		globalThis.report_ = report
		document.head.append(classic)`})
	apptest.Chromium(t, s.URL)
	s.want(t, `0`)
	if c.names() != "classic" {
		t.Errorf("stored %s", c.names())
	}
}
