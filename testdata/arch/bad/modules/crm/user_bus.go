package crm

import (
	_ "github.com/nats-io/nats.go/jetstream"

	_ "bad/modules/mailing/mailingapi"
	_ "bad/platform/bus"
)
