// Package collectorapi is what other modules may know of the collector: the
// facts that it publishes on the bus.
package collectorapi

import "time"

// SchemaChanged tells that the schema of a kind of event has a new version or
// was deleted.
type SchemaChanged struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Category string    `json:"category"`
	Name     string    `json:"name"`
	Version  int64     `json:"version"`
	Deleted  bool      `json:"deleted,omitempty"`
}

// Subject is where the fact is published.
func (SchemaChanged) Subject() string { return "collector.schema.changed" }
