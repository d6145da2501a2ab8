package mailing

import (
	"fmt"
	"time"

	"switchboard/platform/errs"
)

// campaignStatus is how far a campaign has got.
type campaignStatus string

const (
	campaignScheduled campaignStatus = "scheduled"
	campaignRunning   campaignStatus = "running"
	campaignPaused    campaignStatus = "paused"
	campaignFinished  campaignStatus = "finished" // every message is final
	campaignCanceled  campaignStatus = "canceled"
	campaignDeleted   campaignStatus = "deleted" // it is being removed, and not shown any more
)

// campaign is a text for the clients that a filter picks, between two times.
type campaign struct {
	ID                   int64
	Name, Text           string
	StartAt, EndAt       time.Time
	Filter               filter
	Window               *window // of the client's day; nil: always
	Status               campaignStatus
	CreatedAt, UpdatedAt time.Time
	// Expanded is the greatest client that the audience was made of so far; -1
	// before the start.
	Expanded int64
	// Reschedule is the next message whose time is to be found anew since the
	// end or the window was edited; 0: none. RescheduleAgain: once more from the
	// first one then.
	Reschedule      int64
	RescheduleAgain bool
}

// started tells whether the campaign has begun, paused or not.
func (c *campaign) started() bool { return c.Expanded >= 0 }

// over tells whether nothing more will happen.
func (c *campaign) over() bool {
	return c.Status == campaignFinished || c.Status == campaignCanceled || c.Status == campaignDeleted
}

// newCampaign is what a campaign is made of.
type newCampaign struct {
	Name, Text     string
	StartAt, EndAt time.Time
	Filter         filter
	Window         *window
}

// campaignChange is what is to be changed; nil fields stay as they are.
type campaignChange struct {
	Name, Text     *string
	StartAt, EndAt *time.Time
	Filter         *filter
	Window         *window
	WindowSet      bool // Window is to be changed, to none if it is nil
}

const maxName = 200 // bytes

// check says what is wrong with a campaign, by the names of its JSON fields.
func (c *campaign) check() error {
	var fields []errs.Field
	if !c.EndAt.After(c.StartAt) {
		fields = append(fields, errs.Field{Location: "body.end_at", Message: "is not after start_at"})
	}
	if len(c.Name) > maxName {
		fields = append(fields, errs.Field{Location: "body.name", Message: fmt.Sprintf("is longer than %d bytes", maxName)})
	}
	if err := checkText(c.Text); err != nil {
		fields = append(fields, errs.FieldsOf(err)...)
	}
	if len(fields) > 0 {
		return errs.InvalidFields("the campaign is not valid", fields...)
	}
	return nil
}

// change applies a change, if the campaign is in a state in which it may be
// changed so: before the start everything, after it end, text and window.
func (c *campaign) change(to campaignChange) error {
	if c.over() {
		return errs.New(errs.Conflict, "the campaign is %s", c.Status)
	}
	if c.started() {
		var fields []errs.Field
		for name, changed := range map[string]bool{
			"name":     to.Name != nil && *to.Name != c.Name,
			"start_at": to.StartAt != nil && !to.StartAt.Equal(c.StartAt),
			"filter":   to.Filter != nil && !to.Filter.equal(c.Filter),
		} {
			if changed {
				fields = append(fields, errs.Field{Location: "body." + name, Message: "cannot be changed after the start"})
			}
		}
		if len(fields) > 0 {
			return &errs.Error{Kind: errs.Conflict, Text: "the campaign has started: only end_at, text and window can be changed", Fields: fields}
		}
	}
	end, hours := c.EndAt, c.Window
	set(&c.Name, to.Name)
	set(&c.Text, to.Text)
	set(&c.StartAt, to.StartAt)
	set(&c.EndAt, to.EndAt)
	set(&c.Filter, to.Filter)
	if to.WindowSet {
		c.Window = to.Window
	}
	if c.started() && (!c.EndAt.Equal(end) || !c.Window.equal(hours)) {
		c.Reschedule, c.RescheduleAgain = 1, false
	}
	return c.check()
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
