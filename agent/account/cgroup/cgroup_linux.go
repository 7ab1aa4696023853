package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// The controllers that there is use for, by the word of the configuration.
const memory, cpu = "memory", "cpu"

var words = map[string]string{memory: "memory_max", cpu: "cpu_weight"}

// system is where this process's groups are found. Tests have others.
type system struct {
	own     string // the text of /proc/self/cgroup
	mounts  []*mountinfo.Info
	managed bool // a service manager rules the tree
}

func look() (system, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return system{}, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	_, noManager := os.Stat("/run/systemd/system")
	return system{string(own), mounts, noManager == nil}, err
}

// Open makes the group of a name, or finds it, and holds it to limits; those that it had before
// and has no more end. Without limits there is none. The error says what of them cannot be had here, and what would give it; with a
// group that has the rest, or nil where there is nothing.
//
// In version 2 the group lies beside the agent's own, as programs can only be in groups that
// have none below them; in version 1 it lies in the agent's own. Under systemd that must have
// been delegated (Delegate=, and for version 2 DelegateSubgroup=).
func Open(name string, l Limits) (*Group, error) {
	s, err := look()
	if err != nil && l == (Limits{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("memory_max, cpu_weight: find this process's cgroups: %w", err)
	}
	return s.open(name, l)
}

func (s system) open(name string, l Limits) (*Group, error) {
	g := &Group{Limits: l}
	var errs []error
	all := []struct {
		controller string
		wanted     bool
		set        func() error
		to         *string
	}{
		{memory, l.MemoryMax > 0, g.setMemory, &g.Memory},
		{cpu, l.CPUWeight > 0, g.setCPU, &g.CPU},
	}
	for _, one := range all { // before the others, which may be of the same folder
		if !one.wanted {
			errs = append(errs, s.free(name, one.controller))
		}
	}
	for _, one := range all {
		if !one.wanted {
			continue
		}
		err := s.make(name, one.controller, &g.Unified, one.to)
		if err == nil {
			if err = one.set(); err == nil && one.controller == memory {
				g.HoldsMemory = true
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s holds nothing together: %w", words[one.controller], err))
		}
	}
	if g.Unified == "" && g.Memory == "" && g.CPU == "" {
		g = nil
	}
	return g, errors.Join(errs...)
}

// unbound are the files of a controller, of either version, with what is no limit.
var unbound = map[string]map[string]string{
	memory: {"memory.max": "max", "memory.limit_in_bytes": "-1"},
	cpu:    {"cpu.weight": strconv.Itoa(DefaultWeight), "cpu.shares": strconv.Itoa(usualShares)},
}

// free ends what a controller holds a group of before to, and the group where it is empty.
func (s system) free(name, controller string) error {
	of, dir, err := s.find(controller)
	if err != nil {
		return nil // nor can one of before have it
	}
	if of == 2 {
		dir = above(dir)
	}
	var errs []error
	for file, none := range unbound[controller] {
		path := filepath.Join(dir, name, file)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := os.WriteFile(path, []byte(none), 0); err != nil {
			errs = append(errs, fmt.Errorf("%s is not said any more, and holds what began under it until that ends: %w", words[controller], err))
		}
	}
	_ = unix.Rmdir(filepath.Join(dir, name)) // it is not there, or in use
	return errors.Join(errs...)
}

// make makes the folder by which a controller is told.
func (s system) make(name, controller string, unified, legacy *string) error {
	of, dir, err := s.find(controller)
	if err != nil {
		return err
	}
	if of == 2 {
		if dir, err = s.beside(dir, controller); err != nil {
			return err
		}
	} else if s.managed && !delegated(dir) {
		return errors.New("systemd has not delegated the agent's cgroup to it: say Delegate=yes in the agent's unit")
	}
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a cgroup: %w: run the agent as root or by a unit with Delegate=yes, in a container with its cgroups writable", err)
	}
	if of == 2 {
		*unified = path
	} else {
		*legacy = path
	}
	return nil
}

// find returns the folder of this process's own group, of the version that has a controller.
func (s system) find(controller string) (version int, dir string, err error) {
	for line := range strings.Lines(s.own) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		list, path, _ := strings.Cut(rest, ":")
		version := 2
		if list != "" {
			if version = 1; !slices.Contains(strings.Split(list, ","), controller) {
				continue
			}
		}
		for _, m := range s.mounts {
			if version == 1 && (m.FSType != "cgroup" || !slices.Contains(strings.Split(m.VFSOptions, ","), controller)) || version == 2 && m.FSType != "cgroup2" {
				continue
			}
			rel, err := filepath.Rel(m.Root, path)
			if err != nil || !filepath.IsLocal(rel) || strings.HasPrefix(path, "/..") {
				continue // another mount may show it, or it lies outside of this container
			}
			if version == 2 && !has(filepath.Join(m.Mountpoint, "cgroup.controllers"), controller) {
				break
			}
			return version, filepath.Join(m.Mountpoint, rel), nil
		}
	}
	return 0, "", fmt.Errorf("no mounted cgroup of this machine has the controller %q: boot with it (cgroup_enable=%s), or mount cgroup v2 at /sys/fs/cgroup", controller, controller)
}

// above is the folder of version 2 in which groups lie beside one.
func above(own string) string {
	if _, err := os.Stat(filepath.Join(own, "cgroup.type")); err != nil {
		return own // the tree's root has none, and may have processes beside groups
	}
	return filepath.Dir(own)
}

// beside returns the folder of version 2 in which the agent's groups with a controller lie.
func (s system) beside(own, controller string) (string, error) {
	const unit = "say Delegate=yes and DelegateSubgroup=agent in the agent's unit (systemd 254)"
	parent := above(own)
	if s.managed && !delegated(parent) {
		return "", errors.New("systemd has not delegated the agent's cgroups to it: " + unit)
	}
	switch is, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers")); {
	case err != nil:
		return "", fmt.Errorf("the agent's cgroup %s has none above it that could be shared: %w: %s", own, err, unit)
	case !slices.Contains(strings.Fields(string(is)), controller):
		return "", fmt.Errorf("the cgroup %s has no controller %q: %s", parent, controller, unit)
	}
	control := filepath.Join(parent, "cgroup.subtree_control")
	if has(control, controller) {
		return parent, nil
	}
	if err := os.WriteFile(control, []byte("+"+controller), 0); err != nil {
		return "", fmt.Errorf("have groups of %s hold %s: %w: %s", parent, controller, err, unit)
	}
	return parent, nil
}

// delegated reports whether systemd leaves what is below a group to others.
func delegated(dir string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		buf := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, buf); err == nil && string(buf[:n]) == "1" {
			return true
		}
	}
	return false
}

func has(file, word string) bool {
	text, err := os.ReadFile(file)
	return err == nil && slices.Contains(strings.Fields(string(text)), word)
}

// setMemory holds the group to its memory. One that takes more already is left as it is:
// what serves is not ended over a line of a file.
func (g *Group) setMemory() error {
	file, used := filepath.Join(g.Memory, "memory.limit_in_bytes"), uint64(0)
	if g.Memory == "" {
		file = filepath.Join(g.Unified, "memory.max")
		text, err := os.ReadFile(filepath.Join(g.Unified, "memory.current"))
		if err != nil {
			return err
		}
		if used, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return fmt.Errorf("memory.current: %w", err)
		}
	}
	err := unix.EBUSY
	if used <= g.MemoryMax {
		if err := os.WriteFile(file, []byte(strconv.FormatUint(g.MemoryMax, 10)), 0); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return fmt.Errorf("what runs takes more than %s already: it is held to that once an agent starts while it takes less: %w", g.MemoryText(), err)
}

func (g *Group) setCPU() error {
	if g.CPU == "" {
		return os.WriteFile(filepath.Join(g.Unified, "cpu.weight"), []byte(strconv.FormatUint(g.CPUWeight, 10)), 0)
	}
	return os.WriteFile(filepath.Join(g.CPU, "cpu.shares"), []byte(strconv.FormatUint(max(g.CPUWeight*usualShares/DefaultWeight, minShares), 10)), 0)
}

// legacy are the folders of version 1.
func (g *Group) legacy() []string {
	return slices.DeleteFunc([]string{g.Memory, g.CPU}, func(dir string) bool { return dir == "" })
}

// Enter has what the calling thread starts begin in the group, as far as version 1 holds it. The
// caller must be locked to the thread, and let it end.
func (g *Group) Enter() error {
	if g == nil {
		return nil
	}
	for _, dir := range g.legacy() {
		if err := put(filepath.Join(dir, "tasks"), unix.Gettid()); err != nil {
			return err
		}
	}
	return nil
}

// Begin has what is started with attr begin in the group, as far as version 2 holds it. done
// is called when it has been started. Where attr names another group of that version, it must
// lie in this one.
func (g *Group) Begin(attr *syscall.SysProcAttr) (done func(), err error) {
	if g == nil || g.Unified == "" || attr.UseCgroupFD {
		return func() {}, nil
	}
	fd, err := unix.Open(g.Unified, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("begin in the cgroup %s: %w", g.Unified, err)
	}
	attr.UseCgroupFD, attr.CgroupFD = true, fd
	return func() { _ = unix.Close(fd) }, nil
}

// Add moves processes that run into the group, unless they are in one below it. Those that
// have ended are none.
func (g *Group) Add(pids ...int) error {
	if g == nil {
		return nil
	}
	if len(pids) > maxProcesses {
		return fmt.Errorf("move %d processes into a cgroup: the most is %d", len(pids), maxProcesses)
	}
	dirs := g.legacy()
	if g.Unified != "" {
		dirs = append(dirs, g.Unified)
	}
	for _, pid := range pids {
		in, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue
		}
		for _, dir := range dirs {
			name := []byte("/" + filepath.Base(dir))
			if dir == g.Unified && (bytes.Contains(in, append(name, '/')) || bytes.HasSuffix(bytes.TrimSpace(in), name)) {
				continue
			}
			if err := put(filepath.Join(dir, "cgroup.procs"), pid); err != nil {
				return err
			}
		}
	}
	return nil
}

func put(file string, id int) error {
	err := os.WriteFile(file, []byte(strconv.Itoa(id)), 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("put process %d into its cgroup: %w", id, err)
	}
	return nil
}

// Kills is how many processes of the group the kernel has ended because of its memory.
func (g *Group) Kills() uint64 {
	if g == nil || !g.HoldsMemory {
		return 0
	}
	file := filepath.Join(g.Unified, "memory.events")
	if g.Memory != "" {
		file = filepath.Join(g.Memory, "memory.oom_control")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var n uint64
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			return n
		}
	}
	return 0
}

// Remove removes the group, with what others have made in it, unless there are processes.
func (g *Group) Remove() error {
	if g == nil {
		return nil
	}
	var errs []error
	dirs := g.legacy()
	if g.Unified != "" {
		below, err := filepath.Glob(filepath.Join(g.Unified, "*/cgroup.procs"))
		errs = append(errs, err)
		for _, file := range below {
			dirs = append(dirs, filepath.Dir(file))
		}
		dirs = append(dirs, g.Unified)
	}
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, &os.PathError{Op: "remove the cgroup", Path: dir, Err: err})
		}
	}
	return errors.Join(errs...)
}
