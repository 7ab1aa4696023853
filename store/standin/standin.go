// Package standin has private folders, in the folder for temporary files, that stand in
// for a folder on a disk that takes no writes.
//
// The folder for temporary files is everybody's (TMPDIR, else mostly /tmp). So a stand-in
// has a part in its name that nobody can foretell, and so cannot be there before; it is open
// to its owner alone; and whoever looks for it believes only what belongs to himself, or to
// the owner of the folder that it stands in for. Its owner holds a lock in it while it lives. What a dead
// one has left is what can be locked.
package standin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// Folder is a stand-in, which is locked until it is closed.
type Folder struct {
	path string
	lock *flock.Flock
}

const lockName = "lock"

// unknown is whose a file is where that is not known: nobody's who is believed.
const unknown = -2

// prefix is how the names of a folder's stand-ins begin.
func prefix(of string) (string, error) {
	abs, err := filepath.Abs(of)
	sum := sha256.Sum256([]byte(abs))
	return fmt.Sprintf("moult-%x-", sum[:8]), err
}

// New makes a stand-in for a folder.
func New(of string) (*Folder, error) {
	begins, err := prefix(of)
	if err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp("", begins) // mode 0700
	if err != nil {
		return nil, fmt.Errorf("make a folder that stands in for %s (TMPDIR says where): %w", of, err)
	}
	f := &Folder{path: path, lock: flock.New(filepath.Join(path, lockName), flock.SetPermissions(0o600))}
	ok, err := f.lock.TryLock()
	if err == nil && !ok {
		err = errors.New("another process holds it")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), os.RemoveAll(path))
	}
	return f, nil
}

// Path returns where the folder is.
func (f *Folder) Path() string { return f.path }

// Close removes the folder and what is in it.
func (f *Folder) Close() error { return errors.Join(os.RemoveAll(f.path), f.lock.Unlock()) }

// Find returns the stand-ins of a folder that belong to whom it belongs to, or to this
// process's user, who may make them beside another's folder; dead ones as well.
func Find(of string) ([]string, error) {
	begins, err := prefix(of)
	if err != nil {
		return nil, err
	}
	owner, err := os.Stat(of)
	if err != nil {
		return nil, err
	}
	there, err := os.ReadDir(os.TempDir())
	if err != nil {
		return nil, err
	}
	var own []string
	for _, entry := range there {
		path := filepath.Join(os.TempDir(), entry.Name())
		if !strings.HasPrefix(entry.Name(), begins) {
			continue
		}
		if fi, err := os.Lstat(path); err == nil && fi.Mode() == fs.ModeDir|0o700 && believed(ownerOf(fi), ownerOf(owner)) {
			own = append(own, path)
		}
	}
	return own, nil
}

func believed(uid, owner int) bool {
	return uid != unknown && (uid == owner || uid == os.Geteuid())
}

// Sweep removes what dead ones have left of the stand-ins of a folder, and returns what it
// removed.
func Sweep(of string) (swept []string, err error) {
	there, err := Find(of)
	for _, path := range there {
		lock := flock.New(filepath.Join(path, lockName), flock.SetPermissions(0o600))
		ok, lerr := lock.TryLock()
		switch {
		case lerr != nil:
			err = errors.Join(err, fmt.Errorf("lock %s: %w", path, lerr))
		case ok:
			swept = append(swept, path)
			err = errors.Join(err, os.RemoveAll(path), lock.Unlock())
		}
	}
	return swept, err
}
