// Package collectorclient sends events to a Switchboard collector
// (POST /collector/events) from a Go program. It needs the standard library
// only.
//
//	client, err := collectorclient.New(collectorclient.Options{
//		URL: "https://collect.example.com",
//		Key: os.Getenv("COLLECTOR_KEY"),
//	})
//	…
//	defer client.Close(ctx)
//	err = client.Track(sessionID, "page interaction", "pageview", map[string]any{"path": "/"})
//
// # What happens to an event
//
// [Client.Track] gives the event its id (a UUIDv7) and its time, checks it,
// puts it into a bounded queue and returns; it never waits for the network. A
// full queue, a closed client and an event that can't be right are errors:
// nothing is lost in silence. One goroutine, owned by the client, sends the
// queue in its order, in batches bounded by count and bytes, when a batch is
// full or [Options.FlushEvery] after the first event. [Client.Close] sends
// what is left and ends that goroutine.
//
// The collector stores an id once per application. So a batch whose answer
// was lost is simply sent again.
//
// # What the collector answers
//
//	202                  accepted; the events it lists as rejected are reported and not sent again
//	422                  none was acceptable: all are reported and not sent again
//	413                  the batch is halved; an event too large by itself is reported and dropped
//	408 425 429 5xx,     kept, and tried again after Retry-After, or else after a random
//	no answer            part of RetryMin doubled with each failure up to RetryMax
//	anything else (401,  kept, reported, and tried again about every RetryMax: somebody has
//	403, 404, 3xx)       to mend a key, a scope or an address, and loses nothing meanwhile
//
// Each report goes to [Options.OnError], as a [*RejectedError] or a
// [*SendError]; without OnError to the default slog logger, without event
// contents.
//
// # Offline and restarts
//
// With [Options.SpoolDir] the queue is also kept in an append-only file, so
// that it survives the process: the next client on that directory sends what
// the last one could not. With [SyncAlways] an event is on disk when Track
// returns; without it, it survives a killed process but not a power cut. Two
// clients can't share a directory; the second gets [ErrSpoolInUse] (on
// systems with flock). The file holds the events in the clear, mode 0600.
package collectorclient
