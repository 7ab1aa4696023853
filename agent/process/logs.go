package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// logFile is a file that others append to, rotated by copying and truncating.
type logFile struct {
	path string
	max  int64
	keep int

	mu sync.Mutex
	// from is where this process's own output begins.
	from int64
}

func newLogFile(path string, max int64, keep int) *logFile {
	if max <= 0 {
		max = defaultLogMax
	}
	if keep <= 0 {
		keep = defaultLogKeep
	}
	return &logFile{path: path, max: max, keep: keep}
}

// open opens the log for a new process.
func (l *logFile) open() (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o750); err != nil {
		return nil, fmt.Errorf("open the log of the node software: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the log of the node software: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.from = info.Size()
	return f, nil
}

func (l *logFile) rotateIfLong() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() <= l.max {
		return nil
	}
	if err := l.rotate(); err != nil {
		return fmt.Errorf("rotate %s: %w", l.path, err)
	}
	l.from = 0
	return nil
}

// rotate copies the log to path.1.new, truncates it, and moves every old file
// on by one. A crash before the truncation leaves a copy too many, one after it
// leaves path.1.new, which the next rotation takes for the newest old file.
func (l *logFile) rotate() error {
	fresh := l.old(1) + ".new"
	switch err := l.shift(fresh); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	}
	if err := l.drainTo(fresh); err != nil {
		return err
	}
	return l.shift(fresh)
}

// shift makes the file fresh the newest of the old ones.
func (l *logFile) shift(fresh string) error {
	if _, err := os.Lstat(fresh); err != nil {
		return err
	}
	for i := l.keep - 1; i >= 1; i-- {
		if err := os.Rename(l.old(i), l.old(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(fresh, l.old(1))
}

func (l *logFile) old(i int) string { return fmt.Sprintf("%s.%d", l.path, i) }

// drainTo copies the log to a new file and truncates it.
func (l *logFile) drainTo(path string) (err error) {
	in, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// Copy again until nothing was added meanwhile: what is added between the
	// last look and the truncation is lost, so that time must be short.
	for range logCatchUp {
		n, err := io.Copy(out, in)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	return in.Truncate(0)
}

// tail returns the last n lines, of this process where that is known.
func (l *logFile) tail(n int) string {
	if n <= 0 {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(l.from, info.Size()-maxTail)
	b := make([]byte, max(info.Size()-from, 0))
	got, err := f.ReadAt(b, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	b = bytes.TrimRight(b[:got], "\n")
	at := len(b)
	for range n {
		if at = bytes.LastIndexByte(b[:at], '\n'); at < 0 {
			break
		}
	}
	return strings.ToValidUTF8(string(b[at+1:]), "?")
}
