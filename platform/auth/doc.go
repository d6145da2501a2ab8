// Package auth knows who calls: API keys with scopes, and the admin key.
//
// A key is sb_<id>_<secret>: 12 lowercase letters and digits, and 256 random
// bits. It is shown once and stored as SHA-256. [Guard.Authenticate] turns a
// credential into a [Principal], from memory for up to five seconds; a change
// reaches all instances at once by the bus. Wrong credentials are counted per
// address.
//
// # Tables
//
// Database auth: auth_key.
//
// # Publishes, consumes
//
// Broadcast auth.drop: the id of a key that has changed.
//
// # Settings
//
// See [Config].
package auth
