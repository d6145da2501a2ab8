package app

import (
	"strings"

	"github.com/spf13/cobra"
)

// Reference is the help of every command as Markdown, for docs/cli.md.
func Reference(modules []Module) string {
	var b strings.Builder
	b.WriteString("# Commands\n\n" +
		"Every command that talks to a running server finds it and its admin key through the data directory; `--server` and\n" +
		"`--key` name others. `--json` prints JSON, lists as one object per line. Exit codes: 0 done, 1 failed, 2 wrong usage\n" +
		"or configuration. `app completion bash|zsh|fish|powershell` prints shell completion.\n")
	referTo(&b, rootCommand(modules))
	return b.String()
}

func referTo(b *strings.Builder, cmd *cobra.Command) {
	if cmd.HasParent() && (!cmd.IsAvailableCommand() || cmd.Name() == "help" || cmd.Name() == "completion") {
		return
	}
	cmd.InitDefaultHelpFlag()
	about := cmd.Long
	if about == "" {
		about = cmd.Short
	}
	b.WriteString("\n## " + cmd.CommandPath() + "\n\n```text\n" + strings.TrimSpace(about) + "\n\n" + strings.TrimSpace(cmd.UsageString()) + "\n```\n")
	for _, sub := range cmd.Commands() {
		referTo(b, sub)
	}
}
