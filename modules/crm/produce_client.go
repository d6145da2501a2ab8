package crm

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"switchboard/modules/crm/internal/maas"
	"switchboard/platform/errs"
	"switchboard/platform/kafka"
)

// maasKafka feeds the platform's topics. Like the platform's producer it lets
// the broker make them.
type maasKafka struct{ cl *kgo.Client }

func newMaaSKafka(ctx context.Context, brokers []string) (*maasKafka, error) {
	if err := kafka.CheckBrokers(brokers); err != nil {
		return nil, err
	}
	cl, err := kafka.Config{Brokers: brokers}.Open(kgo.ClientID("trail-day-producer"), kgo.AllowAutoTopicCreation(), kgo.RecordDeliveryTimeout(10*time.Second))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, errs.Wrap(errs.Unavailable, err, "connect to Kafka")
	}
	return &maasKafka{cl}, nil
}

func (k *maasKafka) send(ctx context.Context, events []maas.Event) error {
	records := make([]*kgo.Record, len(events))
	for i, e := range events {
		records[i] = &kgo.Record{Topic: e.Topic, Key: e.Key, Value: e.Value}
	}
	return errs.Wrap(errs.Unavailable, k.cl.ProduceSync(ctx, records...).FirstErr(), "send to Kafka")
}

func (k *maasKafka) close() { k.cl.Close() }
