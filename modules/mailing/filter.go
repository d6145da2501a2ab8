package mailing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"switchboard/platform/errs"
)

// maxFilterValues is how many values each member of a filter has at most.
const maxFilterValues = 100

// filter picks clients: of any of the operators and with any of the tags. An
// empty member lets everyone pass.
type filter struct {
	OperatorCode []string `json:"operator_code,omitempty"`
	Tag          []string `json:"tag,omitempty"`
}

// parseFilter reads a filter: values may be a single text, nothing and null
// mean everyone. Duplicates are dropped. The error is Invalid, its fields are
// below body.filter.
func parseFilter(raw json.RawMessage) (filter, error) {
	var f filter
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return f, nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return f, errFilter(errs.Field{Location: "body.filter", Message: "must be an object"})
	}
	var wrong []errs.Field
	for name, raw := range members {
		at := "body.filter." + name
		var message string
		switch name {
		case "operator_code":
			f.OperatorCode, message = filterValues(raw, func(code string) string {
				if !allDigits(code, operatorCodeDigits) {
					return "must be three digits"
				}
				return ""
			})
		case "tag":
			f.Tag, message = filterValues(raw, checkTag)
		default:
			at, message = "body.filter", "has a member other than operator_code and tag"
		}
		if message != "" {
			wrong = append(wrong, errs.Field{Location: at, Message: message})
		}
	}
	if len(wrong) > 0 {
		slices.SortFunc(wrong, func(a, b errs.Field) int { return bytes.Compare([]byte(a.Location), []byte(b.Location)) })
		return filter{}, errFilter(wrong...)
	}
	return f, nil
}

func errFilter(fields ...errs.Field) error {
	return errs.InvalidFields("the filter is not valid", fields...)
}

// filterValues reads one text or an array of them, sorted and without
// duplicates.
func filterValues(raw json.RawMessage, check func(string) string) (values []string, message string) {
	var list []*string
	var single *string
	switch {
	case string(raw) == "null":
		return nil, ""
	case json.Unmarshal(raw, &single) == nil:
		list = []*string{single}
	case json.Unmarshal(raw, &list) != nil:
		return nil, "must be a text or an array of texts"
	case len(list) > maxFilterValues:
		return nil, fmt.Sprintf("must not have more than %d values", maxFilterValues)
	}
	for _, value := range list {
		if value == nil {
			return nil, "must be a text or an array of texts"
		}
		if message := check(*value); message != "" {
			return nil, message
		}
		values = append(values, *value)
	}
	slices.Sort(values)
	return slices.Compact(values), ""
}

// UnmarshalJSON reads what parseFilter does.
func (f *filter) UnmarshalJSON(raw []byte) (err error) {
	*f, err = parseFilter(raw)
	return err
}

// matches tells whether c is picked.
func (f filter) matches(c *client) bool {
	return (len(f.OperatorCode) == 0 || slices.Contains(f.OperatorCode, c.OperatorCode)) &&
		(len(f.Tag) == 0 || slices.Contains(f.Tag, c.Tag))
}

// equal tells whether both pick the same clients.
func (f filter) equal(other filter) bool {
	return slices.Equal(f.OperatorCode, other.OperatorCode) && slices.Equal(f.Tag, other.Tag)
}

// empty tells whether everyone is picked.
func (f filter) empty() bool { return len(f.OperatorCode) == 0 && len(f.Tag) == 0 }
