package eventlog

import (
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// Names of the strategies.
const (
	SQL       = "sql"
	JetStream = "jetstream"
	MongoDB   = "mongodb"
	Slog      = "slog"
	Console   = "console"
)

var strategies = []string{SQL, JetStream, MongoDB, Slog, Console}

// Config is how a module logs. A module has it in its settings as the field
// Log, so that its keys are <module>.log.…, and calls Validate from its own. A
// zero number, duration or name means its default; no strategies means that
// nothing is written.
type Config struct {
	Strategies        []string      `default:"sql" enum:"sql,jetstream,mongodb,slog,console" doc:"Where events are logged to, any of sql, jetstream, mongodb, slog, console; an empty list logs nothing. mongodb and console hold the text in the clear."`
	QueueEntries      int           `default:"10000" doc:"How many entries wait for each strategy at most; those that come then are missed by it, and counted."`
	QueueBytes        config.Bytes  `default:"32MiB" doc:"How much room the entries that wait for a strategy take at most."`
	Retention         time.Duration `default:"30d" doc:"How long the strategy sql keeps an entry; its key is destroyed afterwards."`
	StreamAge         time.Duration `default:"3d" doc:"How long the strategy jetstream keeps an entry. The stream is shared: the largest of all modules counts."`
	StreamBytes       config.Bytes  `default:"1GiB" doc:"How much room the stream takes; when it is full, the oldest entries go. The largest of all modules counts."`
	MongoDBURL        config.Secret `key:"mongodb_url" secret:"true" doc:"Server of the strategy mongodb, as in mongodb://user:password@host:27017."`
	MongoDBDatabase   string        `key:"mongodb_database" default:"switchboard" doc:"Database of the strategy mongodb."`
	MongoDBCollection string        `key:"mongodb_collection" default:"eventlog" doc:"Collection of the strategy mongodb."`
}

const (
	defaultQueueEntries = 10_000
	defaultQueueBytes   = 32 << 20
	defaultRetention    = 30 * 24 * time.Hour
	defaultStreamAge    = 3 * 24 * time.Hour
	defaultStreamBytes  = 1 << 30
	defaultDatabase     = "switchboard"
	defaultCollection   = "eventlog"

	minKept = time.Minute // retentions below are a slip
)

// Validate reports the first setting that cannot work; the errs.Field names
// its key, beginning with "log.".
func (c Config) Validate() error {
	for i, s := range c.Strategies {
		if !slices.Contains(strategies, s) {
			return refuse("strategies", "there is no strategy "+s+", only "+strings.Join(strategies, ", "))
		}
		if slices.Contains(c.Strategies[:i], s) {
			return refuse("strategies", s+" is named twice")
		}
	}
	switch {
	case c.QueueEntries < 0:
		return refuse("queue_entries", "is negative")
	case c.QueueBytes < 0 || c.QueueBytes > 0 && c.QueueBytes < 64<<10:
		return refuse("queue_bytes", "is below 64KiB")
	case c.Retention < 0 || c.Retention > 0 && c.Retention < minKept:
		return refuse("retention", "is below 1m")
	case c.StreamAge < 0 || c.StreamAge > 0 && c.StreamAge < minKept:
		return refuse("stream_age", "is below 1m")
	case c.StreamBytes < 0 || c.StreamBytes > 0 && c.StreamBytes < 1<<20:
		return refuse("stream_bytes", "is below 1MiB")
	case !c.uses(MongoDB):
		return nil
	case c.MongoDBURL == "":
		return refuse("mongodb_url", "is needed for the strategy mongodb")
	case strings.HasPrefix(c.MongoDBURL.Reveal(), "mongodb+srv://"):
		return nil // judging it takes a look-up
	case options.Client().ApplyURI(c.MongoDBURL.Reveal()).Validate() != nil:
		return refuse("mongodb_url", "is not a MongoDB URL") // its error might quote the password
	}
	return nil
}

func refuse(key, reason string) error {
	return errs.InvalidFields("log."+key+": "+reason, errs.Field{Location: "log." + key, Message: reason})
}

func (c Config) uses(strategy string) bool { return slices.Contains(c.Strategies, strategy) }

func (c Config) withDefaults() Config {
	preset(&c.QueueEntries, defaultQueueEntries)
	preset(&c.QueueBytes, defaultQueueBytes)
	preset(&c.Retention, defaultRetention)
	preset(&c.StreamAge, defaultStreamAge)
	preset(&c.StreamBytes, defaultStreamBytes)
	preset(&c.MongoDBDatabase, defaultDatabase)
	preset(&c.MongoDBCollection, defaultCollection)
	return c
}

func preset[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}
