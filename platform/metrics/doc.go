// Package metrics makes the Prometheus registry of a product and the handler
// that serves it.
//
// # Names
//
// A metric is named <module>_<what>_<unit>: the module (or part of the
// platform) as everywhere else, the thing in plain words, then the base unit
// (seconds, bytes, ratio) and, for a counter, total:
//
//	collector_events_total{result="accepted"}
//	collector_ingest_duration_seconds
//	bus_stream_messages{stream="calls"}
//	store_transaction_duration_seconds{database="crm"}
//
// # Labels
//
// A label takes few values, known in advance: an outcome, a route pattern, the
// name of a stream. Never an id, an address, a path or a text from outside:
// each value is a time series for as long as the process lives, and what is
// scraped is stored in the clear elsewhere, so nothing about a person belongs
// there.
//
// # Registration
//
// Whoever owns a metric makes it where it is counted and registers it with the
// Registerer it is given, once, when it is opened. There is no default
// registry: two products in one process count apart.
package metrics
