package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/logs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// finding is one thing that doctor looked at.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // ok, warning, wrong
	Text  string `json:"text"`
}

const (
	stateOK      = "ok"
	stateWarning = "warning"
	stateWrong   = "wrong"
)

func doctorCommand(modules []Module) *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what is wrong with this machine, the configuration or the data directory", Args: cobra.NoArgs,
		Long:    "Look at the configuration, the machine and the data directory, and say what is wrong and what to do.\nIt repairs nothing, and works beside a running server as well as without one. Exits with 1 if something is wrong.",
		Example: "  app doctor\n  app doctor --data-dir=/var/lib/switchboard --json",
	}
	load := bindSettings(cmd, modules, os.Environ())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, _, err := load()
		if err != nil {
			return err
		}
		findings := examine(cmd.Context(), set, modules)
		wrong := 0
		for _, f := range findings {
			if f.State == stateWrong {
				wrong++
			}
			if wantsJSON(cmd) {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(f)
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%-8s %-14s %s\n", f.State, f.Check, f.Text)
			}
			if err != nil {
				return err
			}
		}
		if wrong > 0 {
			return fmt.Errorf("%d thing(s) are wrong", wrong)
		}
		return nil
	}
	return cmd
}

// examine makes all checks that the situation allows.
func examine(ctx context.Context, set *settings, modules []Module) []finding {
	var out []finding
	add := func(check, state, format string, args ...any) {
		out = append(out, finding{check, state, fmt.Sprintf(format, args...)})
	}
	add("configuration", stateOK, "it is valid")
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		if files.Cur < 4096 {
			add("open files", stateWarning, "the limit is %d: raise it to 65536 for many connections (ulimit -n)", files.Cur)
		} else {
			add("open files", stateOK, "the limit is %d", files.Cur)
		}
	}
	if set.MasterKey == "" {
		add("master key", stateWarning, "it lies in the data directory beside what it protects: set master_key (APP_MASTER_KEY) for anything but a local run")
	} else {
		add("master key", stateOK, "it comes from the configuration")
	}
	if set.store.Sync != "full" {
		add("durability", stateWarning, "store.sync is %s: a power cut may lose the last commits", set.store.Sync)
	}
	if set.bus.Sync != "" && set.bus.Sync != "always" {
		add("durability", stateWarning, "bus.sync is %s: a power cut may lose what was acknowledged within it", set.bus.Sync)
	}
	if !examineDir(set, add) {
		return out
	}
	release, err := lockDir(set.DataDir)
	if err != nil {
		examineRunning(ctx, set, add)
		return out
	}
	defer release()
	add("server", stateOK, "none runs on this data directory")
	if l, err := net.Listen("tcp", set.Listen); err != nil {
		add("port", stateWrong, "cannot listen on %s: %v", set.Listen, err)
	} else {
		_ = l.Close()
		add("port", stateOK, "%s is free", set.Listen)
	}
	examineStores(ctx, set, modules, add)
	return out
}

type adder func(check, state, format string, args ...any)

// examineDir looks at the data directory without making it; it tells whether
// there is one.
func examineDir(set *settings, add adder) bool {
	info, err := os.Stat(set.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		add("data directory", stateOK, "%s does not exist yet; the first start makes it", set.DataDir)
		return false
	}
	if err != nil {
		add("data directory", stateWrong, "it cannot be used: %v", err)
		return false
	}
	if !info.IsDir() {
		add("data directory", stateWrong, "%s is not a directory", set.DataDir)
		return false
	}
	if _, err := os.Stat(set.path(dirRestoring)); err == nil {
		add("data directory", stateWrong, "a restore into it did not end: empty it and restore again")
		return false
	}
	if info.Mode().Perm()&0o077 != 0 {
		add("data directory", stateWarning, "others may look into %s: chmod 700 it", set.DataDir)
	}
	probe := filepath.Join(set.DataDir, ".doctor")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		add("data directory", stateWrong, "cannot write to it: %v", err)
		return false
	}
	_ = os.Remove(probe)
	var disk syscall.Statfs_t
	if err := syscall.Statfs(set.DataDir, &disk); err == nil {
		free := float64(disk.Bavail) * float64(disk.Bsize) / (1 << 30)
		switch {
		case free < 1.0/16:
			add("disk", stateWrong, "only %.2f GiB are free: events are refused soon", free)
		case free < 1:
			add("disk", stateWarning, "only %.2f GiB are free", free)
		default:
			add("disk", stateOK, "%.1f GiB are free", free)
		}
	}
	return true
}

// examineRunning asks the server that holds the data directory.
func examineRunning(ctx context.Context, set *settings, add adder) {
	text, err := os.ReadFile(set.path(fileServer))
	if err != nil {
		add("server", stateWarning, "a process holds the data directory, but has not said where it listens")
		return
	}
	url := strings.TrimSpace(string(text))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		add("server", stateWrong, "%s is not a URL", url)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		add("server", stateWrong, "it does not answer on %s", url)
		return
	}
	defer resp.Body.Close()
	var ready struct {
		Status  string `json:"status"`
		Modules map[string]struct{ State, Reason string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&ready); err != nil {
		add("server", stateWrong, "something else answers on %s", url)
		return
	}
	state := stateOK
	if resp.StatusCode != http.StatusOK {
		state = stateWrong
	}
	add("server", state, "%s on %s", ready.Status, url)
	for name, m := range ready.Modules {
		if m.State != "ready" {
			add(name, stateWrong, "%s: %s", m.State, m.Reason)
		}
	}
}

// examineStores opens the bus and the databases of a data directory that
// nobody uses.
func examineStores(ctx context.Context, set *settings, modules []Module, add adder) {
	all := []database{{dbKeys, seal.Migrations()}, {"auth", auth.Migrations()}, {"web", web.Migrations()}}
	for _, m := range modules {
		all = append(all, database{m.Name, m.Migrations})
	}
	if _, err := os.Stat(set.path(eventlog.Database + ".db")); err == nil { // looking must not make it
		all = append(all, database{eventlog.Database, eventlog.Migrations()})
	}
	opened := 0
	for _, d := range all {
		if _, err := os.Stat(set.path(d.name + ".db")); err != nil && set.DatabaseURL == "" {
			continue // the next start makes it
		}
		pending, err := examineDB(ctx, set, d, add)
		switch {
		case err != nil:
			add("database "+d.name, stateWrong, "%v", err)
		case len(pending) > 0: // opening would apply them, and looking changes nothing
			add("database "+d.name, stateOK, "the next start brings it up to date, after which an older program cannot open it: %s", strings.Join(pending, ", "))
		default:
			opened++
		}
	}
	if opened > 0 {
		add("databases", stateOK, "%d can be opened", opened)
	}
	if _, err := os.Stat(set.bus.Dir); err != nil && set.bus.URL == "" {
		return
	}
	log, err := logs.New(discard{}, logs.Config{Level: "error"}, false)
	if err != nil {
		return
	}
	b, err := bus.Open(ctx, set.bus, log, nil)
	if err != nil {
		add("bus", stateWrong, "%v", err)
		return
	}
	defer b.Close()
	if alarms := b.Alarms(); len(alarms) > 0 {
		add("bus", stateWrong, "%s", strings.Join(alarms, "; "))
		return
	}
	add("bus", stateOK, "it holds what it held")
}

// database is one that a start opens.
type database struct {
	name       string
	migrations fs.FS
}

// examineDB opens a database that is up to date; else it gives what is missing.
func examineDB(ctx context.Context, set *settings, d database, add adder) (pending []string, err error) {
	cfg := store.Config{Dir: set.DataDir, URL: set.DatabaseURL, Sync: set.store.Sync}
	if pending, err = store.Pending(ctx, cfg, d.name, d.migrations); err != nil || len(pending) > 0 {
		return pending, err
	}
	db, err := store.Open(ctx, cfg, d.name, d.migrations)
	if err != nil {
		return nil, err
	}
	if d.name == dbKeys {
		examineKeys(ctx, set, db, add)
	}
	return nil, errors.Join(db.Ping(ctx), db.Close())
}

func examineKeys(ctx context.Context, set *settings, db *store.DB, add adder) {
	if set.MasterKey == "" {
		if _, err := os.Stat(set.path(fileMasterKey)); err != nil {
			return // the first start makes it
		}
	}
	master, _, err := seal.LoadMaster(set.DataDir, set.MasterKey)
	if err != nil {
		add("keys", stateWrong, "%v", err)
		return
	}
	log, err := logs.New(discard{}, logs.Config{Level: "error"}, false)
	if err != nil {
		return
	}
	if _, err := seal.Open(ctx, db, nil, master, time.Now, log); err != nil {
		add("keys", stateWrong, "%v", err)
		return
	}
	add("keys", stateOK, "the master key fits them")
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
