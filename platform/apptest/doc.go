// Package apptest runs the whole product in a test: Start in this process, on
// an own data directory and port, and Build and Exec as a process of its own,
// which a test may kill. Only tests import it.
package apptest
