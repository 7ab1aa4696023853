package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"moult/store/durable"
	"moult/testdata/kit"
)

// standingOf opens a copy and reads how far it is.
func standingOf(t testing.TB, dir string) (Standing, error) {
	t.Helper()
	s, err := OpenCopy(dir, Options{})
	if err != nil {
		return Standing{}, err
	}
	defer mustClose(t, s)
	return s.Standing()
}

// TestCopyTo copies a store that is written to all the while: each copy is whole, and has what
// was acknowledged before.
func TestCopyTo(t *testing.T) {
	dir := kit.MemDir(t)
	s := mustOpen(t, filepath.Join(dir, "data"), Options{})
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				mustAppend(t, s, "k", strings.Repeat("x", 20_000)) // so that tables are written
			}
		}
	})
	for i := range 8 {
		e := mustAppend(t, s, "k", fmt.Sprint(i))
		to := filepath.Join(dir, fmt.Sprint("copy", i))
		must(t, s.CopyTo(to))
		st, err := standingOf(t, to)
		if err != nil || st.hashes[e.Seq] != e.Hash {
			t.Errorf("copy %d: %v", i, err)
		}
	}
	close(stop)
	writing.Wait()
	if err := s.CopyTo(filepath.Join(dir, "copy0")); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another one: %v", err)
	}
	if _, err := standingOf(t, filepath.Join(dir, "copy0")); err != nil {
		t.Errorf("the other one after that: %v", err)
	}
}

func TestGoesOnFrom(t *testing.T) {
	dir := kit.MemDir(t)
	data := filepath.Join(dir, "data")
	s := mustOpen(t, data, Options{})
	fill(t, s, 20)
	mustClose(t, s)
	take := func(name string) Standing {
		must(t, Copy(data, filepath.Join(dir, name)))
		st, err := standingOf(t, filepath.Join(dir, name))
		must(t, err)
		return st
	}
	before := take("before")
	s = mustOpen(t, data, Options{})
	fill(t, s, 20)
	mustClose(t, s)
	after := take("after")
	must(t, after.GoesOnFrom(before))
	must(t, after.GoesOnFrom(Standing{}))
	if err := before.GoesOnFrom(after); err == nil {
		t.Error("a store that lost writes goes on")
	}
	// Another history of the same length, as a build would write that begins a journal anew.
	s = mustOpen(t, filepath.Join(dir, "other"), Options{})
	mustAppend(t, s, "k", "another")
	for range 2 {
		fill(t, s, 25)
	}
	mustClose(t, s)
	must(t, Copy(filepath.Join(dir, "other"), filepath.Join(dir, "othercopy")))
	other, err := standingOf(t, filepath.Join(dir, "othercopy"))
	must(t, err)
	if err := other.GoesOnFrom(before); !errors.Is(err, ErrDamaged) {
		t.Errorf("another history: %v", err)
	}
	low := after
	low.Floor.Release = 1
	if err := low.GoesOnFrom(before); err == nil || !strings.Contains(err.Error(), "release") {
		t.Errorf("a lower floor: %v", err)
	}
}

// TestPutBack: whatever a bad build has made of a store, what was there before is there again,
// no floor is lower, and it is doubted what was written last.
func TestPutBack(t *testing.T) {
	spoils := map[string]func(data string) error{
		"the database garbled": func(data string) error { return garble(filepath.Join(data, "db")) },
		"the database gone":    func(data string) error { return os.RemoveAll(filepath.Join(data, "db")) },
		"all gone": func(data string) error {
			return errors.Join(os.RemoveAll(filepath.Join(data, "db")), os.Remove(filepath.Join(data, "floor.json")))
		},
		"nothing": func(string) error { return nil },
	}
	for what, spoil := range spoils {
		t.Run(what, func(t *testing.T) {
			dir := kit.MemDir(t)
			data, from := filepath.Join(dir, "data"), filepath.Join(dir, "before")
			s := mustOpen(t, data, Options{})
			fill(t, s, 20)
			must(t, s.Raise(func(f *Floor) { f.RecordSeq = 50 }))
			want, before := mustContent(t, s), s.Floor()
			mustClose(t, s)
			must(t, Copy(data, from))
			s = mustOpen(t, data, Options{})
			fill(t, s, 5)
			must(t, s.Raise(func(f *Floor) { f.RecordSeq, f.Obeys, f.Timestamp = 90, 7, 12 }))
			mustClose(t, s)
			must(t, spoil(data))
			must(t, PutBack(data, from, "a bad build", Options{}))
			check := func() {
				t.Helper()
				s := mustOpen(t, data, Options{})
				defer mustClose(t, s)
				if d := s.Damage(); d == nil || d.What != "a bad build" || d.Where != "" {
					t.Errorf("damage %+v", d)
				}
				got := mustContent(t, s)
				if what == "all gone" {
					if s.Floor() != before || got != want {
						t.Errorf("floor %+v, before %+v", s.Floor(), before)
					}
					return
				}
				if f := s.Floor(); f.RecordSeq != 90 || f.Obeys != 7 || f.Timestamp != 12 || f.Release != before.Release {
					t.Errorf("the floor is %+v", f)
				}
				if f := s.Floor(); f.JournalSeq != before.JournalSeq || f.JournalHash != before.JournalHash {
					t.Errorf("the journal ends at %d, and ended at %d", f.JournalSeq, before.JournalSeq)
				}
				must(t, s.Journal(0, func(Entry) error { return nil }))
			}
			check()
			// Once more, as after a crash before it was noted: the same.
			must(t, PutBack(data, from, "a bad build", Options{}))
			check()
			if what == "all gone" || what == "the database gone" {
				return
			}
			// A crash after the old database was put away.
			must(t, durable.Rename(filepath.Join(data, "db"), filepath.Join(data, "away")))
			must(t, PutBack(data, from, "a bad build", Options{}))
			check()
		})
	}
}

func garble(db string) error {
	files, err := filepath.Glob(filepath.Join(db, "*"))
	for _, f := range files {
		err = errors.Join(err, os.WriteFile(f, []byte(strings.Repeat("garbage ", 2000)), 0o600))
	}
	return err
}

// TestOpenCopyRefuses: damage in a copy is told, and never mended.
func TestOpenCopyRefuses(t *testing.T) {
	dir := kit.MemDir(t)
	data := filepath.Join(dir, "data")
	s := mustOpen(t, data, Options{})
	fill(t, s, 20)
	mustClose(t, s)
	for what, spoil := range map[string]func(string) error{
		"garbled": func(c string) error { return garble(filepath.Join(c, "db")) },
		"no db":   func(c string) error { return os.RemoveAll(filepath.Join(c, "db")) },
		"no floor": func(c string) error {
			return errors.Join(os.Remove(filepath.Join(c, "floor.json")))
		},
		"nothing": func(c string) error {
			return errors.Join(os.RemoveAll(filepath.Join(c, "db")), os.Remove(filepath.Join(c, "floor.json")))
		},
	} {
		to := filepath.Join(dir, strings.ReplaceAll(what, " ", "-"))
		must(t, Copy(data, to))
		must(t, spoil(to))
		if s, err := OpenCopy(to, Options{}); err == nil {
			mustClose(t, s)
			t.Errorf("%s: opened", what)
		}
		if Fatal(to) {
			t.Errorf("%s: it is taken for one that ends processes", what)
		}
	}
}

// TestPutBackPlanted: what lets TestPutBack pass is that the floor of what is replaced counts.
func TestPutBackPlanted(t *testing.T) {
	for _, planted := range []bool{false, true} {
		dir := kit.MemDir(t)
		data, from := filepath.Join(dir, "data"), filepath.Join(dir, "before")
		s := mustOpen(t, data, Options{})
		fill(t, s, 5)
		mustClose(t, s)
		must(t, Copy(data, from))
		s = mustOpen(t, data, Options{})
		must(t, s.Raise(func(f *Floor) { f.Obeys = 7 }))
		said := s.Floor()
		mustClose(t, s)
		must(t, PutBack(data, from, "a bad build", Options{outside: outside{forgetFloor: planted}}))
		s = mustOpen(t, data, Options{})
		if err := said.lowered(s.Floor()); (err != nil) != planted {
			t.Errorf("planted %v: %v", planted, err)
		}
		mustClose(t, s)
	}
}
