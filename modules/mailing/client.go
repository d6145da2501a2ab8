package mailing

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the same time zones on every machine
	"unicode"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// Limits of a client.
const (
	maxClientTag       = 100      // characters
	maxAttributes      = 16 << 10 // bytes of JSON
	maxAttributeDepth  = 4        // of a value: a scalar is 1
	maxAttributeName   = 64       // bytes
	phoneDigits        = 11
	operatorCodeDigits = 3
)

// client is somebody who gets messages. Numbers in Attributes are json.Number,
// so that they stay as they were written.
type client struct {
	ID                          int64
	PhoneNumber                 string
	OperatorCode, Tag, Timezone string
	Attributes                  map[string]any
	CreatedAt, UpdatedAt        time.Time
}

// newClient is what a client is made of. A nil OperatorCode is taken from the
// number.
type newClient struct {
	PhoneNumber  string
	OperatorCode *string
	Tag          string
	Timezone     string
	Attributes   map[string]any
}

// clientChange is what is to be changed; nil fields stay as they are.
type clientChange struct {
	PhoneNumber, OperatorCode, Tag, Timezone *string
	// Operator code from the number, which may be a new one.
	DeriveOperator bool
	// Attributes replace all there were, if ReplaceAttributes.
	Attributes        map[string]any
	ReplaceAttributes bool
}

// client gives the client of n, or says of each field what is wrong with it:
// an Invalid error with the location of the field below body.
func (n *newClient) client() (*client, error) {
	c := &client{PhoneNumber: n.PhoneNumber, Tag: n.Tag, Timezone: n.Timezone, Attributes: n.Attributes}
	if n.OperatorCode != nil {
		c.OperatorCode = *n.OperatorCode
	} else if isPhone(n.PhoneNumber) {
		c.OperatorCode = operatorOf(n.PhoneNumber)
	}
	fields := c.check()
	if n.OperatorCode == nil && len(fields) > 0 && fields[0].Location == "body.phone_number" && len(fields) > 1 && fields[1].Location == "body.operator_code" {
		fields = append(fields[:1], fields[2:]...) // it follows from the number
	}
	if len(fields) > 0 {
		return nil, errs.InvalidFields("the client is not valid", fields...)
	}
	return c, nil
}

// apply gives the client with the changes, checked as a new one is.
func (c *client) apply(change clientChange) (*client, error) {
	n := newClient{PhoneNumber: c.PhoneNumber, OperatorCode: &c.OperatorCode, Tag: c.Tag, Timezone: c.Timezone, Attributes: c.Attributes}
	if change.PhoneNumber != nil {
		n.PhoneNumber = *change.PhoneNumber
	}
	if change.OperatorCode != nil || change.DeriveOperator {
		n.OperatorCode = change.OperatorCode
	}
	if change.Tag != nil {
		n.Tag = *change.Tag
	}
	if change.Timezone != nil {
		n.Timezone = *change.Timezone
	}
	if change.ReplaceAttributes {
		n.Attributes = change.Attributes
	}
	changed, err := n.client()
	if err != nil {
		return nil, err
	}
	changed.ID, changed.CreatedAt = c.ID, c.CreatedAt
	return changed, nil
}

// check gives what is wrong, in the order phone_number, operator_code, tag,
// timezone, attributes.
func (c *client) check() (fields []errs.Field) {
	wrong := func(field, message string) {
		fields = append(fields, errs.Field{Location: "body." + field, Message: message})
	}
	if !isPhone(c.PhoneNumber) {
		wrong("phone_number", "must be 7 and ten more digits")
	}
	if !allDigits(c.OperatorCode, operatorCodeDigits) {
		wrong("operator_code", "must be three digits")
	}
	if message := checkTag(c.Tag); message != "" {
		wrong("tag", message)
	}
	if _, err := loadZone(c.Timezone); err != nil {
		wrong("timezone", "must be the name of an IANA time zone, such as Europe/Moscow")
	}
	if message := checkAttributes(c.Attributes); message != "" {
		wrong("attributes", message)
	}
	return fields
}

// isPhone tells whether text is a number that a client may have.
func isPhone(text string) bool { return allDigits(text, phoneDigits) && text[0] == '7' }

// operatorOf is the operator's code in a number.
func operatorOf(phone string) string { return phone[1 : 1+operatorCodeDigits] }

func allDigits(text string, n int) bool {
	if len(text) != n {
		return false
	}
	for i := range n {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

// checkTag says what is wrong with a tag, or nothing.
func checkTag(text string) string {
	switch n := utf8.RuneCountInString(text); {
	case !utf8.ValidString(text):
		return "must be valid UTF-8"
	case n == 0:
		return "must not be empty"
	case n > maxClientTag:
		return fmt.Sprintf("must not be longer than %d characters", maxClientTag)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "must not hold control characters"
	}
	return ""
}

// zones remembers time zones by name: reading one costs far more than all the
// rest of a client. There are no more than a few hundred names.
var zones sync.Map

// loadZone gives a time zone by its IANA name. What only this machine knows,
// such as Local, is no name.
func loadZone(name string) (*time.Location, error) {
	if known, ok := zones.Load(name); ok {
		return known.(*time.Location), nil
	}
	if !isZoneName(name) {
		return nil, errs.New(errs.Invalid, "not the name of a time zone")
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, errs.New(errs.Invalid, "not the name of a time zone")
	}
	zones.Store(name, zone)
	return zone, nil
}

// isZoneName refuses what LoadLocation would find on some machines only: names
// that a file system takes in any case, and what systems put beside the zones.
func isZoneName(name string) bool {
	if name == "" || len(name) > 64 || name[0] < 'A' || name[0] > 'Z' || name == "Local" || name == "Factory" {
		return false
	}
	for _, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (r < '0' || r > '9') && r != '_' && r != '-' && r != '+' && r != '/' {
			return false
		}
	}
	return true
}

// checkAttributes says what is wrong with attributes, or nothing. It never
// repeats them.
func checkAttributes(all map[string]any) string {
	if len(all) == 0 {
		return ""
	}
	// Depth goes first: what is too deep is not worth writing down.
	if message := checkAttributeObject(all, 0); message != "" {
		return message
	}
	text, err := json.Marshal(all)
	switch {
	case err != nil:
		return "must be JSON"
	case len(text) > maxAttributes:
		return fmt.Sprintf("must not be longer than %d bytes of JSON", maxAttributes)
	}
	return ""
}

func checkAttributeObject(all map[string]any, depth int) string {
	for name, value := range all {
		if !isAttributeName(name) {
			return "has a name that is not 1 to 64 letters, digits and underscores, the first no digit"
		}
		if message := checkAttribute(value, depth+1); message != "" {
			return message
		}
	}
	return ""
}

func checkAttribute(value any, depth int) string {
	if depth > maxAttributeDepth {
		return fmt.Sprintf("is nested deeper than %d levels", maxAttributeDepth)
	}
	switch v := value.(type) {
	case map[string]any:
		return checkAttributeObject(v, depth)
	case []any:
		for _, item := range v {
			if message := checkAttribute(item, depth+1); message != "" {
				return message
			}
		}
	}
	return ""
}

// isAttributeName tells whether text can be written as .attributes.text.
func isAttributeName(text string) bool {
	if text == "" || len(text) > maxAttributeName || text[0] >= '0' && text[0] <= '9' {
		return false
	}
	for i := range len(text) {
		b := text[i]
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '_' {
			return false
		}
	}
	return true
}
