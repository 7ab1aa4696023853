// Package disk writes the small files in which kv keeps its values.
//
// A file appears whole or not at all: it is written in a folder of its own for
// temporary files, synced, moved to its place, and the move is synced too.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Writer writes files. All of its folders must be on one file system.
type Writer struct {
	// Tmp is the folder for files that are not finished.
	Tmp string
	// NoSync leaves out every sync: a power loss may then take what was
	// written last. For tests.
	NoSync bool
}

// Clean removes what a crash left in w.Tmp, which is made if it is missing.
func (w Writer) Clean() error {
	if err := os.MkdirAll(w.Tmp, 0o755); err != nil {
		return err
	}
	left, err := os.ReadDir(w.Tmp)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(w.Tmp, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// IsEmpty reports whether a folder has nothing in it.
func IsEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	return len(entries) == 0, err
}

// Replace makes data the content of path. When it returns nil, that survives a
// power loss.
func (w Writer) Replace(path string, data []byte) error {
	tmp, err := w.write(data)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp))
	}
	return w.SyncDir(filepath.Dir(path))
}

// Create is Replace for a path that has no file yet. It reports whether it
// made the file; one that is there already is left as it is.
func (w Writer) Create(path string, data []byte) (created bool, err error) {
	tmp, err := w.write(data)
	if err != nil {
		return false, fmt.Errorf("create %s: %w", path, err)
	}
	// A link, other than a rename, fails where the name is taken.
	err = os.Link(tmp, path)
	if rm := os.Remove(tmp); rm != nil {
		return false, errors.Join(err, rm)
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create %s: %w", path, err)
	}
	return true, w.SyncDir(filepath.Dir(path))
}

// Mkdir makes a folder, durably, where there is none.
func (w Writer) Mkdir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return w.SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func (w Writer) SyncDir(path string) error {
	if w.NoSync {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync folder %s: %w", path, err), d.Close())
	}
	return d.Close()
}

// write puts data into a new temporary file and returns its path.
func (w Writer) write(data []byte) (path string, err error) {
	f, err := os.CreateTemp(w.Tmp, "new-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			// What Clean finds at the next start does no harm.
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", errors.Join(err, f.Close())
	}
	if !w.NoSync {
		if err := f.Sync(); err != nil {
			return "", errors.Join(err, f.Close())
		}
	}
	return f.Name(), f.Close()
}
