package store

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moult/testdata/kit"
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
		if _, err := os.Stat(s.copy.Path()); err == nil {
			t.Errorf("%s: the copy %q stays", name, s.copy.Path())
		}
		killed := s.copy.Path() + "0" // as kill -9 would leave one
		must(t, os.MkdirAll(filepath.Join(killed, "db"), 0o700))
		if s = mustOpen(t, dir, Options{}); mustContent(t, s) != want || s.Floor() != floor || s.Damage() != nil {
			t.Errorf("%s: afterwards it has other content: damage %v", name, s.Damage())
		}
		if _, err := os.Stat(killed); err == nil {
			t.Errorf("%s: what a killed one left stays", name)
		}
		must(t, s.Put("docs", "key", []byte("value")))
		mustClose(t, s)
	}
}

// The copy is made where there is room for all of it, and else nothing is.
func TestOpenReadOnlyNoRoom(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dirs, want, _ := prepare(t, 20)
	dir := dirs["crashed"]
	size, err := sizeOf(filepath.Join(dir, "db"))
	must(t, err)
	if size == 0 {
		t.Fatal("the database has no size")
	}
	readOnly(t, dir)
	for room, good := range map[int64]bool{openReserve + size: true, openReserve + size - 1: false} {
		free := func(string) (int64, error) { return room, nil }
		s, err := Open(dir, Options{outside: outside{free: free}})
		if good {
			must(t, err)
			if got := mustContent(t, s); got != want {
				t.Error("it has other content")
			}
			mustClose(t, s)
		} else {
			wantErr(t, err, "is mounted read-only")
			wantErr(t, err, os.TempDir()+": "+strconv.FormatInt(room, 10)+" bytes are free")
		}
		if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
			t.Errorf("with room of %d, %v are left, %v", room, left, err)
		}
	}
}

// Also where the database is damaged or gone, or the floor file.
func TestOpenReadOnlyDamaged(t *testing.T) {
	dirs, _, floor := prepare(t, 20)
	try := kit.MemDir(t)
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
	dir := kit.MemDir(t)
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
