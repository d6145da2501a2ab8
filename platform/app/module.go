package app

import (
	"context"
	"io/fs"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/config"
	"switchboard/platform/eventlog"
	"switchboard/platform/kafka"
	"switchboard/platform/outbox"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// Module describes one part of the product that --modules can switch on. It
// is plain data: building or reading it starts nothing.
type Module struct {
	// Name is the module's one name: folder, flag value, configuration section,
	// URL prefix, table prefix, subject prefix.
	Name string
	// Doc is one line for help and OpenAPI.
	Doc string
	// Config gives fresh settings: a pointer to a struct with config tags.
	Config func() any
	// Migrations holds migrations/*.sql of the module's own tables.
	Migrations fs.FS
	// Commands are the module's CLI commands, clients of the HTTP API.
	Commands func() []*cobra.Command
	// Producers are commands under "app produce", which play the outside world.
	Producers func() []*cobra.Command
	// Try is a command line that shows the module at work, for the server at
	// url whose admin key is in the file keyFile.
	Try func(url, keyFile string) string
	// New wires the parts. It does no I/O and starts no goroutine, so that the
	// routes can be described without a database.
	New func(Platform) (Service, error)
}

// Service is a module at work. The host calls Routes once, then Start, then
// Run, and asks Ready from then on.
type Service interface {
	// Routes declares the module's operations.
	Routes(*web.Router) error
	// Start declares streams and loads what requests need. No request comes
	// before it returned.
	Start(context.Context) error
	// Run consumes and ticks until its context ends; it returns nil soon after.
	// An error stops the product.
	Run(context.Context) error
	// Ready returns nil while the module can serve, else the reason why not.
	Ready(context.Context) error
}

// Platform is what the host lends a module.
type Platform struct {
	Config   any // what Module.Config returned, filled in and validated
	Log      *slog.Logger
	DB       *store.DB // the module's own database
	Bus      *bus.Bus
	Outbox   *outbox.Relay // of DB; wake it after a commit that published
	Seal     *seal.Keyring
	Guard    *auth.Guard
	EventLog *eventlog.Service // a module that logs events opens its log in New
	Metrics  prometheus.Registerer
	Kafka    kafka.Config  // the cluster of the configuration; not On without brokers
	SMTPURL  config.Secret // the mail server, "" without one
	Now      func() time.Time
}
