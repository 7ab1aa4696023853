package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// readOnly mounts a folder over itself, read-only, until the returned function is called.
func readOnly(t *testing.T, dir string) (end func()) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted read-only: %v", err)
	}
	mounted := true
	end = func() {
		if mounted {
			mounted = false
			must(t, unix.Unmount(dir, unix.MNT_DETACH))
		}
	}
	t.Cleanup(end)
	must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	return end
}

// A store opens on a read-only disk, whether the one before was closed or killed. It has
// all that was written, takes no writes, and changes nothing.
func TestOpenReadOnly(t *testing.T) {
	dirs, want, floor := prepare(t, 20)
	for name, dir := range dirs {
		end := readOnly(t, dir)
		s := mustOpen(t, dir, Options{})
		if got := mustContent(t, s); got != want || s.Floor() != floor || s.Damage() != nil {
			t.Errorf("%s: it has other content: damage %v", name, s.Damage())
		}
		refused := func(words string) {
			t.Helper()
			for what, err := range map[string]error{
				"a write": s.Put("docs", "key", []byte("value")), "a look": s.WatchSpace(),
			} {
				if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), words) {
					t.Errorf("%s: %s: %v", name, what, err)
				}
			}
		}
		refused("is mounted read-only")
		must(t, s.Raise(func(*Floor) {}))
		end()
		refused("start it again, now that it is not")
		mustClose(t, s)
		if _, err := os.Stat(s.copied); err == nil || s.copied == "" {
			t.Errorf("%s: the copy %q stays", name, s.copied)
		}
		if s = mustOpen(t, dir, Options{}); mustContent(t, s) != want || s.Floor() != floor || s.Damage() != nil {
			t.Errorf("%s: afterwards it has other content: damage %v", name, s.Damage())
		}
		must(t, s.Put("docs", "key", []byte("value")))
		mustClose(t, s)
	}
}

// Also where the database is damaged or gone, or the floor file.
func TestOpenReadOnlyDamaged(t *testing.T) {
	dirs, _, floor := prepare(t, 20)
	try := memDir(t)
	for name, spoil := range map[string]func(dir string) error{
		"no database":        func(dir string) error { return os.RemoveAll(filepath.Join(dir, "db")) },
		"a damaged database": func(dir string) error { return os.Remove(filepath.Join(dir, "db", "MANIFEST")) },
		"no floor file":      func(dir string) error { return os.Remove(filepath.Join(dir, "floor.json")) },
	} {
		target := filepath.Join(try, strings.ReplaceAll(name, " ", "-"))
		copyTree(t, dirs["crashed"], target)
		must(t, spoil(target))
		end := readOnly(t, target)
		s := mustOpen(t, target, Options{})
		if s.Damage() == nil || s.Floor() != floor {
			t.Errorf("%s: damage %v, floor %+v", name, s.Damage(), s.Floor())
		}
		mustClose(t, s)
		end()
	}
}

// A disk that becomes read-only under an open store is no failed write: it goes on when it
// takes writes again.
func TestBecomesReadOnly(t *testing.T) {
	dir := memDir(t)
	s := mustOpen(t, dir, Options{})
	must(t, s.Put("docs", "key", []byte("before")))
	end := readOnly(t, dir)
	if err := s.Put("docs", "key", []byte("value")); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a write: %v", err)
	}
	end()
	must(t, s.Put("docs", "key", []byte("after")))
	if got, _, err := s.Get("docs", "key"); err != nil || string(got) != "after" {
		t.Errorf("it has %q, %v", got, err)
	}
}
