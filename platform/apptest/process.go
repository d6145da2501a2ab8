package apptest

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Build compiles the program once for all tests of this process and gives its
// path.
func Build(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatalf("build the program: %v", err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	// The build cache makes this quick; one file serves every run.
	dir := filepath.Join(root, "build")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "app-under-test")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

// processPatience is how long a process may take to become ready or to stop:
// recovering a large store on a busy machine takes a while.
const processPatience = time.Minute

// Process is the product as a process of its own.
type Process struct {
	URL string
	Key string
	Dir string
	Log *Log
	// Took is how long it was from the start of the process until it was ready.
	Took time.Duration

	t     testing.TB
	cmd   *exec.Cmd
	began time.Time
	done  chan struct{}
}

// Exec starts "app serve" on the data directory dir and waits until it is
// ready. It is killed at the end of the test if it still runs.
func Exec(t testing.TB, dir string, env []string, args ...string) *Process {
	t.Helper()
	p := Launch(t, dir, env, args...)
	if why := p.Await(); why != "" {
		t.Fatal(why)
	}
	return p
}

// Launch is Exec without waiting: for a test that kills the process while it
// starts, or expects that it does not start.
func Launch(t testing.TB, dir string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Dir: dir, Log: &Log{}, t: t, done: make(chan struct{})}
	// What an earlier process left behind would be taken for this one's.
	_ = os.Remove(filepath.Join(dir, "server.url"))
	p.cmd = exec.Command(Build(t), append([]string{"serve", "--listen=127.0.0.1:0", "--data-dir=" + dir}, args...)...)
	p.cmd.Env = append(cleanEnv(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.Log, p.Log
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(p.Kill)
	return p
}

// cleanEnv is the environment without settings of the product: those of whoever
// runs the tests are none of theirs.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "APP_") })
}

// Await waits until the process is ready; it gives the reason, with the log,
// if that does not happen.
func (p *Process) Await() (whyNot string) {
	for !p.ready() {
		select {
		case <-p.done:
			return "the process ended: " + p.cmd.ProcessState.String() + "\n" + p.Log.String()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(p.began) > processPatience {
			return "the process is not ready\n" + p.Log.String()
		}
	}
	p.Took = time.Since(p.began)
	return ""
}

// probe keeps no connection: the next process may listen on the same port.
var probe = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}

func (p *Process) ready() bool {
	url, err := os.ReadFile(filepath.Join(p.Dir, "server.url"))
	if err != nil {
		return false
	}
	p.URL = strings.TrimSpace(string(url))
	key, err := os.ReadFile(filepath.Join(p.Dir, "admin.key"))
	if err != nil {
		return false
	}
	p.Key = strings.TrimSpace(string(key))
	resp, err := probe.Get(p.URL + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// PID is the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process at once, as kill -9 does, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Terminate asks the process to stop and gives its exit code.
func (p *Process) Terminate() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return p.Exit()
}

// Exit waits until the process has ended by itself and gives its exit code.
func (p *Process) Exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(processPatience):
		p.t.Fatalf("the process did not stop\n%s", p.Log)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Within is Eventually for what may take its time: it waits for limit.
func Within(t testing.TB, limit time.Duration, condition func() (whyNot string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		why := condition()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not after %s: %s", limit, why)
		}
		time.Sleep(pause)
	}
}
