package crm

import (
	"context"

	"switchboard/modules/crm/internal/maas"
	"switchboard/platform/bus"
)

// maasNATS feeds the platform's subjects.
type maasNATS struct{ to *bus.Sender }

func newMaaSNATS(url string) (*maasNATS, error) {
	to, err := bus.NewSender(url)
	if err != nil {
		return nil, err
	}
	return &maasNATS{to}, nil
}

func (n *maasNATS) send(ctx context.Context, events []maas.Event) error {
	msgs := make([]bus.Message, len(events))
	for i, e := range events {
		msgs[i] = bus.Message{Subject: maasSubject + e.Topic, Data: e.Value}
	}
	return n.to.SendAll(ctx, msgs)
}

func (n *maasNATS) close() { n.to.Close() }
