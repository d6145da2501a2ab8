package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "modernc.org/sqlite"

	"switchboard/modules/collector"
)

// The bare handler runs in a process of its own, as the product does: this
// test binary, told so by the environment.
const bareEnv = "BENCH_BARE_HANDLER"

func TestMain(m *testing.M) {
	if os.Getenv(bareEnv) != "" {
		serveBare()
		return
	}
	os.Exit(m.Run())
}

// bareEvent is an event as a handler would decode it; skippingEvent leaves its
// data as the text that it came as.
type (
	bareEvent struct {
		SessionID string         `json:"session_id"`
		Category  string         `json:"category"`
		Name      string         `json:"name"`
		Data      map[string]any `json:"data"`
		Timestamp string         `json:"timestamp"`
	}
	skippingEvent struct {
		SessionID string          `json:"session_id"`
		Category  string          `json:"category"`
		Name      string          `json:"name"`
		Data      json.RawMessage `json:"data"`
		Timestamp string          `json:"timestamp"`
	}
)

// serveBare answers 202 to events that it decodes and forgets: on /std with the
// standard library, on /skip with that but for their data, on /strict with the
// collector's decoder, which checks the data and leaves it as text.
func serveBare() {
	mux := http.NewServeMux()
	for path, decode := range map[string]func([]byte) error{
		"/std": decodeAs[bareEvent], "/skip": decodeAs[skippingEvent],
		"/strict": func(body []byte) error { _, err := collector.DecodeBatch(body); return err },
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = decode(body)
			}
			bareAnswer(w, err)
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	panic(http.Serve(l, mux))
}

// decodeAs decodes one event or a batch of them.
func decodeAs[E any](body []byte) error {
	if bytes.HasPrefix(body, []byte(`{"events"`)) {
		return json.Unmarshal(body, &struct {
			Events []E `json:"events"`
		}{})
	}
	return json.Unmarshal(body, new(E))
}

func bareAnswer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte(`{"accepted":1}`))
}

// bare starts the bare handler and gives its address.
func bare(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		b.Fatal(err)
	}
	return "http://" + strings.TrimSpace(string(line[:n]))
}

// rawJetStream publishes messages of a size to a bare embedded server with
// SyncAlways, a window of them in flight, and gives messages per second.
func rawJetStream(b *testing.B, size, window int, d time.Duration) float64 {
	b.Helper()
	ns, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: b.TempDir(), NoSigs: true, SyncAlways: true, MaxPayload: 8 << 20})
	if err != nil {
		b.Fatal(err)
	}
	go ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		b.Fatal("no JetStream")
	}
	defer func() { ns.Shutdown(); ns.WaitForShutdown() }()
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw"}, Storage: jetstream.FileStorage}); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, size)
	begin, n := time.Now(), 0
	for time.Since(begin) < d {
		if _, err := js.PublishAsync("raw", payload, jetstream.WithStallWait(10*time.Second)); err != nil {
			b.Fatal(err)
		}
		n++
	}
	<-js.PublishAsyncComplete()
	return float64(n) / time.Since(begin).Seconds()
}

// rawSQLite inserts rows like the collector's, in batches of a thousand with
// synchronous=FULL and the same indexes, and gives rows per second. Sessions are
// in random order, as blind indexes are.
func rawSQLite(b *testing.B, d time.Duration) float64 {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "raw.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`create table e (arrival integer primary key, event_id blob not null unique, session blob not null, kind integer not null,
		occurred_at integer not null, received_at integer not null, subject blob not null, sealed blob not null);
		create index e1 on e (session, occurred_at, arrival); create index e2 on e (kind, occurred_at, arrival); create index e3 on e (occurred_at, arrival)`); err != nil {
		b.Fatal(err)
	}
	values := strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,?,?),", 100), ",")
	begin, n := time.Now(), 0
	sealed := make([]byte, 300)
	for time.Since(begin) < d {
		tx, err := db.Begin()
		if err != nil {
			b.Fatal(err)
		}
		for range 10 {
			args := make([]any, 0, 800)
			for range 100 {
				n++
				now := time.Now().UnixMicro()
				id := fmt.Appendf(nil, "%016x", n)
				session := sha256.Sum256([]byte(strconv.Itoa(n / 50)))
				args = append(args, n, id, session[:16], 7, now, now, session[16:], sealed)
			}
			if _, err := tx.Exec(`insert into e values `+values, args...); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(begin).Seconds()
}
