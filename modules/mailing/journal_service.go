package mailing

import (
	"encoding/json"
	"strconv"

	"switchboard/platform/eventlog"
)

// entryOf makes an entry of the event log about a campaign, a message and a
// client; an id of 0 is none. data may be nil, and must hold nothing personal.
func entryOf(event string, campaign, message, client int64, data map[string]any) eventlog.Entry {
	e := eventlog.Entry{Event: event, Refs: make([]eventlog.Ref, 0, 3)}
	for _, ref := range [...]struct {
		kind string
		id   int64
	}{{refCampaign, campaign}, {refMessage, message}, {refClient, client}} {
		if ref.id == 0 {
			continue
		}
		e.Refs = append(e.Refs, eventlog.SerialRef(ref.kind, ref.id))
		if e.Text != "" {
			e.Text += ", "
		}
		e.Text += ref.kind + ": " + strconv.FormatInt(ref.id, 10)
	}
	if len(data) > 0 {
		if raw, err := json.Marshal(data); err == nil { // numbers and texts have a JSON form
			e.Data = raw
		}
	}
	return e
}
