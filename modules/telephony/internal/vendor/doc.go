// Package vendor is a fake of the phone platform, for tests, benchmarks and
// "app produce calls".
//
// A [Fake] is both halves of the platform. As an [http.Handler] it takes
// actions and answers what the platform's REST API answers; what it was asked
// for is kept and can be read with [Fake.Actions], and it can be told to fail
// in the ways a platform fails. With [Fake.Play] it plays calls: it posts
// their events to a webhook as the platform does, in order within a call, each
// one again until it is taken. The two halves know of each other: a call that
// stands by goes to the queue that a delegate action names, and an action for a
// call that no longer stands by is refused.
//
// All that is random comes of Options.Seed. Numbers, names and documents of
// persons are made up; documents have valid check digits.
package vendor
