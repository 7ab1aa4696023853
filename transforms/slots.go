package transforms

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"moult/agent/account"
	"moult/store/bundle"
	"moult/store/durable"
)

// ErrLive is returned where the live slot was to be replaced or removed.
var ErrLive = errors.New("slot is live")

const (
	currentName = "current"
	objectsName = "objects"

	newPrefix  = ".new-"
	oldPrefix  = ".old-"
	delPrefix  = ".del-"
	linkPrefix = ".current-"
)

// Slots is the folder of a node's slots. It is not safe for concurrent use,
// and whoever opens it must hold the data folder's lock.
type Slots struct {
	dir     string
	objects *Objects
	who     *account.Account

	// Failpoint, where set, is called before each step that changes the disk.
	// An error ends the operation there, as a crash would. For tests.
	Failpoint func(step string) error
}

// OpenSlots opens the folder, which it makes where it is missing, and clears
// what a crash left unfinished. The state of simulation objects lies beside it,
// in a folder named objects.
func OpenSlots(dir string) (*Slots, error) { return OpenSlotsOf(nil, dir) }

// OpenSlotsOf is OpenSlots for software and transforms of an account, which will own all
// that is made for them; of objects' state, what [Objects.Hand] gives it.
func OpenSlotsOf(who *account.Account, dir string) (*Slots, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open slots %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("open slots: %w", err)
	}
	s := newSlots(abs)
	s.who, s.objects.who = who, who
	if err := Enter(abs, who); err != nil {
		return nil, fmt.Errorf("open slots: %w", err)
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("open slots %s: clear unfinished work: %w", abs, err)
	}
	return s, nil
}

func newSlots(dir string) *Slots {
	s := &Slots{dir: dir}
	s.objects = &Objects{dir: filepath.Join(filepath.Dir(dir), objectsName), step: s.step}
	return s
}

// Objects returns the state of the node's simulation objects.
func (s *Slots) Objects() *Objects { return s.objects }

func (s *Slots) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), newPrefix):
			if err := stopStrays(path, s.who); err != nil {
				return err
			}
		case hasAnyPrefix(e.Name(), oldPrefix, delPrefix, linkPrefix):
		default:
			continue
		}
		if err := removeTree(path); err != nil {
			return err
		}
	}
	// Where it is not known which slot is live, neither is what is orphaned.
	live, ok, err := s.Current()
	return s.objects.sweep(func(v bundle.Version) bool { return err == nil && ok && v > live && !s.Exists(v) })
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// Path returns where the slot of v is, or would be.
func (s *Slots) Path(v bundle.Version) string { return filepath.Join(s.dir, slotName(v)) }

// Exists reports whether v has a complete slot.
func (s *Slots) Exists(v bundle.Version) bool {
	info, err := os.Lstat(s.Path(v))
	return err == nil && info.IsDir()
}

// List returns the versions that have a complete slot, lowest first.
func (s *Slots) List() ([]bundle.Version, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list slots: %w", err)
	}
	var vs []bundle.Version
	for _, e := range entries {
		if v, ok := parseSlotName(e.Name()); ok && e.IsDir() {
			vs = append(vs, v)
		}
	}
	slices.Sort(vs)
	return vs, nil
}

// Current returns the version whose slot is live; false where none is yet.
func (s *Slots) Current() (bundle.Version, bool, error) {
	link := filepath.Join(s.dir, currentName)
	name, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("find the live slot: %w", err)
	}
	v, ok := parseSlotName(name)
	if !ok {
		return 0, false, fmt.Errorf("find the live slot: %s names %.80q, want a version's slot", link, name)
	}
	if !s.Exists(v) {
		return 0, false, fmt.Errorf("find the live slot: %s names slot %d, which is missing in %s", link, v, s.dir)
	}
	return v, true, nil
}

// Prepare makes an empty folder in which the slot of v is to be made, and
// returns its path. An unfinished or complete slot of v is removed first: it
// came from an earlier attempt, and the old state may have moved on since; and so
// is the past state that came with it. The live slot gives ErrLive.
func (s *Slots) Prepare(v bundle.Version) (string, error) {
	tmp, err := s.prepare(v)
	if err != nil {
		return "", fmt.Errorf("prepare slot %d: %w", v, err)
	}
	return tmp, nil
}

func (s *Slots) prepare(v bundle.Version) (string, error) {
	if v == 0 {
		return "", errors.New("0 is not a version")
	}
	if err := s.notLive(v); err != nil {
		return "", err
	}
	tmp := s.scratch(newPrefix, v)
	if err := stopStrays(tmp, s.who); err != nil {
		return "", err
	}
	if err := s.step("prepare: remove unfinished"); err != nil {
		return "", err
	}
	if err := removeTree(tmp); err != nil {
		return "", err
	}
	if err := s.discard(v); err != nil {
		return "", err
	}
	if err := s.clearOrphan(v); err != nil {
		return "", err
	}
	if err := s.step("prepare: make"); err != nil {
		return "", err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return "", err
	}
	return tmp, s.who.Give(tmp)
}

// PreparePast makes, after Prepare, an empty folder in which the first state of
// release v's past object is to be made, and returns its path. Publish publishes
// it with the slot.
func (s *Slots) PreparePast(v bundle.Version) (string, error) {
	if err := s.step("prepare: make past"); err != nil {
		return "", fmt.Errorf("prepare the past state of slot %d: %w", v, err)
	}
	dir, err := s.objects.prepare(v, PastObject)
	if err != nil {
		return "", fmt.Errorf("prepare the past state of slot %d: %w", v, err)
	}
	return dir, nil
}

// PrepareReverse is Prepare for taking release of back: it makes the empty folders in
// which the slot of v, the first state of the release's future object, and the
// complement are to be made. What is there of the latter two comes from an earlier time
// that it was taken back, and is removed first. PublishReverse publishes all three.
func (s *Slots) PrepareReverse(of, v bundle.Version) (slot, future, rest string, err error) {
	if slot, err = s.prepare(v); err == nil {
		future, err = s.prepareAnew(of, FutureObject)
	}
	if err == nil {
		rest, err = s.prepareAnew(of, complement)
	}
	if err != nil {
		return "", "", "", fmt.Errorf("prepare to take release %d back: %w", of, err)
	}
	return slot, future, rest, nil
}

func (s *Slots) prepareAnew(of bundle.Version, kind ObjectKind) (string, error) {
	if err := s.objects.clear(of, kind); err != nil {
		return "", err
	}
	if err := s.step("prepare: make " + string(kind)); err != nil {
		return "", err
	}
	return s.objects.prepare(of, kind)
}

// PublishReverse is Publish for what PrepareReverse began. It may be repeated.
func (s *Slots) PublishReverse(of, v bundle.Version) error {
	if err := s.publish(v, made{of, FutureObject}, made{of, complement}); err != nil {
		return fmt.Errorf("publish slot %d, of release %d taken back: %w", v, of, err)
	}
	return nil
}

// made is what a transform makes beside a slot.
type made struct {
	release bundle.Version
	kind    ObjectKind
}

// Publish makes what Prepare began the complete slot of v, and what PreparePast
// began, if it was called, its past object's state. When it returns nil both
// survive a power loss; a crash before leaves neither. Publishing twice changes
// nothing.
func (s *Slots) Publish(v bundle.Version) error {
	if err := s.publish(v, made{v, PastObject}); err != nil {
		return fmt.Errorf("publish slot %d: %w", v, err)
	}
	return nil
}

func (s *Slots) publish(v bundle.Version, beside ...made) error {
	tmp := s.scratch(newPrefix, v)
	switch _, err := os.Lstat(tmp); {
	case errors.Is(err, fs.ErrNotExist) && s.Exists(v):
		return durable.SyncDir(s.dir)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("nothing was prepared: %s is missing", tmp)
	case err != nil:
		return err
	}
	if err := s.step("publish: sync"); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	// What is beside it has its name, durably, before the slot has: the slot's name
	// is what says that all is there.
	for _, m := range beside {
		if err := s.objects.publish(m.release, m.kind); err != nil {
			return err
		}
	}
	if err := s.step("publish: rename"); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.Path(v)); err != nil {
		return err
	}
	if err := s.step("publish: sync folder"); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// Switch makes the slot of v the live one, durably. Switching twice changes
// nothing.
func (s *Slots) Switch(v bundle.Version) error {
	if err := s.switchTo(v); err != nil {
		return fmt.Errorf("switch to slot %d: %w", v, err)
	}
	return nil
}

func (s *Slots) switchTo(v bundle.Version) error {
	if !s.Exists(v) {
		return fmt.Errorf("%s is missing", s.Path(v))
	}
	if live, ok, err := s.Current(); err == nil && ok && live == v {
		return durable.SyncDir(s.dir)
	}
	tmp := s.scratch(linkPrefix, v)
	if err := s.step("switch: link"); err != nil {
		return err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(slotName(v), tmp); err != nil {
		return err
	}
	if err := s.step("switch: rename"); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, currentName)); err != nil {
		return err
	}
	if err := s.step("switch: sync folder"); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// Remove removes the slot of v, and the past state that came with it if v never
// became live. The live slot gives ErrLive; a missing one is no error.
func (s *Slots) Remove(v bundle.Version) error {
	if err := s.notLive(v); err != nil {
		return fmt.Errorf("remove slot %d: %w", v, err)
	}
	if err := s.discard(v); err != nil {
		return fmt.Errorf("remove slot %d: %w", v, err)
	}
	if err := s.clearOrphan(v); err != nil {
		return fmt.Errorf("remove slot %d: %w", v, err)
	}
	return nil
}

// clearOrphan removes the past state of v, whose slot is not there, unless it is
// of a version that was live once: then its object may still answer calls.
func (s *Slots) clearOrphan(v bundle.Version) error {
	live, _, err := s.Current()
	if err != nil || v < live {
		return err
	}
	return s.objects.clear(v, PastObject)
}

// Create makes an empty slot for v, for software that starts without state.
// A slot of v that is not live is replaced.
func (s *Slots) Create(v bundle.Version) error {
	if _, err := s.Prepare(v); err != nil {
		return err
	}
	return s.Publish(v)
}

// Adopt copies the folder from, which holds the state of software that ran
// before moult, into the slot of v and makes it live. The software must be
// stopped; from is only read. Adopting again what is already live changes
// nothing, whatever from holds by then.
func (s *Slots) Adopt(v bundle.Version, from string) error {
	live, ok, err := s.Current()
	if err != nil {
		return fmt.Errorf("adopt %s: %w", from, err)
	}
	if ok && live == v {
		return nil
	}
	if ok {
		return fmt.Errorf("adopt %s as version %d: version %d is live already; adopting is only for a node that is new to moult", from, v, live)
	}
	if err := s.apart(from); err != nil {
		return fmt.Errorf("adopt %s: %w", from, err)
	}
	tmp, err := s.Prepare(v)
	if err != nil {
		return err
	}
	if err := s.step("adopt: copy"); err != nil {
		return err
	}
	err = adoptTree(from, tmp)
	if err == nil {
		err = own(tmp, s.who)
	}
	if err != nil {
		return fmt.Errorf("adopt %s: %w", from, err)
	}
	if err := s.Publish(v); err != nil {
		return err
	}
	return s.Switch(v)
}

// apart refuses a folder that holds the slots or lies among them.
func (s *Slots) apart(from string) error {
	abs, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return err
	}
	if inside(abs, dir) || inside(dir, abs) {
		return fmt.Errorf("it must not hold, or lie in, moult's own folder %s", s.dir)
	}
	return nil
}

func inside(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// Digest returns what DigestTree says of the slot of v.
func (s *Slots) Digest(v bundle.Version) (bundle.Digest, int, int64, error) {
	return DigestTree(s.Path(v))
}

func (s *Slots) notLive(v bundle.Version) error {
	live, ok, err := s.Current()
	if err != nil {
		return err
	}
	if ok && live == v {
		return fmt.Errorf("version %d: %w", v, ErrLive)
	}
	return nil
}

// discard removes the slot of v. It loses its name before it loses a file.
func (s *Slots) discard(v bundle.Version) error {
	if _, err := os.Lstat(s.Path(v)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	gone := s.scratch(delPrefix, v)
	if err := removeTree(gone); err != nil {
		return err
	}
	if err := s.step("discard: rename"); err != nil {
		return err
	}
	if err := durable.Rename(s.Path(v), gone); err != nil {
		return err
	}
	if err := s.step("discard: remove"); err != nil {
		return err
	}
	return removeTree(gone)
}

func (s *Slots) step(name string) error {
	if s.Failpoint == nil {
		return nil
	}
	return s.Failpoint(name)
}

func (s *Slots) scratch(prefix string, v bundle.Version) string {
	return filepath.Join(s.dir, prefix+slotName(v))
}

func slotName(v bundle.Version) string { return strconv.FormatUint(uint64(v), 10) }

// parseSlotName accepts only what slotName writes.
func parseSlotName(name string) (bundle.Version, bool) {
	n, err := strconv.ParseUint(name, 10, 64)
	v := bundle.Version(n)
	return v, err == nil && v != 0 && slotName(v) == name
}

// RemoveBefore removes the slots before the running one; unless all are to go, but for the
// newest of them.
func (s *Slots) RemoveBefore(running bundle.Version, all bool) error {
	versions, err := s.List()
	var previous bundle.Version
	for _, v := range versions {
		if v < running {
			previous = max(previous, v)
		}
	}
	for _, v := range versions {
		if v < previous || all && v < running {
			err = errors.Join(err, s.Remove(v))
		}
	}
	return err
}
