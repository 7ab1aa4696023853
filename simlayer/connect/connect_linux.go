package connect

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// schema is the version of the pinned maps and programs. It changes whenever one
// of them does: an agent never takes over what it would not have made.
const schema = 1

// ErrClosed is returned after Close.
var ErrClosed = errors.New("connect: it is closed")

// Connect is the cgroup of one node, with its table. It is safe for concurrent
// use.
type Connect struct {
	dir     string // of the pins
	cgroup  *os.File
	adopted bool

	mu     sync.Mutex
	closed bool
	maps   shared
	stale  []string // folders of pins that another version of moult has made
	known  bool     // the table in force is now, without what is left out of it
	now    Table
	left   []LeftOut
}

// Open makes the node's cgroup with its programs, or takes over what an earlier
// agent has left: whatever is missing is made. The caller closes the Connect.
// Where the system or the rights of this process do not do, the error wraps
// ErrNotSupported.
func Open(o Options) (_ *Connect, err error) {
	c := &Connect{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect %q: %w", o.Name, explain(err)), c.Close())
		}
	}()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := checkDir(o.Dir); err != nil {
		return nil, err
	}
	if c.cgroup, err = openCgroup(o.Cgroup, o.Name); err != nil {
		return nil, err
	}
	if err := c.openDir(o); err != nil {
		return nil, err
	}
	if err := c.openMaps(); err != nil {
		return nil, err
	}
	if err := c.openLinks(); err != nil {
		return nil, err
	}
	return c, nil
}

// openDir makes the folder of the pins, and finds those of other schemas.
func (c *Connect) openDir(o Options) error {
	prefix := "connect_" + o.Name + "_v"
	c.dir = filepath.Join(o.Dir, prefix+strconv.Itoa(schema))
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a folder for pins: %w", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return fmt.Errorf("look for pins of other versions of moult: %w", err)
	}
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), prefix)
		if n, err := strconv.Atoi(number); ours && err == nil && n != schema {
			c.stale = append(c.stale, filepath.Join(o.Dir, e.Name()))
		}
	}
	return nil
}

// openMaps takes over the pinned maps and makes those that are missing. A map
// that was made and not pinned is in no program yet, so nothing is lost with it.
func (c *Connect) openMaps() error {
	open := func(spec *ebpf.MapSpec, name string) (*ebpf.Map, error) {
		path := filepath.Join(c.dir, name)
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err == nil {
			err = spec.Compatible(m)
		}
		if errors.Is(err, fs.ErrNotExist) {
			m, err = ebpf.NewMap(spec)
			if err == nil {
				err = m.Pin(path)
			}
			if err != nil {
				return m, fmt.Errorf("make the map %q: %w", name, err)
			}
			return m, nil
		}
		if err != nil {
			return m, fmt.Errorf("take over the pinned map %s: %w; stop the node and remove the folder of that file", path, err)
		}
		return m, nil
	}
	specs := newSpecs()
	var err error
	if c.maps.table, err = open(specs.table, "table"); err != nil {
		return err
	}
	if c.maps.dialled, err = open(specs.dialled, "dialled"); err != nil {
		return err
	}
	c.maps.sent, err = open(specs.sent, "sent")
	return err
}

// openLinks attaches the programs that are not attached to this cgroup yet.
func (c *Connect) openLinks() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(c.cgroup.Fd()), &st); err != nil {
		return fmt.Errorf("cgroup %s: %w", c.cgroup.Name(), err)
	}
	c.adopted = true
	for _, h := range hooks() {
		path := filepath.Join(c.dir, h.name)
		is, err := attached(path, st.Ino)
		if err != nil {
			return fmt.Errorf("take over the pinned attachment %s: %w", path, err)
		}
		if is {
			continue
		}
		c.adopted = false
		if err := h.attachTo(c.cgroup, c.maps, path); err != nil {
			return fmt.Errorf("attach the program for %s to the cgroup %s: %w", h.name, c.cgroup.Name(), err)
		}
	}
	return nil
}

// attached reports whether there is a pinned attachment to that cgroup. One to a
// cgroup that is no more is of no use, and is removed.
func attached(path string, cgroup uint64) (is bool, err error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	if of := info.Cgroup(); of != nil && of.CgroupId == cgroup {
		return true, nil
	}
	return false, l.Unpin()
}

// attachTo attaches the hook's program and pins the attachment, which keeps the
// program.
func (h hook) attachTo(cgroup *os.File, m shared, path string) (err error) {
	prog, err := ebpf.NewProgram(h.spec(m))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup.Name(), Attach: h.attach, Program: prog})
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(path), l.Close())
}

// Adopted reports whether Open has found everything in place, so that a node in
// the cgroup has been served without a gap.
func (c *Connect) Adopted() bool { return c.adopted }

// Cgroup returns the folder of the node's cgroup. What begins there (as by
// syscall.SysProcAttr with UseCgroupFD) is served from its first call on. The
// file is the Connect's.
func (c *Connect) Cgroup() *os.File { return c.cgroup }

// Add moves a process that runs into the cgroup, with all its threads. The
// connections that it has stay as they are, and so do its children's.
func (c *Connect) Add(pid int) error {
	path := filepath.Join(c.cgroup.Name(), "cgroup.procs")
	if err := os.WriteFile(path, []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("connect: move process %d into the cgroup: %w", pid, err)
	}
	return nil
}

// Set puts t in force, in one instant, but for the entries that it returns, which
// cannot be: all others are in force. On an error the table before stays. The
// Connect keeps no part of t. It waits until no program uses the table before,
// which takes some milliseconds; for the table that is in force already it does
// nothing.
func (c *Connect) Set(t Table) ([]LeftOut, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.known && len(c.stale) == 0 && maps.Equal(c.now.TCP, t.TCP) && maps.Equal(c.now.UDP, t.UDP) {
		return c.left, nil
	}
	keys, values, left := t.encode()
	inner, err := newInner(keys, values)
	if err != nil {
		return left, fmt.Errorf("connect: table: %w", err)
	}
	defer inner.Close() // the table holds it
	if err := c.maps.table.Put(uint32(0), inner); err != nil {
		return left, fmt.Errorf("connect: put the table in force: %w", err)
	}
	c.now, c.left, c.known = Table{TCP: maps.Clone(t.TCP), UDP: maps.Clone(t.UDP)}, left, true
	for len(c.stale) > 0 {
		if err := removePins(c.stale[0]); err != nil {
			return left, fmt.Errorf("connect: the table is in force, but what another version of moult has attached is still there: %w", err)
		}
		c.stale = c.stale[1:]
	}
	return left, nil
}

// newInner makes the map of a table.
func newInner(keys, values []endpoint) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(innerSpec())
	if err != nil || len(keys) == 0 {
		return m, err
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("fill a map with %d destinations: %w", len(keys), err), m.Close())
	}
	return m, nil
}

// Table returns the table that is in force in the kernel: after an adoption the
// one that the earlier agent has set.
func (c *Connect) Table() (t Table, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return t, ErrClosed
	}
	var inner *ebpf.Map
	err = c.maps.table.Lookup(uint32(0), &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("connect: read the table: %w", err)
	}
	defer inner.Close()
	var key, value endpoint
	entries := inner.Iterate()
	for entries.Next(&key, &value) {
		t.decode(key, value)
	}
	if err := entries.Err(); err != nil {
		return t, fmt.Errorf("connect: read the table: %w", err)
	}
	return t, nil
}

// Remove detaches the programs and removes everything but processes that are
// still in the cgroup: their calls go where they say. It closes the Connect.
func (c *Connect) Remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, dir := range append(slices.Clone(c.stale), c.dir) {
		errs = append(errs, removePins(dir))
	}
	if err := os.Remove(c.cgroup.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, err)
	}
	errs = append(errs, c.closeLocked())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("connect: remove: %w", err)
	}
	return nil
}

// removePins detaches what is pinned in a folder and removes the folder. Without
// the first the kernel would detach it some time later. The order of the names has
// it that what changes a call goes before what hides the change.
func removePins(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		l, err := link.LoadPinnedLink(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			continue // a map; RemoveAll says what else it may be
		}
		// An attachment to a cgroup that is gone cannot be detached.
		_ = l.Detach()
		_ = l.Close()
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// Close lets go of the cgroup; all in it goes on as it is. It may be called more
// than once.
func (c *Connect) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeLocked()
}

func (c *Connect) closeLocked() error {
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.maps.close()
	if c.cgroup != nil {
		err = errors.Join(err, c.cgroup.Close())
	}
	return err
}

func (m shared) close() error {
	return errors.Join(m.table.Close(), m.dialled.Close(), m.sent.Close()) // nil is allowed
}
