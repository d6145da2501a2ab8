package mailing

import (
	"context"
	"encoding/json"

	"switchboard/modules/telephony/telephonyapi"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
)

// answerCallers tells telephony, until ctx ends, whether somebody who calls is
// a client.
func answerCallers(ctx context.Context, b *bus.Bus, clients *clientStore) error {
	return b.Serve(ctx, telephonyapi.CallerSubject(tag), tag, func(ctx context.Context, data []byte) ([]byte, error) {
		var asked telephonyapi.CallerQuestion
		if err := json.Unmarshal(data, &asked); err != nil {
			return nil, errs.New(errs.Invalid, "not a question about a caller")
		}
		person, err := seal.ParseSubject(asked.Person)
		if err != nil {
			return nil, err
		}
		known, err := clients.knows(ctx, person)
		if err != nil {
			return nil, err
		}
		return json.Marshal(telephonyapi.CallerAnswer{Known: known})
	})
}
