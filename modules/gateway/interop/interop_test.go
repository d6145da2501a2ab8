// Package interop_test has the stock Socket.IO client, as npm hands it out,
// talk to the product over each of its transports.
package interop_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"switchboard/modules/gateway"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// transports are the ways a client may connect: a comma list for its option
// "transports"; an empty one is its default, polling that upgrades.
var transports = []struct{ name, list string }{
	{"websocket", "websocket"},
	{"polling", "polling"},
	{"upgrade", ""},
}

func TestStockClient(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"client.test.mjs", "recovery.test.mjs"} {
		for _, way := range transports {
			t.Run(strings.TrimSuffix(script, ".test.mjs")+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				cmd := node(t, way.list)
				p := apptest.Start(t, []app.Module{gateway.Module})
				cmd.Env = append(cmd.Env, "GATEWAY_URL="+p.URL, "GATEWAY_KEY="+p.Key)
				cmd.Args = append(cmd.Args, "--test", "--test-reporter=spec", script)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s\n%s", err, out, p.Log)
				}
			})
		}
	}
}

// node prepares a run of node with the client's packages at hand. It ends with
// the test.
func node(t *testing.T, transports string) *exec.Cmd {
	t.Helper()
	path := apptest.Program(t, "node", "nodejs")
	packages := apptest.Packages(t, ".")
	for _, read := range []string{"support.mjs", "client.test.mjs", "recovery.test.mjs", "crowd.mjs"} {
		if _, err := os.ReadFile(read); err != nil { // or go test would keep an old result
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Env = append(os.Environ(), "GATEWAY_PACKAGES="+packages)
	if transports != "" {
		cmd.Env = append(cmd.Env, "GATEWAY_TRANSPORTS="+transports)
	}
	return cmd
}
