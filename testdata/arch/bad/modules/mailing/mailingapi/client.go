// Package mailingapi is a contract.
package mailingapi
