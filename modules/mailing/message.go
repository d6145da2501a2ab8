package mailing

import (
	"slices"
	"time"
)

// messageStatus is what became of a message. The numbers are stored.
type messageStatus int

const (
	messagePending  messageStatus = iota // it waits for its time
	messageSending                       // a worker has it; after a crash it is sent again under the same id
	messageSent                          // the provider accepted it
	messageRetrying                      // it was tried, and will be again
	messageFailed                        // the provider refused it for good
	messageExpired                       // the campaign ended before it could go
	messageCanceled                      // the campaign was canceled, or the client deleted or suppressed
)

var messageStatusNames = [...]string{"pending", "sending", "sent", "retrying", "failed", "expired", "canceled"}

func (s messageStatus) String() string { return messageStatusNames[s] }

// parseMessageStatus tells also whether there is such a status.
func parseMessageStatus(name string) (messageStatus, bool) {
	i := slices.Index(messageStatusNames[:], name)
	return messageStatus(max(i, 0)), i >= 0
}

// final tells whether nothing more will become of the message.
func (s messageStatus) final() bool {
	return s != messagePending && s != messageSending && s != messageRetrying
}

// open are the statuses that are not final.
var open = []messageStatus{messagePending, messageSending, messageRetrying}

// message is one campaign for one client.
type message struct {
	ID, CampaignID, ClientID int64
	Status                   messageStatus
	CreatedAt, DueAt         time.Time
	SentAt                   *time.Time
	Attempts                 int64
	Delivered                string // what the provider told later; empty: nothing
	LastError                string
}
