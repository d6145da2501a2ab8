//go:build !unix

package collectorclient

import "os"

// lock does nothing where there is no flock: that a directory has one client
// is up to the caller there.
func lock(*os.File) error { return nil }
