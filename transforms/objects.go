package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

	// complement is what the state of the version before could not hold when the release
	// was taken back here. It is no object's, and lies beside what is.
	complement ObjectKind = "complement"
)

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
func (o *Objects) FutureState(v bundle.Version) string { return o.state(v, FutureObject) }

// PastState is FutureState for the past object.
func (o *Objects) PastState(v bundle.Version) string { return o.state(v, PastObject) }

// Complement returns the folder of what was kept when release v was taken back here;
// empty where that is nothing.
func (o *Objects) Complement(v bundle.Version) string { return o.state(v, complement) }

func (o *Objects) state(v bundle.Version, kind ObjectKind) string {
	dir := o.path(v, kind)
	if empty, err := isEmpty(dir); err != nil || empty {
		return ""
	}
	return dir
}

// RetireComplement removes what was kept when release v was taken back here: the node has
// gone forward to it again, with all of that. A missing one is no error.
func (o *Objects) RetireComplement(v bundle.Version) error { return o.Retire(v, complement) }

// Complements lists the releases of which there is one.
func (o *Objects) Complements() ([]bundle.Version, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	versions, err := o.versions()
	return slices.DeleteFunc(versions, func(v bundle.Version) bool { return !isFolder(o.path(v, complement)) }), err
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

// prepare makes the empty folder for what a transform makes of that kind for release v.
func (o *Objects) prepare(v bundle.Version, kind ObjectKind) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	dir := o.fresh(v, kind)
	if err := o.makeFolder(v, newPrefix+string(kind)); err != nil {
		return "", err
	}
	return dir, o.who.Give(dir)
}

// clear removes what there is of that kind of release v, finished or not.
func (o *Objects) clear(v bundle.Version, kind ObjectKind) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if isFolder(o.fresh(v, kind)) {
		if err := o.step(string(kind) + ": remove unfinished"); err != nil {
			return err
		}
		if err := removeTree(o.fresh(v, kind)); err != nil {
			return err
		}
	}
	return o.discard(v, kind)
}

// publish gives what prepare began its name, durably. Where nothing was begun, or it has
// its name already, that is all there is to do.
func (o *Objects) publish(v bundle.Version, kind ObjectKind) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !isFolder(o.fresh(v, kind)) {
		return nil
	}
	if err := o.step("publish: sync " + string(kind)); err != nil {
		return err
	}
	if err := syncTree(o.fresh(v, kind)); err != nil {
		return err
	}
	// One that has the name without a slot is of an attempt that failed.
	if err := o.discard(v, kind); err != nil {
		return err
	}
	if err := o.step("publish: rename " + string(kind)); err != nil {
		return err
	}
	return durable.Rename(o.fresh(v, kind), o.path(v, kind))
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
		if !hasAnyPrefix(e.Name(), newPrefix, delPrefix) {
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

// fresh is where a transform makes what prepare began.
func (o *Objects) fresh(v bundle.Version, kind ObjectKind) string {
	return filepath.Join(o.folder(v), newPrefix+string(kind))
}

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
