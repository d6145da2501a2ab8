package crm

import (
	"encoding/json"
	"errors"
	"strings"
)

// What can be wrong with an object of the CRM.
const (
	wrongDifferent = "different"
	wrongMissing   = "missing"
	wrongExtra     = "extra"     // the CRM has it, and nobody asked for it
	wrongDuplicate = "duplicate" // the CRM has it twice
)

// Comparison counts objects that the CRM should show, each once but in extra and
// duplicate.
type Comparison struct {
	Compared  int64 `json:"compared" doc:"Objects that the CRM should show: the sum of equal, different, missing, waiting and refused."`
	Equal     int64 `json:"equal"`
	Different int64 `json:"different"`
	Missing   int64 `json:"missing"`
	Waiting   int64 `json:"waiting" doc:"On their way, or sent while the CRM was read: no difference."`
	Refused   int64 `json:"refused" doc:"The CRM refuses them: they are dead letters."`
	Extra     int64 `json:"extra" doc:"Objects that the CRM has and should not have, or that others made there. They stay: its interface deletes nothing."`
	Duplicate int64 `json:"duplicate" doc:"Further objects of the CRM under an id that it has already."`
}

// Difference is an object that is not as it should be.
type Difference struct {
	Kind   string   `json:"kind" enum:"user,trip"`
	ID     string   `json:"id" pii:"id" doc:"The id at the platform; of an extra object that at the CRM."`
	What   string   `json:"what" enum:"different,missing,extra,duplicate"`
	Fields []string `json:"fields,omitempty" nullable:"false" doc:"The names of the fields that differ."`
}

// Reconciliation is what a comparison of the CRM with what it should show found.
type Reconciliation struct {
	Users       Comparison   `json:"users"`
	Trips       Comparison   `json:"trips"`
	Differences []Difference `json:"differences" nullable:"false" doc:"At most as many as were asked for."`
	Truncated   bool         `json:"truncated" doc:"There are more."`
	Repairing   int64        `json:"repairing" doc:"Objects that are sent again."`
}

// differs names the fields in which an object of the CRM is not this user, whose
// id is settled. Dates are compared as instants.
func (u crmUser) differs(raw []byte) []string {
	var has crmUser
	d := newDiffering(json.Unmarshal(raw, &has))
	d.text("LastName", u.LastName, has.LastName)
	d.texts("FirstName", u.FirstName, has.FirstName)
	d.text("Email", u.Email, has.Email)
	d.texts("LastTripType", u.LastTripType, has.LastTripType)
	d.texts("LastTripId", u.LastTripID, has.LastTripID)
	d.text("LastTripDate", sameDate(u.LastTripDate), sameDate(has.LastTripDate))
	return d.fields
}

// differs is that of trips.
func (t crmTrip) differs(raw []byte) []string {
	var has crmTrip
	d := newDiffering(json.Unmarshal(raw, &has))
	d.text("UserId", t.UserID, has.UserID)
	d.texts("From", t.From, has.From)
	d.texts("To", t.To, has.To)
	d.note("Price", t.Price != has.Price)
	d.text("StartDate", sameDate(t.StartDate), sameDate(has.StartDate))
	d.texts("EndDate", sameDates(t.EndDate), sameDates(has.EndDate))
	d.text("Type", t.Type, has.Type)
	return d.fields
}

func sameDates(text *string) *string {
	if text == nil {
		return nil
	}
	return new(sameDate(*text))
}

// differing gathers names of fields.
type differing struct {
	broken string // what could not be read
	fields []string
}

func newDiffering(err error) *differing {
	d := &differing{}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		d.broken = wrong.Field
	}
	return d
}

func (d *differing) note(name string, differs bool) {
	if differs || strings.EqualFold(d.broken, name) {
		d.fields = append(d.fields, name)
	}
}

func (d *differing) text(name, want, has string) { d.note(name, want != has) }

func (d *differing) texts(name string, want, has *string) {
	d.note(name, (want == nil) != (has == nil) || want != nil && *want != *has)
}
