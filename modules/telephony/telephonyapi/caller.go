// Package telephonyapi is what other modules may know of telephony: what it
// asks them over the bus.
package telephonyapi

// CallerQuestion asks a directory, such as the CRM, whether it knows a person
// who calls.
type CallerQuestion struct {
	Person string `json:"person"` // opaque id, as platform/seal gives it
}

// CallerAnswer is a directory's answer. Whoever does not answer within half a
// second knows nobody.
type CallerAnswer struct {
	Known bool `json:"known"`
}

// CallerSubject is where a directory is asked, by its name: mailing or crm.
func CallerSubject(directory string) string { return "telephony.caller." + directory }
