// Package durable writes files so that a crash at any instant leaves either
// the old content or the new, never a mixture: temporary file, write, fsync,
// close, rename, fsync of the folder. It reads them within a bound.
//
// The order follows Pillai et al., "All File Systems Are Not Created Equal"
// (OSDI 2014): without the fsync of the folder a rename may be lost, and
// without the fsync of the file it may publish an empty one.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// ReadFile returns the content of a file of at most most bytes. That of a longer one
// is not read, which the error says; a missing one is fs.ErrNotExist.
func ReadFile(path string, most int64) ([]byte, error) {
	return read(path, most, func(fs.FileInfo) error { return nil })
}

// ReadSecret is ReadFile for what nobody but its owner may read: where others may, that
// is the error, and fs.ErrPermission, and nothing is read.
func ReadSecret(path string, most int64) ([]byte, error) {
	return read(path, most, func(info fs.FileInfo) error {
		if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
			return fmt.Errorf("%w: others may read the secret %s (mode %04o): `chmod 600 %s`, and replace the secret if others use this machine", fs.ErrPermission, path, perm, path)
		}
		return nil
	})
}

func read(path string, most int64, check func(fs.FileInfo) error) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err == nil {
		err = check(info)
	}
	if err != nil {
		return nil, err
	}
	data, err = io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s: it has more than %d bytes, the most that is allowed", path, most)
	}
	return data, nil
}

// WriteFile replaces path by data. When it returns nil, the new content
// survives a power loss. A temporary file beside path is removed on error.
func WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), ignoreMissing(os.Remove(f.Name())))
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return Rename(f.Name(), path)
}

func allocate(path string, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func writeZeros(f *os.File, size int64) error {
	_, err := io.CopyN(f, zeros{}, size)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Rename moves from over to, and makes the move durable. Both must be on one
// file system; what from names must itself be synced already.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncDir makes the entries of a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync folder %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

// SyncTree makes every regular file and folder below root durable, the
// folders after their content. Links are not followed. Whoever can write to the tree
// meanwhile leads it neither out of root nor to wait: all is opened from the folder that
// root was when it was called, and without blocking.
func SyncTree(root string) error {
	if err := syncTree(root); err != nil {
		return fmt.Errorf("sync tree %s: %w", root, err)
	}
	return nil
}

func syncTree(root string) (err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var dirs []string
	err = fs.WalkDir(r.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			dirs = append(dirs, name)
		case e.Type().IsRegular():
			return syncIn(r, name)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = syncIn(r, dirs[i])
	}
	return err
}

// syncIn makes one file or folder durable. What has become a pipe, or a device, since it
// was seen has nothing to keep.
func syncIn(r *os.Root, name string) error {
	f, err := r.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && (info.IsDir() || info.Mode().IsRegular()) {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
