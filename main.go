// Switchboard is one program for a company that talks to its customers
// through many channels and runs its own servers.
package main

import (
	"context"
	"os"

	"switchboard/modules/collector"
	"switchboard/modules/crm"
	"switchboard/modules/gateway"
	"switchboard/modules/mailing"
	"switchboard/modules/telephony"
	"switchboard/platform/app"
)

// modules are all parts of the product, in the order of help and of a start.
var modules = []app.Module{collector.Module, gateway.Module, telephony.Module, mailing.Module, crm.Module}

func main() {
	os.Exit(app.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr, modules))
}
