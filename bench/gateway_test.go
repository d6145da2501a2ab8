//go:build linux

package bench

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// logOff is what switches the delivery log off.
const logOff = "APP_GATEWAY_LOG_STRATEGIES="

// target is what a crowd is let loose on: the product, or a stock Socket.IO
// server on node (testdata/node).
type target struct {
	url, key string
	pid      int
	stop     func()
}

// variant starts one of the targets that are measured side by side.
type variant struct {
	prefix string // of the names of its figures
	start  func(*testing.B) target
}

var variants = []variant{
	{"", func(b *testing.B) target { return product(b) }},
	{"node-", func(b *testing.B) target { return stock(b, "off") }},
	{"log-off-", func(b *testing.B) target { return product(b, logOff) }},
	{"node-log-", func(b *testing.B) target { return stock(b, "on") }},
}

func product(b *testing.B, env ...string) target {
	b.Helper()
	p := apptest.Exec(b, b.TempDir(), env, "--modules=gateway")
	return target{p.URL, p.Key, p.PID(), p.Kill}
}

func stock(b *testing.B, log string) target {
	b.Helper()
	dir := stockPackages(b)
	node, err := exec.LookPath("node")
	if err != nil {
		b.Skip(err)
	}
	out, err := os.Create(filepath.Join(b.TempDir(), "node.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(node, filepath.Join("testdata", "node", "server.mjs"))
	cmd.Env = append(os.Environ(), "BENCH_PACKAGES="+dir, "BENCH_LOG="+log, "NODE_ENV=production")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b.Cleanup(stop)
	s := target{pid: cmd.Process.Pid, stop: stop}
	apptest.Within(b, time.Minute, func() string {
		text, err := os.ReadFile(out.Name())
		line, _, whole := strings.Cut(string(text), "\n")
		if err != nil || !whole {
			return fmt.Sprintf("node is not ready: %v", err)
		}
		s.url = line
		return ""
	})
	return s
}

// stockPackages gives a folder in the user's cache with the packages of
// testdata/node/package.json, installed by npm if they are not there yet.
func stockPackages(b *testing.B) string {
	b.Helper()
	list, err := os.ReadFile(filepath.Join("testdata", "node", "package.json"))
	if err != nil {
		b.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		b.Fatal(err)
	}
	cache = filepath.Join(cache, "switchboard")
	sum := sha256.Sum256(list)
	dir := filepath.Join(cache, "npm-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			b.Fatal(err)
		}
		return dir
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		b.Fatal(err)
	}
	fresh, err := os.MkdirTemp(cache, "npm-new-")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fresh, "package.json"), list, 0o600); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", fresh).CombinedOutput()
	if err != nil {
		_ = os.RemoveAll(fresh)
		b.Skipf("npm: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil {
		b.Fatal(err)
	}
	return dir
}

// manyFiles lets this process and those that it starts open as many files as
// there are sockets.
func manyFiles(b *testing.B, sockets uint64) {
	b.Helper()
	want := sockets + 2000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	limit.Max = max(limit.Max, want)
	limit.Cur = limit.Max
	// Also when nothing changes: a limit that is set is inherited.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Skipf("%d open files are not allowed here: %v", want, err)
	}
}

// cpu gives the processor time that a process has used, in clock ticks of 10 ms
// (proc_pid_stat(5)).
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// restingCPU is cpu once the process has nothing left to do: what it put off,
// such as its log, counts as well.
func restingCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	last := cpu(b, pid)
	for range 60 {
		time.Sleep(500 * time.Millisecond)
		now := cpu(b, pid)
		if now-last <= 20*time.Millisecond {
			return now
		}
		last = now
	}
	return last
}

// resident gives the resident memory of a process in KiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * float64(os.Getpagesize()) / 1024
}

// publisher sends numbered events over a few connections.
type publisher struct {
	target
	client http.Client
	next   int
	pad    string
}

func newPublisher(s target) *publisher {
	return &publisher{target: s, pad: strings.Repeat("x", 200), client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}}
}

// send sends n events at once and waits for the answers.
func (p *publisher) send(b *testing.B, n int) {
	b.Helper()
	failures := make(chan error, n)
	var all sync.WaitGroup
	for i := range n {
		number := p.next + i
		all.Go(func() {
			if err := p.post(number); err != nil {
				failures <- err
			}
		})
	}
	all.Wait()
	p.next += n
	select {
	case err := <-failures:
		b.Fatal(err)
	default:
	}
}

func (p *publisher) post(number int) error {
	req, err := http.NewRequest(http.MethodPost, p.url+"/events", strings.NewReader(
		fmt.Sprintf(`{"event":%q,"room":%q,"data":{"n":%d,"pad":%q}}`, eventName, roomName, number, p.pad)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+p.key)
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

// BenchmarkGatewaySockets: connections per second for 10,000 sockets, 64 at a
// time, how many failed, and memory per idle socket at 5,000.
func BenchmarkGatewaySockets(b *testing.B) {
	const half = 5000
	manyFiles(b, 2*half)
	b.ReportMetric(0, "ns/op")
	rate := map[string]float64{}
	for _, v := range variants[:2] {
		s := v.start(b)
		c := newCrowd(b, s, 1)
		c.connect(b, 50) // what is made once is none of a socket's
		time.Sleep(time.Second)
		before := resident(b, s.pid)
		first, failed := c.connect(b, half)
		time.Sleep(3 * time.Second)
		memory := (resident(b, s.pid) - before) / half
		second, more := c.connect(b, half)
		c.close()
		s.stop()
		rate[v.prefix] = 2 * half / (first + second).Seconds()
		b.ReportMetric(rate[v.prefix], v.prefix+"connects/s")
		b.ReportMetric(float64(failed+more), v.prefix+"failed")
		b.ReportMetric(memory, v.prefix+"KiB/socket")
	}
	b.ReportMetric(rate[""]/rate["node-"], "ratio-connects")
}

// BenchmarkGatewayFanout1000: deliveries per second and the server's processor
// time for each, one event to 1,000 sockets, bursts of four events of about 200
// bytes, with the delivery log on as it is by default, and without; beside a
// stock Socket.IO server without and with a log.
func BenchmarkGatewayFanout1000(b *testing.B) { fanOut(b, 1000) }

// BenchmarkGatewayFanout10000: the same to 10,000 sockets.
func BenchmarkGatewayFanout10000(b *testing.B) { fanOut(b, 10_000) }

func fanOut(b *testing.B, sockets int) {
	const rounds, burst = 2, 4
	manyFiles(b, uint64(sockets))
	type sum struct {
		deliveries     int64
		took, cpu      time.Duration
		logged, missed float64
	}
	sums := map[string]*sum{}
	for range rounds { // in turn, since the machine has moods
		for _, v := range variants {
			s := v.start(b)
			c := newCrowd(b, s, burst)
			if _, failed := c.connect(b, sockets); failed > 0 {
				b.Fatalf("%d connections failed", failed)
			}
			c.follow()
			p := newPublisher(s)
			salvos := func(d time.Duration) {
				for end := time.Now().Add(d); time.Now().Before(end); {
					p.send(b, burst)
					c.await(b, int64(p.next)*int64(sockets))
				}
			}
			salvos(time.Second)
			used, from, begin := restingCPU(b, s.pid), c.deliveries.Load(), time.Now()
			salvos(measured / 2)
			one := sum{deliveries: c.deliveries.Load() - from, took: time.Since(begin)}
			one.cpu = restingCPU(b, s.pid) - used
			if n := c.faults.Load(); n > 0 {
				b.Errorf("%s%d faults among the deliveries", v.prefix, n)
			}
			if v.prefix == "" {
				one.logged, one.missed = logged(b, s)
			}
			c.close()
			s.stop()
			if sums[v.prefix] == nil {
				sums[v.prefix] = &sum{}
			}
			all := sums[v.prefix]
			*all = sum{all.deliveries + one.deliveries, all.took + one.took, all.cpu + one.cpu, all.logged + one.logged, all.missed + one.missed}
		}
	}
	rate := func(prefix string) float64 {
		return float64(sums[prefix].deliveries) / sums[prefix].took.Seconds()
	}
	effort := func(prefix string) float64 {
		return float64(sums[prefix].cpu.Microseconds()) / float64(sums[prefix].deliveries)
	}
	b.ReportMetric(0, "ns/op")
	for _, v := range variants {
		b.ReportMetric(rate(v.prefix), v.prefix+"deliveries/s")
		b.ReportMetric(effort(v.prefix), v.prefix+"cpu-us/delivery")
	}
	b.ReportMetric(sums[""].logged, "logged-entries")
	b.ReportMetric(sums[""].missed, "log-missed-entries")
	b.ReportMetric(rate("log-off-")/rate("node-"), "log-off-ratio-deliveries")
	b.ReportMetric(effort("log-off-")/effort("node-"), "log-off-ratio-cpu")
	b.ReportMetric(rate("")/rate("node-log-"), "ratio-deliveries")
	b.ReportMetric(effort("")/effort("node-log-"), "ratio-cpu")
}

// logged gives how many entries the product's delivery log has taken, and how
// many it has missed.
func logged(b *testing.B, s target) (written, missed float64) {
	b.Helper()
	resp, err := http.Get(s.url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, "{")
		_, value, _ := strings.Cut(rest, "} ")
		var into *float64
		switch name {
		case "eventlog_entries_total":
			into = &written
		case "eventlog_missed_total":
			into = &missed
		default:
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			b.Fatal(err)
		}
		*into += n
	}
	return written, missed
}

// BenchmarkGatewayLatency: from before an event is sent until a socket has it,
// ten events a second to 1,000 sockets.
func BenchmarkGatewayLatency(b *testing.B) {
	const sockets = 1000
	manyFiles(b, sockets)
	b.ReportMetric(0, "ns/op")
	for _, v := range variants[:2] {
		s := v.start(b)
		c := newCrowd(b, s, 1)
		if _, failed := c.connect(b, sockets); failed > 0 {
			b.Fatalf("%d connections failed", failed)
		}
		c.follow()
		p := newPublisher(s)
		pace := time.NewTicker(time.Second / 10)
		for n := range 10 * int(measured/time.Second) {
			<-pace.C
			c.measuring.Store(n >= 10)
			c.sentAt.Store(time.Now().UnixNano())
			p.send(b, 1)
			c.await(b, int64(p.next)*sockets)
		}
		pace.Stop()
		c.close()
		s.stop()
		if n := c.faults.Load(); n > 0 {
			b.Errorf("%s%d faults among the deliveries", v.prefix, n)
		}
		slices.Sort(c.latency)
		l := load{latency: c.latency}
		b.ReportMetric(float64(l.percentile(0.5).Microseconds())/1000, v.prefix+"p50-ms")
		b.ReportMetric(float64(l.percentile(0.99).Microseconds())/1000, v.prefix+"p99-ms")
	}
}
