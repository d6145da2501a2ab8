// Package telephony takes the webhooks of a phone platform, keeps every event
// of every call, delegates calls that stand by, and shows calls live.
//
// The call log is append-only and is the truth: an event is acknowledged once
// it is in it. Calls, customers, actors and statistics are projections of the
// log, written in the same transaction, and can be thrown away and rebuilt from
// it while the service goes on. Events may come in any order and twice. What is
// personal is sealed under a key per person, in events that tell of a caller
// and of who answers in two parts.
//
// # Tables
//
// telephony_event (the log), telephony_head (its end, and which generation of
// the projections answers); the projections telephony_call, telephony_customer,
// telephony_actor, telephony_actor_queue and telephony_stat; and what was done
// about calls: telephony_delegation, telephony_recording,
// telephony_recording_part.
//
// # Publishes
//
// telephony.delegate and telephony.recording (work to be done, queues),
// telephony.stored (where the log ends, to live boards, never stored), and the
// question telephony.caller.<directory> to modules that know people (see
// telephonyapi).
//
// # Consumes
//
// telephony.delegate, telephony.recording, telephony.stored.
//
// # Routes
//
// /telephony/webhook, /webhook, /telephony/calls, /telephony/events,
// /telephony/dial, /telephony/actors, /telephony/queues, /telephony/stats,
// /telephony/ws, /telephony/board; and a second listener for boards if
// telephony.board_listen is set.
//
// # Settings
//
// telephony.*: see Config.
package telephony
