package gateway

import (
	"bytes"
	"encoding/json"

	"github.com/google/uuid"

	"switchboard/modules/gateway/internal/socketio"
	"switchboard/modules/gateway/internal/wsconn"
)

// delivery is an event on its way to many sockets: it is encoded once for each
// protocol that one of them speaks. It belongs to the hub while that hands it
// out.
type delivery struct {
	*entry
	message *socketio.Message
	frame   *wsconn.Frame
	text    []byte
}

// socketIO is the event as a Socket.IO packet, nil for one that cannot be one;
// what was accepted can. The offset is its last argument,
// as connection state recovery wants it (Socket.IO protocol 5, "connection state
// recovery").
func (d *delivery) socketIO() *socketio.Message {
	if d.message == nil {
		message, err := socketio.NewMessage("/", d.event, d.data, quote(offset(d.pos)))
		if err != nil {
			return nil
		}
		d.message = message
	}
	return d.message
}

// plain is the event as a text frame of /gateway/ws.
func (d *delivery) plain() *wsconn.Frame {
	if d.frame == nil {
		d.frame = wsconn.NewTextFrame(d.envelope(`{"type":"event",`))
	}
	return d.frame
}

// sse is the event as a message of /gateway/sse (WHATWG HTML, section 9.2).
func (d *delivery) sse() []byte {
	if d.text == nil {
		// A lone carriage return would end a line too. In JSON it is a blank.
		body := bytes.ReplaceAll(d.envelope("{"), []byte{'\r'}, []byte{' '})
		text := append([]byte("id: "), offset(d.pos)...)
		for line := range bytes.Lines(body) { // JSON may hold line breaks between its parts
			text = append(text, "\ndata: "...)
			text = append(text, bytes.TrimRight(line, "\n")...)
		}
		d.text = append(text, "\n\n"...)
	}
	return d.text
}

// envelope is the event as a JSON object. The data is copied as it stands.
func (d *delivery) envelope(begin string) []byte {
	b := make([]byte, 0, len(d.data)+len(d.event)+len(d.room)+160)
	b = append(b, begin...)
	b = append(append(b, `"id":`...), quote(uuid.UUID(d.id).String())...)
	b = append(append(b, `,"event":`...), quote(d.event)...)
	if d.room != "" {
		b = append(append(b, `,"room":`...), quote(d.room)...)
	}
	b = append(append(b, `,"data":`...), d.data...)
	b = append(append(b, `,"offset":`...), quote(offset(d.pos))...)
	return append(b, '}')
}

// quote is a text as JSON.
func quote(text string) json.RawMessage {
	b, err := json.Marshal(text)
	if err != nil {
		return json.RawMessage(`""`)
	}
	return b
}
