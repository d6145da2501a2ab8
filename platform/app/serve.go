package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/platform/errs"
	"switchboard/platform/logs"
)

func serveCommand(modules []Module) *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Start the server", Args: cobra.NoArgs,
		Long: "Start the server with all modules, or those of --modules, and serve until SIGTERM or SIGINT.\n" +
			"A second signal exits at once. Every setting is described in docs/config.md.",
		Example: "  app serve\n" +
			"  app serve --modules=collector --listen=127.0.0.1:9000 --data-dir=/var/lib/switchboard\n" +
			"  app serve --nats-url=nats://10.0.0.5:4222 --database-url=postgres://switchboard@10.0.0.6/switchboard",
	}
	load := bindSettings(cmd, modules, os.Environ())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, _, err := load()
		if err != nil {
			return err
		}
		return serve(cmd.Context(), set, modules, time.Now, cmd.OutOrStdout(), cmd.ErrOrStderr(), nil)
	}
	return cmd
}

// Options of Serve.
type Options struct {
	Modules []Module
	// Args are flags of "app serve"; Env stands for the environment.
	Args, Env []string
	// Stdout gets the greeting, Stderr the log.
	Stdout, Stderr io.Writer
	Now            func() time.Time
	// Ready is called once with the server's URL.
	Ready func(url string)
}

// Serve does what "app serve" does, in this process and until ctx ends. Many
// may run at once.
func Serve(ctx context.Context, o Options) error {
	cmd := &cobra.Command{Use: "serve"}
	load := bindSettings(cmd, o.Modules, o.Env)
	if err := cmd.ParseFlags(o.Args); err != nil {
		return Usage(err)
	}
	set, _, err := load()
	if err != nil {
		return err
	}
	return serve(ctx, set, o.Modules, o.Now, o.Stdout, o.Stderr, o.Ready)
}

func serve(ctx context.Context, set *settings, modules []Module, now func() time.Time, stdout, stderr io.Writer, ready func(url string)) error {
	begin := time.Now()
	log, err := logs.New(stderr, set.log, isTerminal(stderr))
	if err != nil {
		return Usage(err)
	}
	chosen, err := set.chosen(modules)
	if err != nil {
		return Usage(err)
	}
	defer context.AfterFunc(ctx, func() { log.Info("stopping; a second signal exits at once") })()
	p, err := open(ctx, set, chosen, log, stdout, now)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		log.Info("stopped") // told to stop before it was up
		return nil
	case errs.KindOf(err) == errs.Invalid:
		return Usage(err)
	case err != nil:
		return err
	}
	err = p.run(ctx, func() {
		log.Info("ready", "took", time.Since(begin).Round(time.Millisecond).String(), "url", p.url(), "modules", names(chosen))
		greet(stdout, p, chosen)
		if ready != nil {
			ready(p.url())
		}
	})
	if err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// greet tells a person what to do next.
func greet(w io.Writer, p *product, chosen []Module) {
	url, key := p.url(), p.set.path(fileAdminKey)
	_, _ = fmt.Fprintf(w, "Switchboard is ready: %s\n  docs     %s/docs/\n  key      %s (admin)\n  modules  %s\n", url, url, key, names(chosen))
	for _, m := range chosen {
		if m.Try != nil {
			_, _ = fmt.Fprintf(w, "  try      %s\n", strings.ReplaceAll(m.Try(url, key), "\n", "\n           "))
			break
		}
	}
}

func names(modules []Module) string {
	out := make([]string, len(modules))
	for i, m := range modules {
		out[i] = m.Name
	}
	return strings.Join(out, ",")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
