// Package storetest runs a test on both database engines.
//
// PostgreSQL is started once per test process from the binaries that Debian
// puts under /usr/lib/postgresql (or those in PATH) and is gone when the
// process is, however it ends. APP_TEST_POSTGRES_URL names a server to use
// instead; its user must be allowed to create databases. Where there is
// neither, the PostgreSQL half is skipped, or fails if CI=true.
package storetest
