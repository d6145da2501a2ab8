// Package bus carries messages between modules and instances. It is NATS
// JetStream, either embedded in this process (no port unless asked) or an
// external server or cluster, with the same behaviour for its users.
//
// # What is promised
//
// A message is on disk when Publish or Group.Publish returns nil. Delivery to
// a Consume handler is at least once: consumers are idempotent by the id of
// what they store. A handler's errors decide what happens to its messages:
// nil acknowledges them, an error of kind errs.Unavailable keeps them until
// the cause is gone, Permanent moves them to the dead letters at once and any
// other error does so after a few attempts.
//
// # What is not
//
// The bus is transit with bounded retention, not an archive: every stream has
// a greatest age and size. Broadcast, Listen, Request and Serve are not stored.
// Subjects, message ids, consumer names and headers lie on disk and in logs in
// the clear: only opaque ids may appear in them. Payloads are sealed by those
// who publish them.
//
// # Failure
//
// A full disk or a failing fsync makes an embedded JetStream fall silent until
// it is restarted. The guard that runs in Bus.Run notices, lets publishers fail
// at once (Ready tells why, ErrNoSpace when it is space) and restarts the
// server when the cause is gone; subscriptions attach themselves again.
// A ledger of each stream's last sequence finds acknowledged messages that
// vanished between two starts (Alarms).
package bus
