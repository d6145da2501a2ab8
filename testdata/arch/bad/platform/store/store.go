// Package store has its comment twice.
package store

import (
	_ "database/sql"

	_ "bad/platform/bus"
)
