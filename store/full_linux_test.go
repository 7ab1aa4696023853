package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A store opens on a disk without a byte left, takes no writes there, and takes them
// again when there is room.
func TestOpenOnFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=160m"); err != nil {
		t.Skipf("no small disk can be mounted: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	dir := filepath.Join(disk, "data")
	s := mustOpen(t, dir, Options{})
	fill(t, s, 5)
	want, floor := mustContent(t, s), s.Floor()
	mustClose(t, s)

	eater, err := os.Create(filepath.Join(disk, "eater"))
	must(t, err)
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = eater.Write(chunk)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	must(t, eater.Close())
	for range 3 { // and again, when there is no ballast any more
		s = mustOpen(t, dir, Options{})
		if got := mustContent(t, s); got != want || s.Floor() != floor {
			t.Error("it has other content")
		}
		if err := s.Put("docs", "key", []byte("value")); !errors.Is(err, ErrNoSpace) {
			t.Errorf("a write: %v", err)
		}
		if err := s.Raise(func(*Floor) {}); err != nil {
			t.Errorf("nothing to write: %v", err)
		}
		mustClose(t, s)
	}
	must(t, os.Remove(eater.Name()))
	s = mustOpen(t, dir, Options{})
	must(t, s.Put("docs", "key", []byte("value")))
	if info, err := os.Stat(s.ballastPath()); err != nil || info.Size() != ballastSize {
		t.Errorf("the ballast is not there again: %v", err)
	}
	mustClose(t, s)

	// Without the ballast there would have been no way.
	must(t, os.Remove(s.ballastPath()))
	f, err := os.Create(eater.Name())
	must(t, err)
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(chunk)
	}
	must(t, f.Close())
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("without the ballast: %v", err)
	}
}
