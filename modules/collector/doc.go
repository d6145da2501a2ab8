// Package collector takes interaction events of web applications, validates
// them, stores them in the background, groups them by session and answers
// queries over them.
//
// An event is accepted (202) once it is durable on the bus; a pool of workers,
// shared by all instances, then writes it to the tables in batches. Events of a
// session are ordered by the time they occurred, equal times by arrival.
// Session ids, user ids and payloads are sealed under a key per person
// wherever they rest.
//
// # Tables
//
// collector_kind (a category, name and application, once), collector_event,
// collector_session, collector_session_kind, collector_stat (counters per
// minute and hour), collector_reject, collector_schema.
//
// # Publishes
//
// collector.ingest (sealed frames of accepted events and rejects, a work queue),
// collector.schema.changed (see collectorapi), and, to live readers only and
// never stored, collector.live, while collector.live.wanted tells that someone
// watches.
//
// # Consumes
//
// collector.ingest, collector.schema.changed, collector.live,
// collector.live.wanted.
//
// # Routes
//
// /collector/events, /collector/sessions, /collector/rejects,
// /collector/schemas, /collector/stats, /collector/live, /collector/client.js,
// /collector/client.d.ts.
//
// # Settings
//
// collector.*: see Config.
package collector
