package browser_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"switchboard/platform/apptest"
)

// client.js keeps to client.d.ts, and client.d.ts takes what users write and
// refuses what they should not.
func TestTypingsFitTheClient(t *testing.T) {
	t.Parallel()
	node := apptest.Program(t, "node", "nodejs")
	tsc := filepath.Join(apptest.Packages(t, filepath.Join("testdata", "types")), "node_modules", "typescript", "bin", "tsc")
	for _, read := range []string{"client.js", "client.d.ts", "package.json", "testdata/types/usage.ts", "testdata/types/tsconfig.json"} {
		if _, err := os.ReadFile(read); err != nil { // or go test would keep an old result
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(node, tsc, "-p", filepath.Join("testdata", "types")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
