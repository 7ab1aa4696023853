package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"moult/agent/account"
	"moult/store/bundle"
	"moult/store/durable"
)

// ObjectKind tells the two simulation objects of a release apart.
type ObjectKind string

// The kinds of object, which are also the names of their folders.
const (
	PastObject   ObjectKind = "past"   // answers callers of the version before the release
	FutureObject ObjectKind = "future" // answers callers of the release on nodes before it
)

// newPastName is the first state of a past object while it is being made.
const newPastName = newPrefix + string(PastObject)

// Objects is the folder of the simulation objects' durable state. It belongs to
// a Slots, and may, unlike that, be used by several goroutines at once.
type Objects struct {
	dir  string
	step func(name string) error
	who  *account.Account

	// mu guards the folders of versions, which come with their first object
	// and go with their last.
	mu sync.Mutex
}

// ObjectState names the state of one object.
type ObjectState struct {
	Version bundle.Version // the release that brought the object
	Kind    ObjectKind
}

// Future returns the folder in which the future object of release v keeps its
// state. It is made where it is missing, durably.
func (o *Objects) Future(v bundle.Version) (string, error) { return o.make(v, FutureObject) }

// Past returns the folder in which the past object of release v keeps its
// state. Where no transform has made it, it is made empty, durably.
func (o *Objects) Past(v bundle.Version) (string, error) { return o.make(v, PastObject) }

func (o *Objects) make(v bundle.Version, kind ObjectKind) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	dir := o.path(v, kind)
	if err := o.makeFolder(v, string(kind)); err != nil {
		return "", fmt.Errorf("state of the %s object of release %d: %w", kind, v, err)
	}
	return dir, nil
}

// makeFolder makes a folder of a version, durably; mu is held.
func (o *Objects) makeFolder(v bundle.Version, name string) error {
	if v == 0 {
		return errors.New("0 is not a version")
	}
	for _, dir := range []string{o.dir, o.folder(v), filepath.Join(o.folder(v), name)} {
		err := os.Mkdir(dir, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		made := err == nil
		if last := filepath.Base(dir) == name; !last {
			if err := Enter(dir, o.who); err != nil {
				return err
			}
		}
		if !made {
			continue
		}
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// FutureState returns the folder of the state that the future object of release
// v has; empty where it has written none.
func (o *Objects) FutureState(v bundle.Version) string {
	dir := o.path(v, FutureObject)
	if empty, err := isEmpty(dir); err != nil || empty {
		return ""
	}
	return dir
}

// Retire removes the state of an object that will answer no more calls, and
// which has ended. A missing one is no error.
func (o *Objects) Retire(v bundle.Version, kind ObjectKind) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.discard(v, kind); err != nil {
		return fmt.Errorf("remove the state of the %s object of release %d: %w", kind, v, err)
	}
	return nil
}

// List returns every state that there is, by rising version.
func (o *Objects) List() ([]ObjectState, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	versions, err := o.versions()
	if err != nil {
		return nil, fmt.Errorf("list the states of objects: %w", err)
	}
	var all []ObjectState
	for _, v := range versions {
		for _, kind := range []ObjectKind{PastObject, FutureObject} {
			if isFolder(o.path(v, kind)) {
				all = append(all, ObjectState{Version: v, Kind: kind})
			}
		}
	}
	return all, nil
}

// versions returns the versions that have a folder; none where there is no
// folder for them either.
func (o *Objects) versions() ([]bundle.Version, error) {
	entries, err := os.ReadDir(o.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []bundle.Version
	for _, e := range entries {
		if v, ok := parseSlotName(e.Name()); ok && e.IsDir() {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return all, nil
}

// preparePast makes the empty folder for the first state of v's past object.
func (o *Objects) preparePast(v bundle.Version) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	dir := o.newPast(v)
	if err := o.makeFolder(v, newPastName); err != nil {
		return "", err
	}
	return dir, o.who.Give(dir)
}

// clearPast removes what past state of v there is, finished or not.
func (o *Objects) clearPast(v bundle.Version) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if isFolder(o.newPast(v)) {
		if err := o.step("past: remove unfinished"); err != nil {
			return err
		}
		if err := removeTree(o.newPast(v)); err != nil {
			return err
		}
	}
	return o.discard(v, PastObject)
}

// publishPast gives what preparePast began its name, durably. Where nothing was
// begun, or it has its name already, that is all there is to do.
func (o *Objects) publishPast(v bundle.Version) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !isFolder(o.newPast(v)) {
		return nil
	}
	if err := o.step("publish: sync past"); err != nil {
		return err
	}
	if err := syncTree(o.newPast(v)); err != nil {
		return err
	}
	// One that has the name without a slot is of an attempt that failed.
	if err := o.discard(v, PastObject); err != nil {
		return err
	}
	if err := o.step("publish: rename past"); err != nil {
		return err
	}
	return durable.Rename(o.newPast(v), o.path(v, PastObject))
}

// sweep clears what a crash left unfinished. orphaned reports whether a past
// state is of a slot that did not come to be.
func (o *Objects) sweep(orphaned func(bundle.Version) bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	versions, err := o.versions()
	if err != nil {
		return err
	}
	for _, v := range versions {
		if err := o.sweepVersion(v); err != nil {
			return err
		}
		if orphaned(v) {
			if err := o.discard(v, PastObject); err != nil {
				return err
			}
		}
		o.dropEmpty(v)
	}
	return nil
}

func (o *Objects) sweepVersion(v bundle.Version) error {
	entries, err := os.ReadDir(o.folder(v))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != newPastName && !strings.HasPrefix(e.Name(), delPrefix) {
			continue
		}
		if err := removeTree(filepath.Join(o.folder(v), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// discard removes a state; mu is held. It loses its name before it loses a file.
func (o *Objects) discard(v bundle.Version, kind ObjectKind) error {
	path := o.path(v, kind)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	gone := filepath.Join(o.folder(v), delPrefix+string(kind))
	if err := removeTree(gone); err != nil {
		return err
	}
	if err := o.step("discard " + string(kind) + ": rename"); err != nil {
		return err
	}
	if err := durable.Rename(path, gone); err != nil {
		return err
	}
	if err := o.step("discard " + string(kind) + ": remove"); err != nil {
		return err
	}
	if err := removeTree(gone); err != nil {
		return err
	}
	o.dropEmpty(v)
	return nil
}

// dropEmpty removes the folder of a version that has no object any more. Where
// another is there it stays, and where it stays for another reason no harm is done.
func (o *Objects) dropEmpty(v bundle.Version) { _ = os.Remove(o.folder(v)) }

func (o *Objects) folder(v bundle.Version) string { return filepath.Join(o.dir, slotName(v)) }

func (o *Objects) path(v bundle.Version, kind ObjectKind) string {
	return filepath.Join(o.folder(v), string(kind))
}

func (o *Objects) newPast(v bundle.Version) string { return filepath.Join(o.folder(v), newPastName) }

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
