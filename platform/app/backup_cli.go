package app

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup FOLDER", Short: "Back up the data of a running server", Args: cobra.ExactArgs(1),
		Long: "Back up a running server into a new folder: data.tar.gz holds the databases and what waits on\n" +
			"the bus, sealed; keys.tar.gz holds the keys. Keep the second apart and for a short time only:\n" +
			"whoever has both can read everything, and an erased person lives on in them.",
		Example: "  app backup /var/backups/switchboard-2026-11-21",
	}
	connect := ClientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if err := os.Mkdir(args[0], 0o700); err != nil {
			return err
		}
		for _, part := range []string{partData, partKeys} {
			if err := download(cmd, c, part, filepath.Join(args[0], part+".tar.gz")); err != nil {
				// Half a backup must not be taken for one.
				return errors.Join(fmt.Errorf("back up %s: %w", part, err), os.RemoveAll(args[0]))
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "backed up into %s; keep %s.tar.gz apart\n", args[0], partKeys)
		return err
	}
	return cmd
}

func download(cmd *cobra.Command, c *Client, part, path string) error {
	resp, err := c.Open(cmd.Context(), http.MethodGet, "/admin/backup", url.Values{"part": {part}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &progress{r: resp.Body, to: cmd.ErrOrStderr(), what: part})
	return errors.Join(err, f.Sync(), f.Close())
}

// progress shows on a terminal how many bytes went through.
type progress struct {
	r     io.Reader
	to    io.Writer
	what  string
	total int64
	shown int64
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.total += int64(n)
	if (p.total-p.shown >= 1<<20 || err != nil) && isTerminal(p.to) {
		p.shown = p.total
		end := ""
		if err != nil {
			end = "\n"
		}
		_, _ = fmt.Fprintf(p.to, "\r%s  %s%s", p.what, config.Bytes(p.total), end)
	}
	return n, err
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore FOLDER", Short: "Restore a backup into a new data directory", Args: cobra.ExactArgs(1),
		Example: "  app restore /var/backups/switchboard-2026-11-21 --data-dir=./restored\n  app serve --data-dir=./restored",
	}
	cmd.Flags().String("data-dir", "", "data directory to make; it must not exist or be empty (default \"./data\")")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir := dataDir(cmd)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.Name() != "lost+found" { // of a file system's root
				return errs.New(errs.Conflict, "the data directory %s is not empty", dir)
			}
		}
		if err := restoreInto(dir, args[0]); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "restored into %s; start it with: app serve --data-dir=%s\n", dir, dir)
		return err
	}
	return cmd
}

// restoreInto unpacks a backup into a folder of the data directory, which may
// be a mount point, and then moves the files up. While that folder is there, no
// server starts: half a restore is never taken for a data directory.
func restoreInto(dir, from string) error {
	part := filepath.Join(dir, dirRestoring)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(part, 0o700); err != nil {
		return err
	}
	if err := unpackBackup(part, from); err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	entries, err := os.ReadDir(part)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(part, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return errors.Join(os.Remove(part), syncDir(dir))
}

func unpackBackup(dir, from string) error {
	for _, part := range []string{partData, partKeys} {
		f, err := os.Open(filepath.Join(from, part+".tar.gz"))
		if err != nil {
			return err
		}
		_, err = unpack(f, dir)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return os.Rename(filepath.Join(dir, fileBusExport), filepath.Join(dir, fileBusImport))
}

// syncDir writes the names in a folder to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
