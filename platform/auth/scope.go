package auth

import (
	"slices"

	"switchboard/platform/errs"
)

// Admin is the scope that implies all others.
const Admin = "admin"

// Scopes lists every scope there is, in the order of the documentation.
func Scopes() []string {
	return []string{
		"collector:write", "collector:read",
		"gateway:publish", "gateway:connect", "gateway:read",
		"telephony:webhook", "telephony:read", "telephony:write",
		"mailing:read", "mailing:write",
		"crm:read", "crm:write",
		"stream:read", "stream:write",
		"privacy:read", "privacy:write",
		"logs:read", "metrics:read",
		Admin,
	}
}

// validScopes gives the scopes in the order of Scopes, each once.
func validScopes(scopes []string) ([]string, []errs.Field) {
	all := Scopes()
	var fields []errs.Field
	if len(scopes) == 0 {
		fields = append(fields, errs.Field{Location: "body.scopes", Message: "at least one scope is needed"})
	}
	for i, s := range scopes {
		if !slices.Contains(all, s) {
			fields = append(fields, errs.Field{Location: at("body.scopes", i), Message: "there is no such scope", Value: s})
		}
	}
	var out []string
	for _, s := range all {
		if slices.Contains(scopes, s) {
			out = append(out, s)
		}
	}
	return out, fields
}
