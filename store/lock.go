package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"moult/store/durable"
)

// prepareDir makes the data folder if it is missing. Its parent must exist:
// a mistyped path should not grow a tree.
func prepareDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("data folder %s: its parent folder %s does not exist; create it first", dir, filepath.Dir(dir))
	case errors.Is(err, fs.ErrPermission):
		return notWritable(dir, err)
	case !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("data folder %s: %w", dir, err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data folder %s: %w", dir, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("data folder %s is a file; name a folder", dir)
	}
	return nil
}

// ErrInUse means that somebody else has a data folder.
var ErrInUse = errors.New("in use by another moult agent")

// lockDir takes the data folder for this process. A process that an agent was just starting
// when it was killed holds its lock too, until it is what it was to become: that is waited for.
func lockDir(dir string) (*flock.Flock, error) {
	path := filepath.Join(dir, "lock")
	l := flock.New(path, flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	by := holder(path)
	if err == nil && !ok && isGone(by) {
		by = 0
		ctx, cancel := context.WithTimeout(context.Background(), lockWait)
		defer cancel()
		if ok, err = l.TryLockContext(ctx, lockPause); errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, notWritable(dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("data folder %s: lock it: %w", dir, err)
	}
	if !ok {
		return nil, fmt.Errorf("data folder %s is %w%s; stop that agent or name another folder", dir, ErrInUse, named(by))
	}
	// The same file again: a lock belongs to the file, not to its content.
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil && !isReadOnly(err) {
		return nil, errors.Join(fmt.Errorf("data folder %s: write the lock: %w", dir, err), l.Unlock())
	}
	return l, nil
}

// holder returns the process that the lock file names, or 0.
func holder(path string) int {
	b, err := durable.ReadFile(path, maxLockFile)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

func named(pid int) string {
	if pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}

// isGone reports whether the process that held a lock is known to have ended.
func isGone(pid int) bool {
	if pid == 0 {
		return false
	}
	p, err := os.FindProcess(pid)
	return err != nil || errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

func notWritable(dir string, err error) error {
	return fmt.Errorf("data folder %s is not writable by user %d: %w; change its owner or name another folder", dir, os.Geteuid(), err)
}
