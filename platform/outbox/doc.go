// Package outbox publishes on the bus what a transaction decided.
//
// A module writes its state and the messages that tell of it in one
// transaction: [Publish] puts them into the table outbox of the module's own
// database. A [Relay] then publishes the rows on the bus and deletes them. A
// message is on the bus if and only if its transaction was committed, though
// perhaps later: after a crash, a full disk or days without the bus.
//
//	err := db.Tx(ctx, func(tx store.Querier) error {
//		… change rows …
//		return outbox.Publish(ctx, tx, bus.Message{Subject: "calls.ended", ID: id, Data: data})
//	})
//	relay.Wake()
//
// # What a consumer may rely on
//
// Every message arrives at least once. One that was published just before a
// crash is published again with the same ID, which the bus drops within its
// window and consumers recognise for ever.
//
// Messages of one transaction, and of transactions of which one saw the
// other's changes, come in that order. Several instances may run a relay on one
// database: they take turns, and a turn ends by itself if its holder dies.
//
// A message that the bus calls Invalid can never be published. It stays in the
// table with the reason, is logged, and lets the others pass.
//
// # Tables
//
// outbox holds the messages, outbox_turn whose turn it is. [Ensure] makes them.
package outbox
