// Package mailing runs message campaigns: to the clients that a filter picks,
// between a start and an end, inside hours of their own time zone, through a
// provider that is slow, wrong or away.
//
// One row per message tells what became of it. A client gets a campaign at most
// once: a message that was on its way when the server died is sent again under
// the same id. A campaign is finished when every message is final. Phone
// numbers and attributes are sealed under a key per person wherever they rest.
//
// # Tables
//
// mailing_counter (numbers given out), mailing_client, mailing_campaign,
// mailing_message, mailing_count (messages by campaign and status),
// mailing_suppression, mailing_report.
//
// # Publishes
//
// mailing.send (messages to be sent, a queue).
//
// # Consumes
//
// mailing.send.
//
// # Routes
//
// /mailing/clients, /mailing/campaigns, /mailing/messages, /mailing/stats,
// /mailing/callbacks, /mailing/suppressions, /mailing/reports.
//
// # Settings
//
// mailing.*: see Config.
package mailing
