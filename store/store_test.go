package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"pgregory.net/rapid"

	"moult/gossip/view"
	"moult/store/bundle"
	"moult/testdata/kit"
)

func TestDocumentsAndJournalSurviveReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := mustOpen(t, dir, Options{})
	if s.Damage() != nil {
		t.Fatalf("a new store is damaged: %+v", s.Damage())
	}
	e1 := mustAppend(t, s, "phase", "fetching")
	must(t, s.Put("docs", "b", []byte("2")))
	must(t, s.Put("docs", "a", []byte("1")))
	must(t, s.Put("docs", "c", bytes.Repeat([]byte("x"), MaxValue)))
	must(t, s.Put("docs2", "a", []byte("other bucket")))
	must(t, s.Delete("docs", "b"))
	e2 := mustAppend(t, s, "phase", "waiting")
	if e1.Seq != 1 || e2.Seq != 2 || e2.Prev != e1.Hash || !e1.Prev.IsZero() {
		t.Fatalf("not a chain: %+v %+v", e1, e2)
	}
	want := mustContent(t, s)
	mustClose(t, s)
	must(t, s.Close())
	if _, err := s.Append("x", nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}

	s = mustOpen(t, dir, Options{})
	if got := mustContent(t, s); got != want || !strings.HasPrefix(got, "entry 1 phase \"fetching\"\nentry 2") {
		t.Fatalf("after reopening:\n%s\nwant\n%s", got, want)
	}
	if _, ok, err := s.Get("docs", "b"); ok || err != nil {
		t.Fatalf("deleted document: %v %v", ok, err)
	}
	v, ok, err := s.Get("docs2", "a")
	if string(v) != "other bucket" || !ok || err != nil {
		t.Fatalf("got %q %v %v", v, ok, err)
	}
	if f := s.Floor(); f.JournalSeq != 2 || f.JournalHash != e2.Hash {
		t.Fatalf("floor %+v", f)
	}
	must(t, s.Check())
}

func TestUpdateIsAtomic(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	stop := errors.New("stop")
	err := s.Update(func(tx *Tx) error {
		must(t, tx.Put("docs", "a", []byte("1")))
		_, err := tx.Append("k", nil)
		must(t, err)
		must(t, tx.Raise(func(f *Floor) { f.Release = 3 }))
		if v, ok, err := tx.Get("docs", "a"); string(v) != "1" || !ok || err != nil {
			t.Errorf("a batch does not read its own writes: %q %v %v", v, ok, err)
		}
		return stop
	})
	if err != stop {
		t.Fatalf("got %v", err)
	}
	if c := mustContent(t, s); c != "" || s.Floor() != (Floor{}) {
		t.Fatalf("a failed batch left %q, %+v", c, s.Floor())
	}
	must(t, s.Update(func(tx *Tx) error {
		if _, err := tx.Append("k1", nil); err != nil {
			return err
		}
		if _, err := tx.Append("k2", nil); err != nil {
			return err
		}
		return tx.Put("docs", "a", nil)
	}))
	if got, want := mustContent(t, s), "entry 1 k1 \"\"\nentry 2 k2 \"\"\ndoc a \"\"\n"; got != want {
		t.Fatalf("got %q want %q", got, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := mustOpen(t, kit.MemDir(t), Options{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				if _, err := s.Append("k", fmt.Appendf(nil, "%d-%d", g, i)); err != nil {
					t.Error(err)
				}
				if err := s.Put("docs", fmt.Sprint(g), fmt.Append(nil, i)); err != nil {
					t.Error(err)
				}
				if err := s.Journal(0, func(Entry) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if f := s.Floor(); f.JournalSeq != 100 {
		t.Fatalf("%d entries", f.JournalSeq)
	}
	mustClose(t, s)
}

func TestJournalFrom(t *testing.T) {
	s := mustOpen(t, kit.MemDir(t), Options{})
	for i := range 10 {
		mustAppend(t, s, "k", fmt.Sprint(i+1))
	}
	for _, c := range []struct {
		from uint64
		n    int
	}{{0, 10}, {1, 10}, {2, 9}, {10, 1}, {11, 0}, {12, 0}, {1 << 63, 0}} {
		n, next := 0, max(c.from, 1)
		must(t, s.Journal(c.from, func(e Entry) error {
			if e.Seq != next {
				t.Fatalf("from %d: entry %d, want %d", c.from, e.Seq, next)
			}
			n, next = n+1, next+1
			return nil
		}))
		if n != c.n {
			t.Errorf("from %d: %d entries, want %d", c.from, n, c.n)
		}
	}
	stop := errors.New("stop")
	if err := s.Journal(3, func(Entry) error { return stop }); err != stop {
		t.Fatalf("got %v", err)
	}
}

func TestJournalIsTrimmed(t *testing.T) {
	dir := kit.MemDir(t)
	s := mustOpen(t, dir, Options{Keep: 16})
	count := func() (n int, first uint64) {
		must(t, s.Journal(0, func(e Entry) error {
			if n == 0 {
				first = e.Seq
			}
			n++
			return nil
		}))
		return n, first
	}
	for i := range 100 {
		mustAppend(t, s, "k", fmt.Sprint(i))
		if n, _ := count(); n < min(i+1, 16) || n > 18 {
			t.Fatalf("after %d: %d kept", i+1, n)
		}
	}
	mustClose(t, s)
	s = mustOpen(t, dir, Options{Keep: 4})
	if s.Damage() != nil {
		t.Fatal(s.Damage())
	}
	mustAppend(t, s, "k", "with less to keep")
	if n, first := count(); n != 4 || first != 98 {
		t.Fatalf("%d kept from %d", n, first)
	}
	mustClose(t, s)
	s = mustOpen(t, dir, Options{})
	if n, _ := count(); n != 4 || s.Damage() != nil {
		t.Fatalf("%d kept, %+v", n, s.Damage())
	}
}

func TestBounds(t *testing.T) {
	s := mustOpen(t, kit.MemDir(t), Options{})
	long := strings.Repeat("x", MaxName+1)
	big := make([]byte, MaxValue+1)
	for name, err := range map[string]error{
		"empty bucket":  s.Put("", "k", nil),
		"long bucket":   s.Put(long, "k", nil),
		"NUL in bucket": s.Put("a\x00b", "k", nil),
		"empty key":     s.Put("b", "", nil),
		"long key":      s.Put("b", strings.Repeat("k", MaxKey+1), nil),
		"big value":     s.Put("b", "k", big),
		"empty kind":    func() error { _, err := s.Append("", nil); return err }(),
		"long kind":     func() error { _, err := s.Append(long, nil); return err }(),
		"big entry":     func() error { _, err := s.Append("k", big); return err }(),
		"batch of bytes": s.Update(func(tx *Tx) error {
			return errors.Join(tx.Put("b", "1", big[:MaxValue]), tx.Put("b", "2", big[:MaxValue]))
		}),
		"batch of items": s.Update(func(tx *Tx) error {
			for i := range MaxBatchItems + 1 {
				if err := tx.Put("b", fmt.Sprint(i), nil); err != nil {
					return err
				}
			}
			return nil
		}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// The largest that is allowed fits into one transaction of Badger's.
	must(t, s.Update(func(tx *Tx) error {
		err := tx.Put("b", "big", big[:MaxValue])
		for i := range MaxBatchItems - 2 {
			err = errors.Join(err, tx.Put("b", fmt.Sprint(i), nil))
		}
		_, aerr := tx.Append("k", nil)
		return errors.Join(err, aerr)
	}))
}

func TestFloorNeverGoesDown(t *testing.T) {
	fields := reflect.TypeFor[Floor]().NumField()
	if fields != 18 {
		t.Fatalf("Floor has %d fields: teach lowered and join the new one, then this test", fields)
	}
	s := mustOpen(t, kit.MemDir(t), Options{})
	cluster := bundle.Sum([]byte("cluster"))
	start := Floor{Release: 5, Root: 5, Timestamp: 5, Snapshot: 5, Targets: 5, Operator: 5, Expired: 5, Members: 5,
		RecordSeq: 5, EndedRelease: 5, EndedCount: 5, Obeys: 5, Settled: 5, Turned: view.Turned{Release: 5, Turn: 2, Ended: 1}, Final: 5, Cluster: cluster}
	must(t, s.Raise(func(f *Floor) { *f = start }))
	for name, lower := range map[string]func(*Floor){
		"Release":      func(f *Floor) { f.Release-- },
		"Root":         func(f *Floor) { f.Root-- },
		"Timestamp":    func(f *Floor) { f.Timestamp-- },
		"Snapshot":     func(f *Floor) { f.Snapshot-- },
		"Targets":      func(f *Floor) { f.Targets-- },
		"Operator":     func(f *Floor) { f.Operator-- },
		"Expired":      func(f *Floor) { f.Expired-- },
		"Members":      func(f *Floor) { f.Members-- },
		"RecordSeq":    func(f *Floor) { f.RecordSeq-- },
		"EndedRelease": func(f *Floor) { f.EndedRelease--; f.EndedCount = 9 },
		"EndedCount":   func(f *Floor) { f.EndedCount-- },
		"Obeys":        func(f *Floor) { f.Obeys-- },
		"Turned":       func(f *Floor) { f.Turned.Ended-- },
		"Final":        func(f *Floor) { f.Final-- },
		"Turn":         func(f *Floor) { f.Turned.Turn--; f.Turned.Done = true },
		"Settled":      func(f *Floor) { f.Settled-- },
		"Cluster":      func(f *Floor) { f.Cluster = bundle.Sum(nil) },
		"no Cluster":   func(f *Floor) { f.Cluster = bundle.Digest{} },
		"JournalSeq":   func(f *Floor) { f.JournalSeq++ },
		"JournalHash":  func(f *Floor) { f.JournalHash = cluster },
	} {
		err := s.Raise(func(f *Floor) { f.Release++; lower(f) })
		if name == "Release" {
			err = s.Raise(lower)
		}
		if err == nil {
			t.Errorf("%s: went down", name)
		}
		if s.Floor() != start {
			t.Fatalf("%s: a refused change was kept: %+v", name, s.Floor())
		}
	}
	must(t, s.Raise(func(f *Floor) { f.EndedRelease, f.EndedCount = 6, 0 }))
	commits := s.mark.Commits
	must(t, s.Raise(func(f *Floor) {}))
	if s.mark.Commits != commits {
		t.Error("raising nothing wrote something")
	}
}

func genFloor(t *rapid.T, label string) Floor {
	n := rapid.Int64Range(0, 3)
	v := func(name string) bundle.Version { return bundle.Version(n.Draw(t, label+name)) }
	f := Floor{Release: v("release"), Root: n.Draw(t, label+"root"), Timestamp: n.Draw(t, label+"ts"),
		Snapshot: n.Draw(t, label+"snap"), Targets: n.Draw(t, label+"targets"), Operator: n.Draw(t, label+"op"), Expired: n.Draw(t, label+"expired"),
		RecordSeq: uint64(v("record")), EndedRelease: v("ended"), EndedCount: int(n.Draw(t, label+"count")), Obeys: v("obeys"), Settled: v("settled"), Final: v("final")}
	f.Turned = view.Turned{Release: v("turned"), Turn: int(n.Draw(t, label+"turn")), Ended: int(n.Draw(t, label+"turn ended")), Done: n.Draw(t, label+"done") > 1}
	f.JournalSeq = uint64(v("journal"))
	f.JournalHash = bundle.Sum(fmt.Append(nil, f.JournalSeq))
	f.Cluster = bundle.Sum([]byte("one"))
	return f
}

// TestJoinIsALeastUpperBound has the laws that make "take the greater" safe.
func TestJoinIsALeastUpperBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genFloor(t, "a"), genFloor(t, "b"), genFloor(t, "c")
		j := a.join(b)
		if err := errors.Join(a.lowered(j), b.lowered(j)); err != nil {
			t.Fatalf("join is below: %v", err)
		}
		if j != b.join(a) || a.join(a) != a || a.join(b).join(c) != a.join(b.join(c)) {
			t.Fatal("join is not commutative, idempotent and associative")
		}
		if a.lowered(c) == nil && b.lowered(c) == nil && j.lowered(c) != nil {
			t.Fatalf("join is not the least: %v", j.lowered(c))
		}
	})
}

// TestFloorIsMonotoneUnderAnything raises at random and reopens, now and then
// with the database or the floor file gone.
func TestFloorIsMonotoneUnderAnything(t *testing.T) {
	base := kit.MemDir(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(base, fmt.Sprint(run))
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(); _ = os.RemoveAll(dir) }()
		last := s.Floor()
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				f := genFloor(t, "raise")
				err := s.Raise(func(g *Floor) { f.JournalSeq, f.JournalHash = g.JournalSeq, g.JournalHash; *g = f })
				if (err == nil) != (last.lowered(s.Floor()) == nil && s.Floor() == f) {
					t.Fatalf("raise to %+v: %v, now %+v", f, err, s.Floor())
				}
			case 1:
				if _, err := s.Append("k", nil); err != nil {
					t.Fatal(err)
				}
			default:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				lost := rapid.SampledFrom([]string{"", "db", "floor.json"}).Draw(t, "lost")
				if lost != "" {
					if err := os.RemoveAll(filepath.Join(dir, lost)); err != nil {
						t.Fatal(err)
					}
				}
				if s, err = Open(dir, Options{}); err != nil {
					t.Fatal(err)
				}
				if lost == "" && s.Damage() != nil || lost == "db" && s.Damage() == nil {
					t.Fatalf("lost %q: damage %+v", lost, s.Damage())
				}
				if s.Damage() != nil {
					if err := s.Healed(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := last.lowered(s.Floor()); err != nil {
				t.Fatal(err)
			}
			last = s.Floor()
		}
	})
}

func TestSecondOpenerIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	_, err := Open(dir, Options{})
	want := fmt.Sprintf("data folder %s is in use by another moult agent (pid %d)", dir, os.Getpid())
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("got %v, want %s", err, want)
	}
	mustAppend(t, s, "k", "the first is not disturbed")
	mustClose(t, s)
	mustClose(t, mustOpen(t, dir, Options{}))
}

// A process that an agent was starting when it was killed still has its lock, for a moment.
func TestLockOfOneThatWasKilled(t *testing.T) {
	dir := t.TempDir()
	mustClose(t, mustOpen(t, dir, Options{}))
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Skipf("no program to have been the agent: %v", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if ok, err := lock.TryLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	must(t, os.WriteFile(lock.Path(), fmt.Appendln(nil, gone.Process.Pid), 0o600))
	opened := make(chan error, 1)
	go func() {
		s, err := Open(dir, Options{})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("it does not wait for the lock: %v", err)
	case <-time.After(5 * lockPause):
	}
	must(t, lock.Unlock())
	must(t, <-opened)
}

func wantErr(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %q", err, text)
	}
}

func TestFullDiskIsFoundBeforeAnythingIsWritten(t *testing.T) {
	dir := kit.MemDir(t)
	free := int64(Reserve + 100)
	o := Options{outside: outside{free: func(string) (int64, error) { return free, nil }}}
	s := mustOpen(t, dir, o)
	must(t, s.CheckSpace(100))
	if err := s.CheckSpace(101); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	free = Reserve - 1
	if _, err := s.Append("k", nil); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if err := s.Raise(func(f *Floor) { f.Release = 1 }); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	free = Reserve
	mustAppend(t, s, "k", "space again")
	if e := s.Floor().JournalSeq; e != 1 {
		t.Fatalf("%d entries", e)
	}
	mustClose(t, s)
	free = 0
	if _, err := Open(dir, o); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
}

func TestAFailedWriteStopsAllWrites(t *testing.T) {
	dir := kit.MemDir(t)
	fail := false
	o := Options{outside: outside{writeMark: func(path string, m mark) error {
		if fail {
			return errors.New("disk on fire")
		}
		return writeMark(path, m)
	}}}
	s := mustOpen(t, dir, o)
	mustAppend(t, s, "k", "1")
	fail = true
	_, err := s.Append("k", []byte("2"))
	wantErr(t, err, "disk on fire")
	fail = false
	_, err = s.Append("k", []byte("3"))
	wantErr(t, err, "an earlier write failed, open the store again")
	mustClose(t, s)
	// The journal is one ahead of the floor file, which is no damage.
	s = mustOpen(t, dir, o)
	if got := mustContent(t, s); got != "entry 1 k \"1\"\nentry 2 k \"2\"\n" || s.Damage() != nil {
		t.Fatalf("got %q, %+v", got, s.Damage())
	}
	if m, err := readMark(s.floorPath()); err != nil || m != s.mark {
		t.Fatalf("the floor file was not brought up: %+v %v", m, err)
	}
}
