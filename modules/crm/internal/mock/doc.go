// Package mock is the client's CRM as its description has it, in memory.
//
// A [Mock] is an [http.Handler] that serves
//
//	GET  /users        /trips        all objects: a bare array, in the order of their creation
//	POST /users        /trips        201, Location and the object; an Id is made when absent; a taken one is 409
//	GET  /users/{id}   /trips/{id}   one object; an unknown one is 404
//	POST /users/{id}   /trips/{id}   replaces every property; an unknown one is 404
//
// with or without the prefix that Location has, and with or without a final
// slash. Names of properties are read in any letter case and written as
// described; unknown ones are ignored, and of a name that comes twice the last
// counts. A property that may not be null is 400 if it is null or missing, and
// so is one of another type; no value is repeated in a problem. Null stands for
// missing, so that an Id of null is made. An Id is any text that is not empty.
// In a replacement the Id of the path counts, whatever the body says. Texts,
// dates and numbers are kept as they came: a date is one of RFC 3339, with its
// offset and its fraction.
//
// [Faults] make it fail in the ways in which a CRM fails. It remembers, for
// tests and measurements, what it was asked ([Mock.Counts]) and each state of
// each object ([Mock.History]).
package mock
