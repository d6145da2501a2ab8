package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

func readyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ready", Short: "Tell whether a server is ready, or wait until it is", Args: cobra.NoArgs,
		Long: "Ask a server for the state of its modules (/readyz); it needs no key. Exits with 1 if one of them is\n" +
			"not ready, or no server answers, also not within the time of --wait.",
		Example: "  app ready\n  app ready --wait=30s --server=http://127.0.0.1:8080",
	}
	find := serverFlags(cmd)
	wait := cmd.Flags().Duration("wait", 0, "how long to wait for it; 0 asks once")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		deadline := time.Now().Add(*wait)
		for {
			state, err := askReady(cmd.Context(), find)
			if err == nil || time.Until(deadline) <= 0 {
				return showReady(cmd, state, err)
			}
			select {
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return cmd
}

// askReady asks for the state of a server. The error says why it is not ready;
// the state is nil if it did not tell one.
func askReady(ctx context.Context, find func() (string, error)) (*web.Readiness, error) {
	url, err := find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return nil, Usage(fmt.Errorf("--server is not a URL"))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "no server answers on %s", url)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	state := &web.Readiness{}
	if err != nil || json.Unmarshal(text, state) != nil || state.Status == "" {
		return nil, errs.New(errs.Unavailable, "something else answers on %s", url)
	}
	if resp.StatusCode != http.StatusOK {
		return state, errs.New(errs.Unavailable, "the server on %s is %s", url, state.Status)
	}
	return state, nil
}

// showReady prints a state, if there is one, and gives back the error.
func showReady(cmd *cobra.Command, state *web.Readiness, failed error) error {
	if state == nil {
		return failed
	}
	w := cmd.OutOrStdout()
	if wantsJSON(cmd) {
		if err := json.NewEncoder(w).Encode(state); err != nil {
			return err
		}
		return failed
	}
	for _, name := range slices.Sorted(maps.Keys(state.Modules)) {
		m := state.Modules[name]
		if _, err := fmt.Fprintf(w, "%-12s %s  %s\n", name, m.State, m.Reason); err != nil {
			return err
		}
	}
	return failed
}
