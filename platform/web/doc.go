// Package web is the one HTTP listener of the product and the only place that
// knows HTTP statuses.
//
// A module describes each route by an Op and mounts it on the Router, either
// as a huma operation (Register: typed input and output, validated) or as a
// plain handler (Router.Handle: hot paths, streams, sockets). Both pass the
// same gates in the same order:
//
//	request id → route → credential and scope → origin → body limits and gzip
//	→ Idempotency-Key → handler → metrics and access log
//
// Every error leaves as application/problem+json (RFC 9457): see Fail for how
// a kind of platform/errs becomes a status. The text of a fault of ours is
// logged once and never shown.
//
// What a long-lived handler must know: an Op with Stream set has no write
// deadline and its context ends when the server stops; every other handler
// can watch Stopping(ctx).
//
// Two things stand apart from the one listener: a Beside, for a protocol whose
// clients can show no credential, and NewOutbound, the client for calls to
// other systems that keeps away from addresses of the inside.
//
// # Tables
//
// Database "web": idempotency (the claims and first answers of requests that
// bore an Idempotency-Key, sealed, kept for 24 hours).
//
// # Routes
//
// /healthz, /readyz, /metrics, /docs/, /openapi.json, /openapi.yaml and
// /debug/pprof/. All but the last are public (metrics unless a key is asked
// for by configuration).
package web
