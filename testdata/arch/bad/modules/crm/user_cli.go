package crm

import (
	_ "os"
	_ "os/exec"

	_ "github.com/spf13/cobra"
)
