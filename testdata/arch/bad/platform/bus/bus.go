// Package bus knows a module.
package bus

import (
	_ "github.com/jackc/pgx/v5"
	_ "github.com/nats-io/nats.go"

	_ "bad/modules/crm/crmapi"
)
