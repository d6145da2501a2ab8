package app

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"switchboard/platform/config"
)

// What stands above the generated texts.
const (
	settingsPreface = "# Settings\n\n" +
		"A flag beats the environment, the environment beats the file (`--config`, `APP_CONFIG`), the file beats the\n" +
		"default. Every key can also be given as `--set key=value`. An unknown key or a bad value stops the start with one\n" +
		"line that names the key and where it came from, and exit code 2. A secret can be read from a file: the variable or\n" +
		"key with `_FILE` or `_file` at its end names it. `app config show` prints every value and its origin.\n\n" +
		"This page is printed by `app config docs`, a sample file by `app config docs --sample`.\n\n"
	samplePreface = "# Every setting at its default. Take the \"#\" from a line without a space after it to set that key.\n" +
		"# The same keys as environment variables and flags: docs/config.md.\n\n"
)

func configCommand(modules []Module) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show, explain and check the configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	show := &cobra.Command{Use: "show", Short: "Print every setting, its value and where that came from", Args: cobra.NoArgs,
		Example: "  app config show\n  APP_LISTEN=:9000 app config show --json"}
	loadShow := bindSettings(show, modules, os.Environ())
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		_, values, err := loadShow()
		if err != nil {
			return err
		}
		if wantsJSON(cmd) {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(values.All())
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), values.Show())
		return err
	}
	check := &cobra.Command{Use: "check", Short: "Check the configuration and say nothing if it is good", Args: cobra.NoArgs,
		Example: "  app config check --config=/etc/switchboard/app.yaml"}
	loadCheck := bindSettings(check, modules, os.Environ())
	check.RunE = func(*cobra.Command, []string) error {
		_, _, err := loadCheck()
		return err
	}
	docs := &cobra.Command{Use: "docs", Short: "Print the reference of all settings", Args: cobra.NoArgs,
		Example: "  app config docs > docs/config.md\n  app config docs --sample > config/app.yaml"}
	sample := docs.Flags().Bool("sample", false, "print a sample file (YAML) instead")
	docs.RunE = func(cmd *cobra.Command, _ []string) error {
		sections := newSettings(modules).sections(modules)
		text := settingsPreface + config.Markdown(sections...)
		if *sample {
			text = samplePreface + config.SampleYAML(sections...)
		}
		_, err := fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	cmd.AddCommand(show, check, docs)
	return cmd
}
