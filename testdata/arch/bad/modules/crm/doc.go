// Package crm says little about what it owns: crm_user, but not the other.
//
// # Tables
//
// crm_user.
//
// # Publishes
//
// # Consumes
//
// # Settings
package crm
