package auth

import "switchboard/platform/errs"

// Config holds the settings of this package.
type Config struct {
	FailedAttempts int `key:"failed_attempts" default:"60" doc:"Wrong credentials one address may send in a minute before it is told to wait; 0 = any number."`
}

// Validate refuses a negative number.
func (c Config) Validate() error {
	if c.FailedAttempts < 0 {
		return errs.New(errs.Invalid, "failed_attempts: %d is less than 0", c.FailedAttempts)
	}
	return nil
}
