package outbox_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/outbox"
	"switchboard/platform/store"
)

// childDir tells a copy of the test program to be the product that is killed.
const childDir = "OUTBOX_TEST_CHILD"

var counters = fstest.MapFS{"migrations/0001_counters.sql": {Data: []byte(
	`create table counters (id bigint primary key, n bigint not null); insert into counters (id, n) values (1, 0)`)}}

// child counts and tells of every number, until it is killed. It writes a line
// when it has begun.
func child(dir string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	db, err := store.Open(ctx, store.Config{Dir: dir}, "count", counters)
	if err != nil {
		return fail(err)
	}
	if err := outbox.Ensure(ctx, db); err != nil {
		return fail(err)
	}
	b, err := openBus(ctx, dir)
	if err != nil {
		return fail(err)
	}
	if err := b.Declare(ctx, stream); err != nil {
		return fail(err)
	}
	r := outbox.NewRelay(db, b, time.Now, slog.New(slog.DiscardHandler))
	go func() { _ = r.Run(ctx) }()
	for first := true; ; first = false {
		if err := db.Tx(ctx, func(tx store.Querier) error {
			var n int
			if err := tx.QueryRowContext(ctx, `update counters set n = n + 1 where id = 1 returning n`).Scan(&n); err != nil {
				return err
			}
			return outbox.Publish(ctx, tx, bus.Message{Subject: "facts.count", ID: fmt.Sprintf("%06d", n)})
		}); err != nil {
			return fail(err)
		}
		if first {
			fmt.Println("counting")
		}
		r.Wake()
	}
}

func TestKilledProcessTellsEveryCommitInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for n := range 6 {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Errorf("the child says nothing: %v", err)
		}
		<-time.After(time.Duration(100+97*n) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if cmd.ProcessState.Exited() {
			t.Fatal("the child gave up by itself")
		}
	}

	db, err := store.Open(t.Context(), store.Config{Dir: dir}, "count", counters)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b, err := openBus(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Declare(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	var committed int
	if err := db.Read().QueryRowContext(t.Context(), `select n from counters`).Scan(&committed); err != nil || committed == 0 {
		t.Fatalf("%d commits, %v", committed, err)
	}
	_, stop := relay(t, db, b)
	defer stop()
	in := newInbox(t, b)
	eventually(t, "all messages", func() bool { return len(in.ids()) >= committed })
	got := in.ids()
	if len(got) != committed || !slices.IsSorted(got) || got[0] != "000001" {
		t.Errorf("%d commits, %d messages, sorted: %v", committed, len(got), slices.IsSorted(got))
	}
	t.Logf("%d commits over 6 kills, %d deliveries", committed, len(in.msgs))
}
