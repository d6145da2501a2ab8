// Package gateway pushes events to connected sockets, to one room or to all, and
// logs which socket got what.
//
// An event is accepted (201) once it is durable on the bus. Every instance reads
// the same stream in the same order and hands each event to its own sockets, so
// that order and catching up need nothing else; the instance that accepted it
// gathers the counts. What was sent in the last minutes stays in memory: a
// socket that lost its connection gets what it missed, on any instance.
//
// Rooms, users and payloads are sealed wherever they rest.
//
// # Tables
//
// gateway_session (what a socket needs to come back), gateway_instance,
// gateway_token_revoked.
//
// # Publishes
//
// gateway.emit (sealed frames of accepted events, kept for some minutes), and,
// never stored, gateway.reports.* (how many sockets got them), gateway.here,
// gateway.ask, gateway.answer.* (instances to each other), gateway.moved and
// gateway.revoked (sockets to be disconnected).
//
// # Consumes
//
// The same.
//
// # Routes
//
// /events, /socket.io/, /gateway/events, /gateway/rooms, /gateway/sockets,
// /gateway/tokens, /gateway/deliveries, /gateway/sse, /gateway/ws,
// /gateway/playground.
//
// # Settings
//
// gateway.*: see Config.
package gateway
