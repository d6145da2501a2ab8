package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// server starts the server at first use. It belongs to the test process: one
// serves all its tests.
var server = sync.OnceValues(startServer)

// running is the server. It must stay referenced: a collected pipe is closed,
// and that stops the server.
type running struct {
	url  string
	life io.Closer
}

var errNoPostgres = errors.New("no PostgreSQL: install it, or set APP_TEST_POSTGRES_URL")

// Postgres gives the URL of a fresh, empty database, which does not outlive the
// test process.
func Postgres(t testing.TB) string {
	t.Helper()
	shared, err := server()
	if errors.Is(err, errNoPostgres) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	admin, name := shared.url, "test_"+strings.ToLower(rand.Text()[:16])
	administer(t, admin, "create database "+name)
	if shared.life == nil { // ours goes as a whole, and dropping syncs the disk each time
		t.Cleanup(func() { administer(t, admin, "drop database "+name+" with (force)") })
	}
	address, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/" + name
	return address.String()
}

func administer(t testing.TB, admin, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func startServer() (*running, error) {
	if preset := os.Getenv("APP_TEST_POSTGRES_URL"); preset != "" {
		return &running{url: preset}, nil
	}
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	owner, err := serverUser()
	if err != nil {
		return nil, err
	}
	// Someone may take the free port before the server does.
	for range 3 {
		started, rerr := newServer(bin, owner)
		if rerr == nil {
			return started, nil
		}
		err = errors.Join(err, rerr)
	}
	return nil, err
}

func newServer(bin string, owner *syscall.Credential) (*running, error) {
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", data, "--username=postgres",
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return run(bin, dir, owner)
}

// watch starts the server and waits for the end of its input, which comes when
// the test process ends, even by a kill; then it stops the server and removes
// its files.
const watch = `"$0" "$@" & server=$!
while read -r line; do :; done
kill -QUIT $server; wait $server; rm -rf "$PWD"`

func run(bin, dir string, owner *syscall.Credential) (*running, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(dir, "log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/bin/sh", "-c", watch, filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"),
		"-k", dir, "-c", "listen_addresses=127.0.0.1", "-p", strconv.Itoa(port),
		"-c", "max_connections=300", "-c", "shared_buffers=32MB", "-c", "autovacuum_naptime=1h", "-c", "checkpoint_timeout=1h",
		"-c", "wal_level=minimal", "-c", "max_wal_senders=0")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	// A group of its own: an interrupt from the terminal reaches it by the pipe.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner, Setpgid: true}
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	address := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
	if err := awaitServer(address, dir, port); err != nil {
		out, _ := os.ReadFile(log.Name())
		_ = life.Close()
		_ = cmd.Wait()
		return nil, fmt.Errorf("start PostgreSQL: %w\n%s", err, out)
	}
	return &running{address, life}, nil
}

// awaitServer waits until this server, not another on the same port, answers.
func awaitServer(address, dir string, port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		_, err := os.Stat(filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", port)))
		if err == nil {
			var conn *pgx.Conn
			if conn, err = pgx.Connect(ctx, address); err == nil {
				return conn.Close(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func findBinaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return release(a) - release(b) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errNoPostgres
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

func release(path string) int {
	number, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return number
}

// serverUser gives the user to run the server as: PostgreSQL refuses root.
func serverUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
