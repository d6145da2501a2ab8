// Package seal keeps personal data unreadable at rest, under a key per person
// that can be destroyed.
//
// A person is a [Subject]: an opaque id, the only name of a person that may
// appear in bus subjects, file names, metric labels and logs. What people are
// called outside (phone, e-mail, session id) is an [Alias], stored only as its
// [Index], a keyed HMAC. A [Cipher] seals and opens the data of one subject.
// [Keyring.Erase] zeroes a subject's key where it lies and keeps a tombstone,
// so that all data of that person turns to noise at once and a late event
// cannot bring the key back. Data whose person is not known is sealed by a
// [Transit] under keys that rotate and are destroyed when its retention ends.
//
// # Keys
//
// The master key is outside of the databases ([LoadMaster]). It wraps
// (AES-256-GCM) every other key: the index key, the system key, one key per
// subject and one per transit period. Random nonces under the one wrapping key
// are good for 2^32 keys. The databases hold the master's fingerprint; with
// another master the keyring refuses to open.
//
// # Tables
//
// Database keys: keys_meta, keys_subject, keys_alias, keys_transit.
//
// # Publishes, consumes
//
// Broadcast seal.drop: the 16-byte ids of subjects whose cached keys every
// instance drops. A lost broadcast costs at most the cache's age, a minute.
//
// # What a physical erasure means
//
// On SQLite the key row has a fixed size and is overwritten in place, then the
// write-ahead log is truncated; a test reads the files. PostgreSQL writes a new
// row version, so that the old bytes stay in free space and in its own log
// until those are reused; they are wrapped, and worth nothing without the
// master.
package seal
