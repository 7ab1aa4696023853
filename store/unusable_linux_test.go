package store

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnusableFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(file, Options{})
	wantErr(t, err, file+" is a file")
	_, err = Open(filepath.Join(dir, "no", "data"), Options{})
	wantErr(t, err, "its parent folder "+filepath.Join(dir, "no")+" does not exist")

	closed := filepath.Join(dir, "closed")
	must(t, os.Mkdir(closed, 0o500))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			// For this thread alone, which ends with the goroutine.
			runtime.LockOSThread()
			if err := errors.Join(os.Chmod(dir, 0o755), unix.Setfsuid(65534)); err != nil {
				t.Error(err)
				return
			}
		}
		_, err := Open(closed, Options{})
		wantErr(t, err, "is not writable by user")
		_, err = Open(filepath.Join(closed, "data"), Options{})
		wantErr(t, err, "is not writable by user")
	}()
	<-done
}
