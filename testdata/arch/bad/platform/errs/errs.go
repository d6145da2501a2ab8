// Package errs is to the left of everything.
package errs

import _ "bad/platform/config"
