package app

import (
	"github.com/spf13/cobra"
	"os"
)

func openapiCommand(modules []Module) *cobra.Command {
	cmd := &cobra.Command{Use: "openapi", Short: "Print the API description (OpenAPI 3.1)", Args: cobra.NoArgs,
		Example: "  app openapi > openapi/openapi.yaml\n  app openapi --json --modules=collector"}
	load := bindSettings(cmd, modules, os.Environ())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, _, err := load()
		if err != nil {
			return err
		}
		chosen, err := set.chosen(modules)
		if err != nil {
			return Usage(err)
		}
		server, err := describe(set, chosen)
		if err != nil {
			return err
		}
		text, yaml, err := server.Router().OpenAPI()
		if err != nil {
			return err
		}
		if !wantsJSON(cmd) {
			text = yaml
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}
