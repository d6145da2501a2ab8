// Package crm keeps a client's CRM in step with the event stream of a mobility
// platform, and plays that CRM where there is none.
//
// Events come from Kafka or NATS, are durable on the bus before their source
// hears so, and are folded into what the CRM should show: the newest event of
// each user and trip counts. A reconciler sends the latest state of whatever the
// CRM does not show yet, a user at a time, and notes what the CRM shows. What is
// personal rests sealed under a key per person.
//
// # Tables
//
// crm_user, crm_trip (what the CRM should show), crm_copy (what it shows),
// crm_dirty, crm_unit (what has to be sent), crm_position (how far logs were
// read), crm_dead_letter.
//
// # Publishes
//
// crm.events (events of the platform, sealed).
//
// # Consumes
//
// crm.events; maas.internal_user_updated and maas.internal_booking_updated of
// the platform, and Kafka topics of these names.
//
// # Routes
//
// /crm/users, /crm/trips, /crm/mock (the mock), /crm/integration.
//
// # Settings
//
// crm.*: see Config.
package crm
