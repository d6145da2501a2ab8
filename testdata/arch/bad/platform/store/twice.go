// Package store has its comment twice.
package store

import _ "bad/platform/store/storetest"
