package collectorclient

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
)

// SpoolSync says when the spool is forced to disk.
type SpoolSync int

const (
	// SyncNever leaves it to the operating system: a killed process loses
	// nothing, a power cut may lose the last seconds.
	SyncNever SpoolSync = iota
	// SyncAlways makes Track return once the event is on disk. Concurrent
	// calls share one fsync.
	SyncAlways
)

const (
	spoolFile = "queue.ndjson"
	spoolLock = "lock"
	// compactAt is how large the file may grow before what is done in it is
	// cut away, if that is at least half of it.
	compactAt = 4 << 20
)

// spool is the queue's copy on disk: one file of lines, written at the end
// only. A line that begins with { is an event; a line with a number n says
// that the first n events of the file need no more sending. An empty queue
// empties the file; a long one is rewritten without what is done.
//
// append, done and close are called with the client's lock held; sync
// without it.
type spool struct {
	dir  string
	lock *os.File

	events  int   // in the file
	settled int   // of them, need no more sending
	size    int64 // of the file
	torn    bool  // the file's end is not where size says

	syncing sync.Mutex   // guards what follows, and replacing file
	file    *os.File     // written under the client's lock and syncing
	synced  int64        // of written
	written atomic.Int64 // bytes ever appended
	closed  bool
}

// openSpool takes dir for this process and gives the events that were left
// in it, in order, and how many lines of it were damaged.
func openSpool(dir string) (s *spool, queue [][]byte, damaged int, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, 0, fmt.Errorf("collectorclient: spool: %w", err)
	}
	s = &spool{dir: dir}
	if s.lock, err = os.OpenFile(filepath.Join(dir, spoolLock), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, nil, 0, fmt.Errorf("collectorclient: spool: %w", err)
	}
	if err = lock(s.lock); err != nil {
		err = fmt.Errorf("collectorclient: spool %s: %w", dir, err)
	} else if queue, damaged, err = readSpool(filepath.Join(dir, spoolFile)); err == nil {
		err = s.rewrite(queue)
	}
	if err != nil {
		return nil, nil, 0, errors.Join(err, s.close())
	}
	return s, queue, damaged, nil
}

// readSpool gives the events of a file that still need sending. A last line
// without an end was being written when the process died: its Track never
// returned, and it is left out. Any other line that can't be read counts as an
// event, so that the counts behind it never skip too much.
func readSpool(path string) (queue [][]byte, damaged int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	} else if err != nil {
		return nil, 0, fmt.Errorf("collectorclient: spool: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	settled := 0
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, 0, fmt.Errorf("collectorclient: spool: %w", err)
		}
		line = line[:len(line)-1]
		if n, err := strconv.Atoi(string(line)); err == nil {
			settled = max(settled, n)
			continue
		}
		if len(line) == 0 || line[0] != '{' || !json.Valid(line) {
			line = nil
		}
		queue = append(queue, line)
	}
	whole := make([][]byte, 0, len(queue))
	for _, line := range queue[min(settled, len(queue)):] {
		if line == nil {
			damaged++
			continue
		}
		whole = append(whole, line)
	}
	return whole, damaged, nil
}

// append adds an event and gives the mark to wait for with sync.
func (s *spool) append(event []byte) (mark int64, err error) {
	if err := s.write(append(bytes.Clone(event), '\n')); err != nil {
		return 0, err
	}
	s.events++
	return s.written.Load(), nil
}

// done notes that the oldest n events need no more sending; queue is what
// remains.
func (s *spool) done(n int, queue [][]byte) error {
	s.settled += n
	switch {
	case len(queue) == 0:
		if err := s.file.Truncate(0); err != nil {
			s.torn = true
			return fmt.Errorf("collectorclient: spool: %w", err)
		}
		s.events, s.settled, s.size, s.torn = 0, 0, 0, false
		return nil
	case s.size > compactAt && s.settled > s.events/2:
		return s.rewrite(queue)
	default:
		return s.write(strconv.AppendInt(nil, int64(s.settled), 10), '\n')
	}
}

// write appends one line; what can't be written whole is cut off again.
func (s *spool) write(line []byte, end ...byte) error {
	line = append(line, end...)
	if s.torn {
		if err := s.file.Truncate(s.size); err != nil {
			return fmt.Errorf("collectorclient: spool: %w", err)
		}
		s.torn = false
	}
	if _, err := s.file.Write(line); err != nil {
		s.torn = s.file.Truncate(s.size) != nil
		return fmt.Errorf("collectorclient: spool: %w", err)
	}
	s.size += int64(len(line))
	s.written.Add(int64(len(line)))
	return nil
}

// sync returns once everything up to the mark is on disk.
func (s *spool) sync(mark int64) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if s.synced >= mark || s.closed {
		return nil
	}
	upto := s.written.Load()
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("collectorclient: spool: %w", err)
	}
	s.synced = upto
	return nil
}

// rewrite replaces the file by one that holds the queue and nothing else.
func (s *spool) rewrite(queue [][]byte) (err error) {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	path := filepath.Join(s.dir, spoolFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("collectorclient: spool: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("collectorclient: spool: %w", err), f.Close(), os.Remove(path+".new"))
		}
	}()
	var size int64
	w := bufio.NewWriter(f)
	for _, line := range queue {
		n, _ := w.Write(line)
		_ = w.WriteByte('\n') // Flush tells
		size += int64(n) + 1
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if d, err := os.Open(s.dir); err == nil {
		_ = d.Sync() // not every system can
		_ = d.Close()
	}
	if s.file != nil {
		_ = s.file.Close() // replaced
	}
	s.file, s.size, s.torn = f, size, false
	s.events, s.settled = len(queue), 0
	s.synced = s.written.Load()
	return nil
}

// close syncs the file and gives the directory back.
func (s *spool) close() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	var errs []error
	if s.file != nil {
		errs = append(errs, s.file.Sync(), s.file.Close())
	}
	s.closed = true
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
