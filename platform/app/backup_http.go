package app

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// A backup has two parts, each a gzipped tar: what was stored, which is
// sealed, and the keys. Who keeps the second apart and for a short time only
// keeps erasure meaningful.
const (
	partData = "data"
	partKeys = "keys"

	fileBusExport = "bus.export"
	fileBusImport = "bus.import" // an export to be taken in at the next start
	fileMasterKey = "master.key"
	dbKeys        = "keys"
)

func backupOp() web.Op {
	return web.Op{ID: "admin-backup", Method: http.MethodGet, Path: "/admin/backup", Tag: "admin", Scope: "admin", Stream: true,
		Summary:     "Take a backup while running",
		Description: "Two parts, data before keys: `?part=data` holds the databases and what waits on the bus, sealed; `?part=keys` holds the keys. With PostgreSQL, use pg_dump.",
		Errors:      []int{422, 503},
		Parameters:  []*huma.Param{{Name: "part", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{partData, partKeys}}}},
		Responses:   map[string]*huma.Response{"200": {Description: "The part.", Content: map[string]*huma.MediaType{"application/gzip": {}}}},
	}
}

func (p *product) backup(w http.ResponseWriter, r *http.Request) {
	part := r.URL.Query().Get("part")
	if part != partData && part != partKeys {
		web.Fail(w, r, errs.InvalidFields("no such part", errs.Field{Location: "query.part", Message: "is neither data nor keys"}))
		return
	}
	dir, err := os.MkdirTemp(p.set.DataDir, "backup-")
	if err != nil {
		web.Fail(w, r, errs.Wrap(errs.Unavailable, err, "make room for the backup"))
		return
	}
	defer os.RemoveAll(dir)
	files, err := p.collect(r.Context(), dir, part)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("Content-Disposition", `attachment; filename="switchboard-`+part+`.tar.gz"`)
	if err := pack(w, files); err != nil {
		// The status is out: a torn connection tells the client, a whole
		// gzip would not.
		p.log.ErrorContext(r.Context(), "backup", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// collect writes the files of a part into dir and gives their paths.
func (p *product) collect(ctx context.Context, dir, part string) ([]string, error) {
	var files []string
	if part == partKeys {
		for _, name := range []string{fileMasterKey, fileAdminKey} {
			if _, err := os.Stat(p.set.path(name)); err == nil {
				files = append(files, p.set.path(name))
			}
		}
	} else {
		// The bus first: what it holds now is either in the export, or stored
		// in a database before its snapshot is taken.
		path := filepath.Join(dir, fileBusExport)
		if err := p.exportBus(ctx, path); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	for _, db := range p.dbs {
		if (db.Name() == dbKeys) != (part == partKeys) {
			continue
		}
		path := filepath.Join(dir, db.Name()+".db")
		if err := db.Snapshot(ctx, path); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}

func (p *product) exportBus(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "back up the bus")
	}
	return errors.Join(p.bus.Export(ctx, f), f.Close())
}

// importBus takes in what a restore left for the bus. Consumers are
// idempotent, so that a crash before the file is gone does no harm.
func (p *product) importBus(ctx context.Context) error {
	path := p.set.path(fileBusImport)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take in the bus of a backup: %w", err)
	}
	err = p.bus.Import(ctx, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("take in the bus of a backup: %w", err)
	}
	return os.Remove(path)
}

// pack writes files as a gzipped tar.
func pack(w io.Writer, files []string) error {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, path := range files {
		if err := packFile(archive, path); err != nil {
			return fmt.Errorf("pack %s: %w", filepath.Base(path), err)
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

func packFile(archive *tar.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	_, err = io.CopyN(archive, f, info.Size())
	return err
}

// unpack writes the files of a gzipped tar into dir, each to disk before it
// returns, and gives their names. Only plain files without folders are taken.
func unpack(r io.Reader, dir string) ([]string, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "not a backup")
	}
	archive := tar.NewReader(zip)
	var names []string
	for {
		head, err := archive.Next()
		if err == io.EOF {
			if _, err := io.Copy(io.Discard, zip); err != nil { // up to the checksum
				return nil, errs.Wrap(errs.Invalid, err, "the backup is damaged")
			}
			return names, nil
		}
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "the backup is damaged")
		}
		if head.Typeflag != tar.TypeReg || filepath.Base(head.Name) != head.Name || slices.Contains([]string{".", "..", ""}, head.Name) {
			return nil, errs.New(errs.Invalid, "the backup holds something that is no plain file")
		}
		if err := unpackFile(filepath.Join(dir, head.Name), archive); err != nil {
			return nil, fmt.Errorf("restore %s: %w", head.Name, err)
		}
		names = append(names, head.Name)
	}
}

func unpackFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
