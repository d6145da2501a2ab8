// Package eventlog writes down what happened, in as many places as the
// configuration names: one method, any number of strategies.
//
//	log, err := p.EventLog.Open("gateway", cfg.Log) // in the module's New
//	err = log.Log(ctx, eventlog.Entry{
//		Event: "order.created", Text: "orderId: cfa3…",
//		Refs: []eventlog.Ref{{Kind: "room", ID: room}},
//		Targets: socketIDs, TargetKind: "socket",
//	})
//
// An entry stands for one line of its own and one line for each target, "event
// sent to: …". Strategies that keep lines (slog, console, mongodb) expand it;
// those that keep entries (sql, jetstream) store it as it is.
//
// # Strategies
//
//	sql        a database of its own, sealed, searchable by [Log.Find]; at least once
//	jetstream  the stream EVENTLOG, subject eventlog.<module>, sealed; at least once
//	mongodb    one document for each line, in the clear
//	slog       one record for each line in the product's log, personal parts redacted
//	console    one line for each line on standard output, in the clear
//
// Each has its own bounded queue, goroutine and counters. [Log.Log] hands the
// entry to every queue and never waits: a strategy that is dead or slow fills
// its own queue and then misses entries, which are counted
// (eventlog_missed_total); the others do not notice. At least once means:
// tried until written, stored once for each id, written before [Log.Flush]
// returns nil. What only waits in a queue is in memory; kill -9 takes it.
package eventlog
