package store

import "time"

// Micros is a moment as every table keeps it: microseconds of UTC since 1970,
// in a bigint column. A column that may be null is scanned into sql.Null[Micros].
type Micros int64

// MicrosOf gives the moment t, cut to the microsecond.
func MicrosOf(t time.Time) Micros { return Micros(t.UnixMicro()) }

// Time gives the moment in UTC.
func (m Micros) Time() time.Time { return time.UnixMicro(int64(m)).UTC() }
