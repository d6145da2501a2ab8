package app

import (
	"net"
	"slices"
	"strings"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/kafka"
	"switchboard/platform/logs"
	"switchboard/platform/seal"
	"switchboard/platform/web"
)

// Settings are those that stand at the top level of the configuration.
type Settings struct {
	Listen          string        `default:"127.0.0.1:8080" flag:"listen" doc:"Address of the one port: REST, sockets, docs and metrics."`
	Modules         []string      `flag:"modules" doc:"Modules to start, as in collector,gateway; all if empty."`
	DataDir         string        `default:"./data" flag:"data-dir" doc:"Folder of the databases, the bus's store and the keys. Nothing outside of it is written."`
	NatsURL         config.Secret `key:"nats_url" flag:"nats-url" secret:"true" doc:"An external NATS server with JetStream instead of the embedded one, as in nats://host:4222."`
	KafkaBrokers    []string      `flag:"kafka-brokers" doc:"Kafka brokers to begin with, as in host:9092,host:9093; without them nothing is read from Kafka or written there."`
	DatabaseURL     config.Secret `flag:"database-url" secret:"true" doc:"PostgreSQL instead of SQLite files, as in postgres://user@host/db; each module gets a schema."`
	AdminKey        config.Secret `secret:"true" doc:"Presets the admin key, at least 16 characters; without it the first start makes one and writes it to admin.key in the data directory."`
	MasterKey       config.Secret `secret:"true" doc:"Key that wraps all others: 32 bytes in hex or base64, or a passphrase of at least 16 characters. Without it one is made in the data directory, for a local run only."`
	SMTPURL         config.Secret `key:"smtp_url" secret:"true" doc:"Mail server for what is sent by e-mail, as in smtp://user:password@mail.example:587 or smtps://mail.example:465."`
	ShutdownTimeout time.Duration `default:"20s" flag:"shutdown-timeout" doc:"How long a stop waits for requests and work in hand."`
}

// Validate explains what makes no sense.
func (s *Settings) Validate() error {
	if _, _, err := net.SplitHostPort(s.Listen); err != nil {
		return errs.New(errs.Invalid, "listen is not host:port")
	}
	if err := kafka.CheckBrokers(s.KafkaBrokers); err != nil {
		return errs.Wrap(errs.Invalid, err, "kafka_brokers")
	}
	if s.DataDir == "" {
		return errs.New(errs.Invalid, "data_dir is empty")
	}
	if k := len(s.AdminKey.Reveal()); k > 0 && k < 16 {
		return errs.New(errs.Invalid, "admin_key has fewer than 16 characters")
	}
	if err := seal.CheckMaster(s.MasterKey); err != nil {
		return errs.Wrap(errs.Invalid, err, "master_key")
	}
	return nil
}

// StoreSettings are those of the databases.
type StoreSettings struct {
	Sync string `default:"full" enum:"full,normal" doc:"full: a commit survives a power cut. normal: it may lose all that was committed since the last sync, and writing is faster. SQLite only."`
}

// MetricsSettings are those of /metrics.
type MetricsSettings struct {
	RequireKey bool `default:"false" doc:"Ask for a key with the scope metrics:read on /metrics."`
}

// busSettings are those of the bus. They can only be judged together with the
// URL, which is a top-level setting: complete does.
type busSettings bus.Config

// settings is the whole configuration.
type settings struct {
	Settings
	bus     bus.Config
	kafka   kafka.Config
	store   StoreSettings
	log     logs.Config
	web     web.Config
	auth    auth.Config
	metrics MetricsSettings
	modules map[string]any // by name, of all modules
}

func newSettings(modules []Module) *settings {
	s := &settings{modules: map[string]any{}}
	for _, m := range modules {
		s.modules[m.Name] = m.Config()
	}
	return s
}

// sections lists the configuration in the order of the reference.
func (s *settings) sections(modules []Module) []config.Section {
	out := []config.Section{
		{Name: "", Value: &s.Settings},
		{Name: "log", Value: &s.log},
		{Name: "web", Value: &s.web},
		{Name: "auth", Value: &s.auth},
		{Name: "metrics", Value: &s.metrics},
		{Name: "bus", Value: (*busSettings)(&s.bus)},
		{Name: "kafka", Value: &s.kafka},
		{Name: "store", Value: &s.store},
	}
	for _, m := range modules {
		out = append(out, config.Section{Name: m.Name, Value: s.modules[m.Name]})
	}
	return out
}

// chosen gives the modules to start, in the order of the list.
func (s *settings) chosen(modules []Module) ([]Module, error) {
	if len(s.Modules) == 0 {
		return modules, nil
	}
	var out []Module
	known := make([]string, len(modules))
	for i, m := range modules {
		known[i] = m.Name
		if slices.Contains(s.Modules, m.Name) {
			out = append(out, m)
		}
	}
	for _, name := range s.Modules {
		if !slices.Contains(known, name) {
			return nil, errs.New(errs.Invalid, "modules: there is no module %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return out, nil
}

// complete carries settings to where they are used under another name.
func (s *settings) complete() error {
	s.web.Listen = s.Listen
	s.web.MetricsRequireKey = s.metrics.RequireKey
	s.bus.URL = s.NatsURL.Reveal()
	s.bus.Dir = s.path("bus")
	s.kafka.Brokers = s.KafkaBrokers
	return s.bus.Validate()
}

func (s *settings) path(name string) string { return strings.TrimSuffix(s.DataDir, "/") + "/" + name }

// Names of files in the data directory.
const (
	fileLock     = "lock"
	fileServer   = "server.url"
	fileAdminKey = "admin.key"
	dirRestoring = "restoring" // a restore that has not ended
)
