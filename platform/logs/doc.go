// Package logs makes the product's logger: slog with a level per module and
// redaction by type.
//
//	log, err := logs.New(os.Stderr, logs.Config{Level: "info,collector=debug"}, isTerminal)
//	clog := logs.For(log, "collector")
//	clog.Info("event refused", "reason", "too large", "from", person)
//
// # Redaction
//
// A value of the type Personal, and a struct field with a pii tag, is written
// as "[redacted]" wherever it sits in an attribute: in structs, pointers,
// slices, maps and their keys, interfaces, groups, With, values a LogValuer
// gives, and errors. An error whose type (or the type of one it wraps) can
// hold something personal is not asked for its text; its fields are written
// instead, without the personal ones.
//
// What a type can hold is worked out once. Values that can hold nothing
// personal go to the encoder as they are.
//
// Types are all there is to go by: a name or an address that was turned into a
// plain string before it reached the logger, or was put into the message, is
// written. So is a Personal in an unexported field of a struct that fmt prints
// as a whole; give such a struct to the logger as an attribute instead.
//
// # Cost
//
// A call below the level costs a comparison and no allocation, provided its
// arguments need none: use LogAttrs on hot paths.
package logs
