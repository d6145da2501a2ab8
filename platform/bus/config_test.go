package bus_test

import (
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/config"
)

func TestSettingsAreRead(t *testing.T) {
	t.Parallel()
	var cfg bus.Config
	src := config.Source{Env: []string{"APP_BUS_LISTEN=:4333", "APP_BUS_MAX_STORE=2GiB", "APP_BUS_SYNC=1s"}}
	if _, err := config.Load(src, config.Section{Name: "bus", Value: &cfg}); err != nil {
		t.Fatal(err)
	}
	want := bus.Config{Listen: ":4333", Sync: "1s", MaxStore: 2 << 30, MinFree: 16 << 20, PublishTimeout: 5 * time.Second, Replicas: 1}
	if cfg != want {
		t.Errorf("read %+v, want %+v", cfg, want)
	}
}

func TestAListenerWithoutHostIsLoopback(t *testing.T) {
	t.Parallel()
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Listen: ":0"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if url := b.ClientURL(); len(url) < 17 || url[:17] != "nats://127.0.0.1:" {
		t.Errorf("it listens on %s", url)
	}
}
