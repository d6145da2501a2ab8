package crm

import (
	"testing"

	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
)

// TestThePlatformsFilesEndAtTheCRM sends the recorded events and the edge cases
// of the platform through each source, with clients of several makers.
func TestThePlatformsFilesEndAtTheCRM(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T) (source apptest.Option, send func(o *office) []line){
		"kafka": func(t *testing.T) (apptest.Option, func(o *office) []line) {
			_, cfg := fake(t, withTopics(1))
			cl, _ := admin(t, cfg)
			return apptest.Args("--kafka-brokers=" + cfg.Brokers[0]), func(o *office) []line {
				list := lines(o.T, "events.jsonl", "edge-cases.jsonl")
				send(o.T, cl, 1, list)
				return list
			}
		},
		"kafka by kafkajs": func(t *testing.T) (apptest.Option, func(o *office) []line) {
			_, cfg := fake(t, withTopics(1))
			return apptest.Args("--kafka-brokers=" + cfg.Brokers[0]), func(o *office) []line { return npmSends(o.T, "kafka", cfg.Brokers[0]) }
		},
		"the bus itself": func(t *testing.T) (apptest.Option, func(o *office) []line) {
			return apptest.Args("--bus-listen=127.0.0.1:0"), func(o *office) []line { return o.sendsNATS(o.service().p.Bus.ClientURL()) }
		},
		"a NATS server": func(t *testing.T) (apptest.Option, func(o *office) []line) {
			url := bustest.External(t)
			return apptest.Args("--nats-url=" + url), func(o *office) []line { return o.sendsNATS(url) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBoth(t, func(t *testing.T, options ...apptest.Option) {
				source, send := prepare(t)
				o := newOffice(t, append(options, source)...)
				var events []rawEvent
				for _, l := range send(o) {
					events = append(events, rawEvent{Topic: l.Topic, Value: []byte(l.Value)})
				}
				o.comesTo(events)
				var dead int
				if err := o.service().p.DB.Read().QueryRowContext(t.Context(), `select count(*) from crm_dead_letter`).Scan(&dead); err != nil || dead > 0 {
					t.Errorf("%d dead letters, %v", dead, err)
				}
			})
		})
	}
}

func (o *office) sendsNATS(url string) []line {
	o.Helper()
	list := lines(o.T, "events.jsonl", "edge-cases.jsonl")
	publishLines(o.T, dial(o.T, url), list)
	return list
}
