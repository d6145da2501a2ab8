package crm

// Kinds of what entries of the event log are about: the opaque ids of a user's
// person, and of a trip.
const (
	refUser = "user"
	refTrip = "trip"
)

// What people had done. The rest is named where it happens.
const (
	eventReconciled    = "crm.reconciled"            // users, trips, repairing
	eventBackfillBegun = "crm.backfill.begun"        // from
	eventBackfillEnded = "crm.backfill.ended"        // users, trips, reason
	eventDeadRedriven  = "crm.dead_letter.redriven"  // id, kind
	eventDeadDiscarded = "crm.dead_letter.discarded" // id, kind
)
