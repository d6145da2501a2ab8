package mailing

// What the event log of the module tells, by the name of the event. Entries
// refer to a campaign, a message and a client by id; their data are the fields
// told here, never personal.
const (
	eventCampaignCreated  = "campaign.created"
	eventCampaignEdited   = "campaign.edited" // fields
	eventCampaignStarted  = "campaign.started"
	eventCampaignPaused   = "campaign.paused"
	eventCampaignResumed  = "campaign.resumed"
	eventCampaignCanceled = "campaign.canceled"
	eventCampaignFinished = "campaign.finished"
	eventCampaignDeleted  = "campaign.deleted"

	// attempt; status (of HTTP) or fault (its kind); seconds (of the attempt)
	eventMessageSent     = "message.sent"
	eventMessageRetry    = "message.retry" // also due_at
	eventMessageFailed   = "message.failed"
	eventMessageExpired  = "message.expired"
	eventMessageCanceled = "message.canceled"

	eventClientCreated = "client.created"
	eventClientEdited  = "client.edited" // fields
	eventClientDeleted = "client.deleted"

	eventSenderPaused  = "sender.paused" // status
	eventSenderResumed = "sender.resumed"
	eventSenderOpen    = "sender.open" // the circuit breaker

	eventCallbackDelivered    = "callback.delivered" // at
	eventCallbackFailed       = "callback.failed"    // at, reason
	eventCallbackUnsubscribed = "callback.unsubscribed"

	eventSuppressionAdded   = "suppression.added" // reason, key (its id)
	eventSuppressionRemoved = "suppression.removed"

	eventReportSent   = "report.sent" // day, attempt
	eventReportFailed = "report.failed"
)

// Kinds of what entries refer to.
const (
	refCampaign = "campaign"
	refMessage  = "message"
	refClient   = "client"
)
