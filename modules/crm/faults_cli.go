package crm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

const faultsPath = "/crm/mock/faults"

func crmFaults(connect func() (*app.Client, error)) *cobra.Command {
	show := &cobra.Command{Use: "show", Short: "Show what goes wrong at the mock", Args: cobra.NoArgs, Example: "  app crm faults show\n  app crm faults show --json"}
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		return askFaults(cmd, connect, http.MethodGet, nil)
	}
	clearing := &cobra.Command{Use: "clear", Short: "Let the mock work well", Args: cobra.NoArgs, Example: "  app crm faults clear"}
	clearing.RunE = func(cmd *cobra.Command, _ []string) error {
		return askFaults(cmd, connect, http.MethodPut, map[string]any{})
	}
	return group("faults", "Let the mock fail", show, faultsSet(connect), clearing)
}

func faultsSet(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "set", Short: "Change what goes wrong at the mock", Args: cobra.NoArgs,
		Long:    "Change what goes wrong at the mock; what is not given stays. Shares are of the requests, 0 to 1, and together at most 1.",
		Example: "  app crm faults set --errors 0.2\n  app crm faults set --latency 200ms --jitter 100ms --lost 0.05\n  app crm faults set --down\n  app crm faults set --ids own"}
	flags := map[string]any{}
	for _, f := range []struct{ name, doc string }{
		{"errors", "share that is answered 503, without an effect"}, {"throttle", "share that is answered 429"},
		{"resets", "share whose connection is cut before the effect"}, {"lost", "share whose connection is cut after the effect"},
		{"garbage", "share that is answered with what is no JSON, after the effect"},
	} {
		flags[f.name] = cmd.Flags().Float64(f.name, 0, f.doc)
	}
	flags["latency"] = cmd.Flags().Duration("latency", 0, "how long a request waits")
	flags["jitter"] = cmd.Flags().Duration("jitter", 0, "what is added to it at most")
	flags["down"] = cmd.Flags().Bool("down", false, "cut every connection")
	flags["ids"] = cmd.Flags().String("ids", "", "what becomes of an Id that is given: conflict, replace, own, duplicate")
	flags["refuse"] = cmd.Flags().StringSlice("refuse", nil, "Ids that are refused, repeatable")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		change := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(flags)) {
			if !cmd.Flags().Changed(name) {
				continue
			}
			change[name] = flags[name]
			if d, ok := flags[name].(*time.Duration); ok {
				change[name] = d.String()
			}
		}
		if len(change) == 0 {
			return app.Usage(errors.New("give at least one fault"))
		}
		c, err := connect()
		if err != nil {
			return err
		}
		faults := map[string]any{}
		if err := c.Do(cmd.Context(), http.MethodGet, faultsPath, nil, nil, &faults); err != nil {
			return err
		}
		for name := range faults {
			if strings.HasPrefix(name, "$") { // the address of its schema
				delete(faults, name)
			}
		}
		maps.Copy(faults, change)
		return askFaults(cmd, connect, http.MethodPut, faults)
	}
	return cmd
}

func askFaults(cmd *cobra.Command, connect func() (*app.Client, error), method string, in any) error {
	var faults map[string]any
	return ask(cmd, connect, method, faultsPath, nil, in, &faults, func(w io.Writer) error {
		n := 0
		for _, name := range slices.Sorted(maps.Keys(faults)) {
			value := faults[name]
			if list, ok := value.([]any); strings.HasPrefix(name, "$") || value == "0s" || value == 0.0 || value == false || name == "ids" && value == "conflict" || ok && len(list) == 0 {
				continue
			}
			n++
			text, ok := value.(string)
			if !ok {
				raw, _ := json.Marshal(value) // it came as JSON
				text = string(raw)
			}
			namedLine(w, name, app.Printable(text))
		}
		if n > 0 {
			return nil
		}
		_, err := fmt.Fprintln(w, "nothing goes wrong")
		return err
	})
}
