//go:build unix

package transforms

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moult/store/bundle"
	"moult/testdata/kit"
)

func openSlots(t *testing.T, dir string) *Slots {
	t.Helper()
	s, err := OpenSlots(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func digest(t *testing.T, dir string) bundle.Digest {
	t.Helper()
	d, _, _, err := DigestTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// futureState is what the future object of version 2 has written, and olderPast
// what the past object of version 1, which goes on answering, has.
var (
	futureState = map[string]string{"keys/one": "1", "keys/two": "2"}
	olderPast   = map[string]string{"memo": "of version 0"}
)

var oldState = map[string]string{"a": "alpha", "sub/b": "beta", "sub/c": strings.Repeat("c", 100_000)}

// upgradeSlots takes slots from version 1 to 2, as an agent does: it may be
// repeated after any crash, until it returns nil.
func upgradeSlots(dir string, failpoint func(string) error) error {
	return upgradeBy((*Slots).Publish, dir, failpoint)
}

func upgradeBy(publish func(*Slots, bundle.Version) error, dir string, failpoint func(string) error) error {
	s, err := OpenSlots(dir)
	if err != nil {
		return err
	}
	s.Failpoint = failpoint
	live, _, err := s.Current()
	if err != nil {
		return err
	}
	if live == 1 {
		tmp, err := s.Prepare(2)
		if err != nil {
			return err
		}
		past, err := s.PreparePast(2)
		if err != nil {
			return err
		}
		job := Job{Old: s.Path(1), New: tmp, Future: s.Objects().FutureState(2), Past: past, From: 1, To: 2}
		if _, err := (Runner{}).Run(context.Background(), job); err != nil {
			return err
		}
		memo, err := os.ReadFile(filepath.Join(job.Future, "keys/two"))
		if err != nil {
			return err
		}
		if err := errors.Join(
			os.WriteFile(filepath.Join(tmp, "version"), []byte("2"), 0o600),
			os.Mkdir(filepath.Join(past, "sub"), 0o700),
			os.WriteFile(filepath.Join(past, "sub", "memo"), append([]byte("seen "), memo...), 0o600)); err != nil {
			return err
		}
		if err := publish(s, 2); err != nil {
			return err
		}
		if err := publish(s, 2); err != nil {
			return fmt.Errorf("again: %w", err)
		}
		if err := s.Switch(2); err != nil {
			return err
		}
	}
	if err := s.Switch(2); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if err := s.Objects().Retire(2, FutureObject); err != nil {
		return err
	}
	return s.Remove(1)
}

// allOf is what the tests know of whole states: those of slots and of objects.
type allOf struct {
	slots             map[bundle.Version]bundle.Digest
	future, past, old bundle.Digest // of 2, of 2, and the past state of 1
}

// checkWhole says whether the slots are in a state that no crash may leave
// otherwise: every slot is one of the whole ones, and current names one. Until
// slot 2 is live the future object's state is whole too; where slot 2 is, the
// first state of its past object is.
func checkWhole(dir string, whole allOf) error {
	s := newSlots(dir)
	live, ok, err := s.Current()
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("no slot is live")
	}
	vs, err := s.List()
	if err != nil {
		return err
	}
	if !slices.Contains(vs, live) {
		return fmt.Errorf("live slot %d is not listed", live)
	}
	for _, v := range vs {
		d, _, _, err := s.Digest(v)
		if err != nil {
			return err
		}
		if d != whole.slots[v] {
			return fmt.Errorf("slot %d is not whole", v)
		}
	}
	return checkObjects(s.objects, whole, live == 2, slices.Contains(vs, 2))
}

func checkObjects(o *Objects, whole allOf, live, made bool) error {
	is := func(v bundle.Version, kind ObjectKind, want bundle.Digest) error {
		d, _, _, err := DigestTree(o.path(v, kind))
		if err == nil && d != want {
			err = fmt.Errorf("the state of the %s object of %d is not whole", kind, v)
		}
		return err
	}
	err := is(1, PastObject, whole.old)
	if !live {
		err = errors.Join(err, is(2, FutureObject, whole.future))
	}
	if made {
		err = errors.Join(err, is(2, PastObject, whole.past))
	}
	return err
}

func startState(t *testing.T) (dir string, whole allOf) {
	t.Helper()
	from := filepath.Join(kit.MemDir(t), "old")
	writeTree(t, from, oldState)
	done := filepath.Join(kit.MemDir(t), "state")
	for _, d := range []string{done, filepath.Join(kit.MemDir(t), "state")} {
		s := openSlots(t, d)
		if err := s.Adopt(1, from); err != nil {
			t.Fatal(err)
		}
		future, err := s.Objects().Future(2)
		if err != nil {
			t.Fatal(err)
		}
		past, err := s.Objects().Past(1)
		if err != nil {
			t.Fatal(err)
		}
		writeTree(t, future, futureState)
		writeTree(t, past, olderPast)
		dir = d
	}
	o := newSlots(done).Objects()
	whole = allOf{
		slots:  map[bundle.Version]bundle.Digest{1: digest(t, filepath.Join(done, "1"))},
		future: digest(t, o.path(2, FutureObject)), old: digest(t, o.path(1, PastObject)),
	}
	if err := upgradeSlots(done, nil); err != nil {
		t.Fatal(err)
	}
	whole.slots[2], whole.past = digest(t, filepath.Join(done, "2")), digest(t, o.path(2, PastObject))
	return dir, whole
}

func steps(t *testing.T) []string {
	t.Helper()
	dir, _ := startState(t)
	var names []string
	err := upgradeSlots(dir, func(step string) error { names = append(names, step); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestStepsInOrder(t *testing.T) {
	want := []string{
		"prepare: remove unfinished", "prepare: make", "prepare: make past",
		"publish: sync", "publish: sync past", "publish: rename past", "publish: rename", "publish: sync folder",
		"switch: link", "switch: rename", "switch: sync folder",
		"discard future: rename", "discard future: remove",
		"discard: rename", "discard: remove",
	}
	if got := steps(t); !slices.Equal(got, want) {
		t.Errorf("steps %q, want %q", got, want)
	}
}

// A process that is killed before any step, also several times in a row,
// leaves whole slots; run again it comes to the same end.
func TestKilledAtEachStep(t *testing.T) {
	n := len(steps(t))
	for first := 1; first <= n; first++ {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			t.Parallel()
			dir, whole := startState(t)
			for _, at := range []int{first, first, 1, 0} {
				runUntilKilled(t, dir, at)
				if err := checkWhole(dir, whole); err != nil {
					t.Fatalf("after being killed at step %d: %v", at, err)
				}
			}
			finished(t, dir)
		})
	}
}

func runUntilKilled(t *testing.T, dir string, at int) {
	t.Helper()
	cmd := kit.Child(quickExit, "TEST_PROGRAM=slots", "TEST_PATH="+dir, fmt.Sprintf("TEST_STEP=%d", at))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", err, out)
	}
}

func finished(t *testing.T, dir string) {
	t.Helper()
	s := openSlots(t, dir)
	if v, _, err := s.Current(); v != 2 || err != nil {
		t.Errorf("live slot %d, %v; want 2", v, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"2", "current"}; !slices.Equal(names, want) {
		t.Errorf("left in the folder: %q, want %q", names, want)
	}
	got := treeOf(t, s.Objects().dir)
	if want := []string{"1", "1/past", "1/past/memo", "2", "2/past", "2/past/sub", "2/past/sub/memo"}; !slices.Equal(got, want) {
		t.Errorf("left of objects: %q, want %q", got, want)
	}
}

// treeOf lists what is below dir.
func treeOf(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if rel, relErr := filepath.Rel(dir, path); err == nil && relErr == nil && rel != "." {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The same with errors instead of kills: an operation that fails at a step
// leaves what a crash there leaves, and the same Slots can go on.
func TestErrorAtEachStep(t *testing.T) {
	planned := errors.New("planned")
	n := len(steps(t))
	for at := 1; at <= n; at++ {
		dir, whole := startState(t)
		count := 0
		fail := func(string) error {
			if count++; count == at {
				return planned
			}
			return nil
		}
		if err := upgradeSlots(dir, fail); !errors.Is(err, planned) {
			t.Fatalf("step %d: %v", at, err)
		}
		if err := checkWhole(dir, whole); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		if err := upgradeSlots(dir, fail); err != nil {
			t.Fatalf("step %d, repeated: %v", at, err)
		}
		finished(t, dir)
	}
}

// The check that the two tests above rest on finds each thing that they are
// there to exclude.
func TestCheckFindsBrokenSlots(t *testing.T) {
	for name, spoil := range map[string]func(s *Slots) error{
		"half a new slot under its name": func(s *Slots) error {
			if err := os.Mkdir(s.Path(2), 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(s.Path(2), "a"), []byte("alp"), 0o644)
		},
		"old slot changed": func(s *Slots) error {
			return os.WriteFile(filepath.Join(s.Path(1), "a"), []byte("omega"), 0o644)
		},
		"current gone": func(s *Slots) error { return os.Remove(filepath.Join(s.dir, "current")) },
		"current names nothing": func(s *Slots) error {
			return errors.Join(os.Remove(filepath.Join(s.dir, "current")), os.Symlink("7", filepath.Join(s.dir, "current")))
		},
		"new slot without its past state": func(s *Slots) error {
			tmp, err := s.Prepare(2)
			if err != nil {
				return err
			}
			return errors.Join(os.CopyFS(tmp, os.DirFS(s.Path(1))), os.WriteFile(filepath.Join(tmp, "version"), []byte("2"), 0o600), s.Publish(2))
		},
		"future state changed": func(s *Slots) error {
			return os.WriteFile(filepath.Join(s.objects.path(2, FutureObject), "keys/one"), []byte("7"), 0o600)
		},
		"future state gone":                  func(s *Slots) error { return s.Objects().Retire(2, FutureObject) },
		"older past state gone":              func(s *Slots) error { return s.Objects().Retire(1, PastObject) },
		"live slot removed first file first": func(s *Slots) error { return os.Remove(filepath.Join(s.Path(1), "a")) },
	} {
		dir, whole := startState(t)
		if err := checkWhole(dir, whole); err != nil {
			t.Fatal(err)
		}
		if err := spoil(openSlots(t, dir)); err != nil {
			t.Fatal(err)
		}
		if checkWhole(dir, whole) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestLiveSlotIsSafe(t *testing.T) {
	dir, _ := startState(t)
	s := openSlots(t, dir)
	if _, err := s.Prepare(1); !errors.Is(err, ErrLive) {
		t.Errorf("Prepare: %v", err)
	}
	if err := s.Remove(1); !errors.Is(err, ErrLive) {
		t.Errorf("Remove: %v", err)
	}
	if err := s.Create(1); !errors.Is(err, ErrLive) {
		t.Errorf("Create: %v", err)
	}
	if err := s.Switch(3); err == nil || s.Exists(3) {
		t.Errorf("Switch to a missing slot: %v", err)
	}
	if err := s.Publish(3); err == nil {
		t.Error("Publish without Prepare: no error")
	}
	if err := s.Remove(9); err != nil {
		t.Errorf("Remove of a missing slot: %v", err)
	}
	if _, err := s.Prepare(0); err == nil {
		t.Error("Prepare 0: no error")
	}
}

func TestCreate(t *testing.T) {
	s := openSlots(t, filepath.Join(t.TempDir(), "deep", "state"))
	if _, ok, err := s.Current(); ok || err != nil {
		t.Errorf("live slot in a new folder: %v, %v", ok, err)
	}
	for range 2 {
		if err := s.Create(4); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, _ := s.Current(); ok {
		t.Error("Create has switched")
	}
	if err := s.Switch(4); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := s.Current(); v != 4 || !ok || err != nil {
		t.Errorf("live slot: %d, %v, %v", v, ok, err)
	}
}

func TestAdopt(t *testing.T) {
	from := t.TempDir()
	writeTree(t, from, oldState)
	before := digest(t, from)
	dir := filepath.Join(t.TempDir(), "state")
	s := openSlots(t, dir)
	if err := s.Adopt(3, from); err != nil {
		t.Fatal(err)
	}
	if digest(t, s.Path(3)) != before || digest(t, from) != before {
		t.Error("the copy or the original is not what the original was")
	}
	writeTree(t, from, map[string]string{"a": "later"})
	if err := s.Adopt(3, from); err != nil {
		t.Fatal(err)
	}
	if digest(t, s.Path(3)) != before {
		t.Error("adopting again has changed the live slot")
	}
	if err := s.Adopt(4, from); err == nil {
		t.Error("adopting over a live version: no error")
	}
	for _, bad := range []string{dir, filepath.Dir(dir), s.Path(3), filepath.Join(dir, "missing")} {
		if err := openSlots(t, dir).apart(bad); err == nil {
			t.Errorf("adopting %s: no error", bad)
		}
	}
}

// Where nothing names the live slot any more, the state of objects that answer calls is not
// taken for what an attempt left.
func TestObjectsOutliveLostName(t *testing.T) {
	for name, damage := range map[string]func(link string) error{
		"lost":     os.Remove,
		"dangling": func(link string) error { return errors.Join(os.Remove(link), os.Symlink("9", link)) },
	} {
		dir, _ := startState(t)
		s := openSlots(t, dir)
		past, err := s.Objects().Past(7) // of a release whose slot is gone: callers of 6 are about
		if err == nil {
			err = errors.Join(s.Create(8), s.Switch(8), os.WriteFile(filepath.Join(past, "kept"), nil, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(dir, "current")); err != nil {
			t.Fatal(err)
		}
		openSlots(t, dir)
		if _, err := os.Stat(filepath.Join(past, "kept")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCurrentMustNameASlot(t *testing.T) {
	dir, _ := startState(t)
	for _, target := range []string{"7", "../1", "01", "1/", "x", "0"} {
		link := filepath.Join(dir, "current")
		if err := errors.Join(os.Remove(link), os.Symlink(target, link)); err != nil {
			t.Fatal(err)
		}
		if v, ok, err := openSlots(t, dir).Current(); err == nil {
			t.Errorf("current -> %q: %d, %v, no error", target, v, ok)
		}
	}
}
