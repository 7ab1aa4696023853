package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// In this variable TestMain finds how many bytes the process is to take.
const eats = "MOULT_CGROUP_TEST_EATS"

func TestMain(m *testing.M) {
	if text := os.Getenv(eats); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		memory := make([]byte, n)
		for i := 0; i < n; i += 4096 {
			memory[i] = 1
		}
		fmt.Println("full")
		_, _ = io.Copy(io.Discard, os.Stdin)
		runtime.KeepAlive(memory)
		return
	}
	os.Exit(m.Run())
}

// eat begins a program in a group that takes so much memory, and holds it until its standard
// input ends; full is false where it did not get as far.
func eat(t *testing.T, g *Group, bytes int) (cmd *exec.Cmd, in io.Closer, full bool) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = []string{fmt.Sprintf("%s=%d", eats, bytes)}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	done, err3 := g.Begin(cmd.SysProcAttr)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	defer done()
	began := make(chan error, 1)
	var begin func()
	begin = func() {
		runtime.LockOSThread() // and ends with it
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			next := make(chan struct{})
			go func() { defer close(next); begin() }()
			<-next
			return
		}
		err := g.Enter()
		if err == nil {
			err = cmd.Start()
		}
		began <- err
	}
	go begin()
	if err := <-began; err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadFull(stdout, make([]byte, len("full\n")))
	return cmd, stdin, err == nil
}

// A program that takes more memory than its group may have is ended by the kernel, and the
// group says so; one that takes less is not, nor is one outside.
func TestMemory(t *testing.T) {
	const most = 64 << 20
	g, err := Open(fmt.Sprintf("moult-test-%d", os.Getpid()), Limits{MemoryMax: most, CPUWeight: 50})
	if g == nil || !g.HoldsMemory {
		t.Skipf("skipped: no group holds memory here: %v", err)
	}
	t.Logf("%+v, %v", g, err)
	defer func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		for _, dir := range []string{g.Unified, g.Memory, g.CPU} {
			if _, err := os.Stat(dir); dir != "" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	}()
	before := g.Kills()
	cmd, in, full := eat(t, g, 8<<20)
	if !full {
		t.Error("a program that takes little was ended")
	}
	if err := g.Remove(); err != nil || len(procs(t, g)) != 1 {
		t.Errorf("the group of one that runs was removed: %v", err)
	}
	if again, err := Open(filepath.Base(g.folder()), g.Limits); again == nil || *again != *g {
		t.Errorf("found again: %+v, %v", again, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil || g.Killed(before, false) != "" {
		t.Errorf("it ended: %v, %q", err, g.Killed(before, false))
	}

	cmd, _, full = eat(t, g, 4*most)
	err = cmd.Wait()
	if full || err == nil || err.Error() != "signal: killed" {
		t.Errorf("a program that takes too much: %v", err)
	}
	if got := g.Killed(before, true); got != "ended by the kernel: it took more than memory_max 64 MiB" {
		t.Errorf("said of it: %q", got)
	}
	if got := g.Killed(g.Kills(), true); got != "" {
		t.Errorf("said of the next one: %q", got)
	}

	cmd, in, full = eat(t, nil, 4*most)
	if !full {
		t.Error("a program outside of the group was ended")
	}
	defer cmd.Wait()
	defer in.Close()
	if err := g.Add(cmd.Process.Pid, 1<<30); err != nil || len(procs(t, g)) != 1 {
		t.Errorf("moved into it: %v, %v", err, procs(t, g))
	}
	if g.CPU == "" {
		t.Logf("skipped: cpu.shares: %v", err)
	} else if text, err := os.ReadFile(filepath.Join(g.CPU, "cpu.shares")); strings.TrimSpace(string(text)) != "512" {
		t.Errorf("cpu.shares %s, %v", text, err)
	}
	if err := unix.Kill(cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

func (g *Group) folder() string {
	if g.Memory != "" {
		return g.Memory
	}
	return g.Unified
}

func procs(t *testing.T, g *Group) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.folder(), "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// Groups are made where the agent may make them, and nowhere else.
func TestWhere(t *testing.T) {
	type dirs map[string]string // file to content; "delegated" marks its folder
	for name, c := range map[string]struct {
		own     string
		v2      bool
		managed bool
		files   dirs
		want    string // the group, or part of the error
	}{
		"v2, beside the agent": {"0::/unit/agent", true, false, dirs{"unit/cgroup.controllers": "cpu memory", "unit/cgroup.subtree_control": "", "unit/agent/cgroup.type": "domain"}, "unit/g"},
		"v2, the root":         {"0::/", true, false, dirs{"cgroup.subtree_control": "cpu memory"}, "g"},
		"v2, of systemd":       {"0::/unit/agent", true, true, dirs{"unit/cgroup.controllers": "cpu memory", "unit/agent/cgroup.type": "domain"}, "say Delegate=yes and DelegateSubgroup=agent"},
		"v2, not subgrouped":   {"0::/unit", true, true, dirs{"cgroup.subtree_control": "memory", "unit/cgroup.type": "domain", "unit/delegated": ""}, "say Delegate=yes and DelegateSubgroup=agent"},
		"v2, delegated":        {"0::/unit/agent", true, true, dirs{"unit/cgroup.controllers": "cpu memory", "unit/agent/cgroup.type": "domain", "unit/delegated": ""}, "unit/g"},
		"v2, no memory":        {"0::/unit/agent", true, false, dirs{"cgroup.controllers": "hugetlb", "unit/agent/cgroup.type": "domain"}, `no mounted cgroup of this machine has the controller "memory"`},
		"v1":                   {"4:memory:/x/y\n0::/", false, false, dirs{"x/y/tasks": ""}, "x/y/g"},
		"v1, of systemd":       {"4:cpu,memory:/x", false, true, dirs{"x/tasks": ""}, "say Delegate=yes in the agent's unit"},
		"v1, delegated":        {"4:cpu,memory:/x", false, true, dirs{"x/tasks": "", "x/delegated": ""}, "x/g"},
		"a mount of elsewhere": {"4:memory:/../x", false, false, dirs{"x/tasks": ""}, "no mounted cgroup"},
		"none":                 {"", false, false, nil, "no mounted cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			write := func(file, text string) {
				path := filepath.Join(top, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
				if filepath.Base(file) == "delegated" {
					if err := unix.Setxattr(filepath.Dir(path), "user.delegate", []byte("1"), 0); err != nil {
						t.Skipf("skipped: this file system has no attributes: %v", err)
					}
				}
			}
			m := &mountinfo.Info{FSType: "cgroup", VFSOptions: "rw,cpu,memory", Mountpoint: top, Root: "/"}
			if c.v2 {
				m.FSType, m.VFSOptions = "cgroup2", "rw"
				write("cgroup.controllers", "cpu memory")
			}
			for file, text := range c.files {
				write(file, text)
			}
			for _, dir := range []string{"g", "unit/g", "x/y/g", "x/g"} { // which the kernel fills
				if strings.HasPrefix(c.want, dir) {
					write(dir+"/memory.current", "4096\n")
				}
			}
			g, err := system{c.own, []*mountinfo.Info{m}, c.managed}.open("g", Limits{MemoryMax: 1 << 30})
			if g == nil {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want %q", err, c.want)
				}
				return
			}
			file := "memory.limit_in_bytes"
			if c.v2 {
				file = "memory.max"
			}
			text, readErr := os.ReadFile(filepath.Join(top, c.want, file))
			if err != nil || readErr != nil || string(text) != "1073741824" {
				t.Errorf("%+v, %v: %q, %v", g, err, text, readErr)
			}
		})
	}
}

// A group that is found again is not held to what is not said any more, and to the rest as before.
func TestFreed(t *testing.T) {
	for name, c := range map[string]struct {
		own, fs     string
		memory, cpu [3]string // the file; what it has under a limit, and without
	}{
		"v2": {"0::/", "cgroup2", [3]string{"memory.max", "1073741824", "max"}, [3]string{"cpu.weight", "50", "100"}},
		"v1": {"4:cpu,memory:/", "cgroup", [3]string{"memory.limit_in_bytes", "1073741824", "-1"}, [3]string{"cpu.shares", "512", "1024"}},
	} {
		top := t.TempDir()
		for file, text := range map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu memory", "g/memory.current": "4096", "g/" + c.memory[0]: "", "g/" + c.cpu[0]: ""} {
			path := filepath.Join(top, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		s := system{c.own, []*mountinfo.Info{{FSType: c.fs, VFSOptions: "rw,cpu,memory", Mountpoint: top, Root: "/"}}, false}
		for _, l := range []Limits{{MemoryMax: 1 << 30, CPUWeight: 50}, {CPUWeight: 50}, {MemoryMax: 1 << 30}, {}} {
			g, err := s.open("g", l)
			if err != nil || (g == nil) != (l == Limits{}) {
				t.Errorf("%s, %+v: %+v, %v", name, l, g, err)
			}
			for _, one := range []struct {
				file [3]string
				held bool
			}{{c.memory, l.MemoryMax > 0}, {c.cpu, l.CPUWeight > 0}} {
				want := one.file[2]
				if one.held {
					want = one.file[1]
				}
				if text, err := os.ReadFile(filepath.Join(top, "g", one.file[0])); err != nil || string(text) != want {
					t.Errorf("%s, %+v: %s is %q, %v; want %s", name, l, one.file[0], text, err, want)
				}
			}
		}
		if g, err := s.open("none", Limits{}); g != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
		if _, err := os.Stat(filepath.Join(top, "none")); err == nil {
			t.Errorf("%s: a group without limits was made", name)
		}
	}
}

// What takes more already is not ended, and said.
func TestTooMuchAlready(t *testing.T) {
	g := &Group{Limits: Limits{MemoryMax: 1 << 30}, Unified: t.TempDir()}
	if err := os.WriteFile(filepath.Join(g.Unified, "memory.current"), []byte("1073741825\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.setMemory(); err == nil || !strings.Contains(err.Error(), "takes more than 1 GiB already") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(g.Unified, "memory.max")); err == nil {
		t.Error("it was held to it")
	}
}
