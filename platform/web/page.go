package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// Page is the body of every list. Next is the cursor of the following page,
// nil on the last one.
type Page[T any] struct {
	Items []T     `json:"items" doc:"The entries of this page, in a stable order."`
	Next  *string `json:"next" doc:"Give it as cursor to get the next page; null on the last one."`
}

// NewPage makes a page. next is the cursor of the following page, "" on the
// last one; a nil slice becomes an empty list.
func NewPage[T any](items []T, next string) Page[T] {
	if items == nil {
		items = []T{}
	}
	p := Page[T]{Items: items}
	if next != "" {
		p.Next = &next
	}
	return p
}

// WriteJSON answers with v as JSON. A v without a JSON form is a fault of
// ours: 500. Errors of the connection are not reported; nobody could act.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h["Content-Type"] = headerJSON
	body, err := encode(v)
	if err != nil {
		p := problemOf(err)
		if x, ok := w.(*exchange); ok {
			x.note(p)
		}
		h["Content-Type"] = headerProblem
		status = p.Status
		body, _ = encode(p)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// encode gives v as one line of JSON.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return buf.Bytes(), err
}
