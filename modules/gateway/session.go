package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"switchboard/platform/errs"
)

// session is what a socket needs to go on after a lost connection, on whichever
// instance it comes back (Socket.IO protocol 5, connection state recovery).
type session struct {
	PID       string // secret of the client, by which it asks for its session
	SID       string // id of the socket, which it keeps
	Namespace string
	Rooms     map[string]uint64 // with the place of the last event before the join
	Grant     Grant
	Since     uint64 // place of the last event before the connection
	Instance  string // which has, or had, the socket
	// Life counts the connections that have had the session, from 0: what an old
	// one writes late never undoes what a newer one wrote.
	Life      int64
	UpdatedAt time.Time
	LeftAt    *time.Time // nil while connected, and after a crash
}

// resumed is the session as the next connection has it, on this instance.
func (s *session) resumed(instance string) *session {
	next := *s
	next.Rooms = maps.Clone(s.Rooms)
	next.Instance, next.Life, next.LeftAt = instance, s.Life+1, nil
	return &next
}

// sealedSession is the part of a session that rests sealed.
type sealedSession struct {
	SID       string            `json:"sid"`
	Namespace string            `json:"nsp"`
	Rooms     map[string]uint64 `json:"rooms" pii:"room"`
	Grant     Grant             `json:"grant"`
}

func (s *session) encode() ([]byte, error) {
	text, err := json.Marshal(sealedSession{s.SID, s.Namespace, s.Rooms, s.Grant})
	if err != nil {
		return nil, fmt.Errorf("write a session: %w", err)
	}
	return text, nil
}

func (s *session) decode(text []byte) error {
	var in sealedSession
	if err := json.Unmarshal(text, &in); err != nil {
		return fmt.Errorf("read a session: %w", err)
	}
	s.SID, s.Namespace, s.Rooms, s.Grant = in.SID, in.Namespace, in.Rooms, in.Grant
	if s.Rooms == nil {
		s.Rooms = map[string]uint64{}
	}
	return nil
}

var errNoSession = errs.New(errs.NotFound, "no such session")

// recoverable tells whether a session that was last seen alive at seen may
// still be taken up. seen is when it left, or for one that did not say so, when
// its instance last said that it is there.
func recoverable(seen, now time.Time, window time.Duration) bool { return now.Sub(seen) <= window }
