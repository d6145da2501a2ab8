package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"switchboard/platform/config"
)

// Exit codes of every command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
)

// Main runs the command line and gives the exit code: 0 done, 1 failed,
// 2 wrong usage or configuration. Errors are one line on stderr. SIGINT and
// SIGTERM end a command well; a second one ends the process.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer, modules []Module) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	paceCollector()
	root := rootCommand(modules)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var usage *usageError
	line := strings.Join(strings.Fields(err.Error()), " ")
	_, _ = fmt.Fprintln(stderr, "app: "+line)
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// usageError marks wrong usage or configuration: exit code 2.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// Usage marks err as wrong usage of a command: the program exits with 2.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

func rootCommand(modules []Module) *cobra.Command {
	root := &cobra.Command{
		Use:   "app",
		Short: "Switchboard: what a company and its customers tell each other, in one program",
		Long: "Switchboard collects the interaction events of web applications, pushes events to sockets, keeps and\n" +
			"delegates the calls of a phone platform, runs message campaigns and keeps a CRM in step with a mobility\n" +
			"platform, in one program with no other service to install.\n\n" +
			"Start it with \"app serve\"; every other command talks to a running server.",
		Example:       "  app serve\n  app keys create --name shop --app shop --scope collector:write\n  app events tail",
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usage(err) })
	root.PersistentFlags().Bool("json", false, "print JSON, for scripts")
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "use", Title: "Use a running server:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", serveCommand(modules), configCommand(modules), doctorCommand(modules), openapiCommand(modules), readyCommand(), restoreCommand(), versionCommand())
	produce := &cobra.Command{Use: "produce", Short: "Play the outside world against a running server", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	for _, m := range modules {
		if m.Commands != nil {
			add("use", m.Commands()...)
		}
		if m.Producers != nil {
			produce.AddCommand(m.Producers()...)
		}
	}
	add("use", produce, keysCommand(), backupCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error {
			if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
				return fmt.Errorf("unknown command %q for \"app\"", strings.Join(args, " "))
			}
			return nil
		}
	}
	usageArgs(root)
	return root
}

// usageArgs makes wrong arguments and missing flags of every command exit
// with 2.
func usageArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return Usage(check(cmd, args)) }
	}
	if cmd.PreRunE == nil {
		cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return Usage(cmd.ValidateRequiredFlags()) }
	}
	for _, sub := range cmd.Commands() {
		usageArgs(sub)
	}
}

func wantsJSON(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("json")
	return err == nil && v
}

// bindSettings adds the flags of the configuration to a command and gives the
// function that reads it all.
func bindSettings(cmd *cobra.Command, modules []Module, env []string) func() (*settings, *config.Values, error) {
	set := newSettings(modules)
	sections := set.sections(modules)
	config.BindFlags(cmd.Flags(), sections...)
	file := cmd.Flags().String("config", "", "configuration file, YAML (APP_CONFIG)")
	return func() (*settings, *config.Values, error) {
		values, err := config.Load(config.Source{Flags: cmd.Flags(), Env: env, File: *file}, sections...)
		if err != nil {
			return nil, nil, Usage(err)
		}
		if _, err := set.chosen(modules); err != nil {
			return nil, nil, Usage(err)
		}
		if err := set.complete(); err != nil {
			return nil, nil, Usage(err)
		}
		return set, values, nil
	}
}
