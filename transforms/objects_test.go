//go:build unix

package transforms

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"moult/store/bundle"
)

// slotFirst is a planted bug: it publishes the slot before its past state.
func slotFirst(s *Slots, v bundle.Version) error {
	tmp := s.scratch(newPrefix, v)
	if isFolder(tmp) {
		if err := s.step("publish: rename"); err != nil {
			return err
		}
		if err := os.Rename(tmp, s.Path(v)); err != nil {
			return err
		}
	}
	return s.objects.publish(v, PastObject)
}

// pastInPlace is a planted bug: it makes the past state under its own name, and
// the slot is published while a part of that is missing.
func pastInPlace(s *Slots, v bundle.Version) error {
	if tmp := s.objects.fresh(v, PastObject); isFolder(tmp) {
		if err := os.CopyFS(s.objects.path(v, PastObject), os.DirFS(tmp)); err != nil {
			return err
		}
		if err := removeTree(filepath.Join(s.objects.path(v, PastObject), "sub")); err != nil {
			return err
		}
		if err := removeTree(tmp); err != nil {
			return err
		}
	}
	return s.Publish(v)
}

// The tests that stop an upgrade at each step find an upgrade that is wrong.
func TestPlantedOrdersAreFound(t *testing.T) {
	n := len(steps(t))
	for name, publish := range map[string]func(*Slots, bundle.Version) error{"slot first": slotFirst, "past in place": pastInPlace} {
		found := false
		for at := 1; at <= n && !found; at++ {
			dir, whole := startState(t)
			count := 0
			err := upgradeBy(publish, dir, func(string) error {
				if count++; count == at {
					return errors.New("planned")
				}
				return nil
			})
			found = err != nil && checkWhole(dir, whole) != nil
		}
		if !found {
			t.Errorf("%s: not found at any step", name)
		}
	}
}

// A crash between the two renames leaves a past state without its slot: it is
// of nothing, and the next agent clears it. The past states of versions that
// were live stay, whether their slots are still there or not.
func TestOrphanedPastState(t *testing.T) {
	dir, whole := startState(t)
	stop := errors.New("stop")
	err := upgradeSlots(dir, func(step string) error {
		if step == "publish: rename" {
			return stop
		}
		return nil
	})
	s := newSlots(dir)
	if !errors.Is(err, stop) || !isFolder(s.objects.path(2, PastObject)) || s.Exists(2) {
		t.Fatalf("not where it was to stop: %v", err)
	}
	openSlots(t, dir)
	if isFolder(s.objects.path(2, PastObject)) {
		t.Error("the past state of a slot that is not there was kept")
	}
	if err := checkWhole(dir, whole); err != nil {
		t.Error(err)
	}
	if err := upgradeSlots(dir, nil); err != nil { // it removes slot 1
		t.Fatal(err)
	}
	openSlots(t, dir)
	finished(t, dir)
}

// Rolled back: the slot and the past state go, the future object's state stays.
func TestRemoveTakesThePastStateAlong(t *testing.T) {
	dir, whole := startState(t)
	err := upgradeSlots(dir, func(step string) error {
		if step == "switch: link" {
			return errors.New("the new version is not well")
		}
		return nil
	})
	s := openSlots(t, dir)
	if err == nil || !s.Exists(2) || !isFolder(s.objects.path(2, PastObject)) {
		t.Fatalf("slot 2 and its past state are not there to begin with: %v", err)
	}
	for range 2 {
		if err := s.Remove(2); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Objects().List(); err != nil || !slices.Equal(got, []ObjectState{{1, PastObject}, {2, FutureObject}}) {
		t.Errorf("objects %v, %v", got, err)
	}
	if err := checkWhole(dir, whole); err != nil {
		t.Error(err)
	}
}

func TestObjects(t *testing.T) {
	o := openSlots(t, filepath.Join(t.TempDir(), "state")).Objects()
	if got, err := o.List(); err != nil || len(got) > 0 {
		t.Errorf("objects of a new node: %v, %v", got, err)
	}
	if o.FutureState(3) != "" {
		t.Error("a future object that never was has state")
	}
	var dirs []string
	for range 2 {
		future, err := o.Future(3)
		if err != nil {
			t.Fatal(err)
		}
		past, err := o.Past(3)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, future, past)
	}
	if want := []string{filepath.Join(o.dir, "3/future"), filepath.Join(o.dir, "3/past")}; !slices.Equal(dirs[:2], want) || !slices.Equal(dirs[2:], want) {
		t.Errorf("folders %q, want %q", dirs, want)
	}
	if o.FutureState(3) != "" {
		t.Error("an empty folder is state")
	}
	writeTree(t, dirs[0], map[string]string{"key": "value"})
	if o.FutureState(3) != dirs[0] {
		t.Errorf("state %q, want %q", o.FutureState(3), dirs[0])
	}
	if got, err := o.List(); err != nil || !slices.Equal(got, []ObjectState{{3, PastObject}, {3, FutureObject}}) {
		t.Errorf("objects %v, %v", got, err)
	}
	for _, kind := range []ObjectKind{FutureObject, PastObject, PastObject} {
		if err := o.Retire(3, kind); err != nil {
			t.Error(err)
		}
	}
	if left := treeOf(t, o.dir); len(left) > 0 {
		t.Errorf("retired, and left: %q", left)
	}
	if _, err := o.Past(0); err == nil {
		t.Error("version 0 has an object")
	}
}

// What retiring left unfinished is cleared by the next agent; what moult did not
// put there is left alone.
func TestObjectsSwept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openSlots(t, dir)
	if err := errors.Join(s.Create(5), s.Switch(5)); err != nil {
		t.Fatal(err)
	}
	past, err := s.Objects().Past(4)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, past, map[string]string{"a": "", "b": ""})
	stop := errors.New("stop")
	s.Failpoint = func(step string) error {
		if step == "discard past: remove" {
			return stop
		}
		return nil
	}
	if err := s.Objects().Retire(4, PastObject); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	writeTree(t, s.Objects().dir, map[string]string{"notes": "", "6/past/x": "", "7/future/y": "", "8/else/z": ""})
	s = openSlots(t, dir)
	got := treeOf(t, s.Objects().dir)
	if want := []string{"7", "7/future", "7/future/y", "8", "8/else", "8/else/z", "notes"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// Folders come and go while objects start and retire.
func TestObjectsAtOnce(t *testing.T) {
	o := openSlots(t, filepath.Join(t.TempDir(), "state")).Objects()
	var all sync.WaitGroup
	for _, use := range []func() error{
		func() error { _, err := o.Future(2); return err },
		func() error { _, err := o.Past(2); return err },
		func() error { return o.Retire(2, FutureObject) },
		func() error { return o.Retire(2, PastObject) },
		func() error { _, err := o.List(); return err },
	} {
		all.Go(func() {
			for range 50 {
				if err := use(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
