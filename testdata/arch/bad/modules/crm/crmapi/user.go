// Package crmapi is a contract.
package crmapi

import (
	_ "time"

	_ "github.com/google/uuid"

	_ "bad/platform/errs"
)

// UserMade is a fact without a sample.
type UserMade struct{ ID string }

// Subject is where the fact is published.
func (UserMade) Subject() string { return "crm.user.made" }
