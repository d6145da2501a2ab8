// Package probe is the message provider of local runs, tests, benchmarks and
// "app probe".
//
// A [Probe] is an [http.Handler] that answers POST /send/{msgId} (and
// /v1/send/{msgId}) as the provider does, remembers what it accepted, and fails
// in the ways in which a provider fails, by [Faults] that can be changed at any
// time, also over HTTP:
//
//	POST   /send/{msgId}                 {"id":1,"phone":79161234567,"text":"…"} with a Bearer token; 200 {"code":0,"message":"OK"}
//	GET    /faults   PUT   DELETE        what goes wrong; PUT replaces it all
//	GET    /ledger?after=&limit=         accepted messages by id, one JSON object a line
//	GET    /ledger/summary               counts, see [Summary]
//	GET    /ledger/{msgId}               one message
//	DELETE /ledger                       forgets what it was asked, and begins the seed anew
//	GET    /healthz
//
// What happens to a request depends on the seed, the message id and how many
// attempts there were for that message, and on nothing else: the same seed gives
// each message the same fate in whatever order requests come.
package probe
