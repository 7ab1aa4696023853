package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program in the sandbox, which tries what
// TEST_ATTEMPTS names, and says of each whether it could.
func TestMain(m *testing.M) {
	if names := os.Getenv("TEST_ATTEMPTS"); names != "" {
		for name := range strings.SplitSeq(names, ",") {
			outcome := "refused"
			switch err := attempts[name](); {
			case err == nil:
				outcome = "done"
			case !errors.Is(err, fs.ErrPermission):
				outcome = err.Error() // also EPERM and EACCES are ErrPermission
			}
			fmt.Printf("%s: %s\n", name, outcome)
		}
		return
	}
	os.Exit(m.Run())
}

func dir(name string) string { return filepath.Join(os.Getenv("TEST_DIR"), name) }

func write(name string) func() error {
	return func() error { return os.WriteFile(dir(name), []byte("x"), 0o600) }
}

func read(name string) func() error {
	return func() error { _, err := os.ReadFile(dir(name)); return err }
}

func outer() int {
	pid, _ := strconv.Atoi(os.Getenv("TEST_PID"))
	return pid
}

// attempts are named; all of them can be done outside of a sandbox, by root.
var attempts = map[string]func() error{
	"read own":       read("own/file"),
	"write own":      write("own/new"),
	"move own":       func() error { return os.Rename(dir("own/new"), dir("other/new")) },
	"read shown":     read("shown/file"),
	"write shown":    write("shown/new"),
	"cut shown":      func() error { return os.Truncate(dir("shown/file"), 0) },
	"remove shown":   func() error { return os.Remove(dir("shown/gone")) },
	"read given":     read("given/file"),
	"write given":    write("given/new"),
	"read key":       read("given/keys/identity.pem"),
	"read linked":    read("given/link"),
	"read beside":    read("beside"),
	"write beside":   write("new-beside"),
	"list beside":    func() error { _, err := os.ReadDir(dir(".")); return err },
	"run system":     func() error { return exec.Command("/bin/sh", "-c", "exit 0").Run() },
	"read of itself": func() error { _, err := os.ReadFile("/proc/self/status"); return err },
	"read environ":   func() error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", outer())); return err },
	"write mem": func() error {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", outer()), os.O_RDWR, 0)
		return closed(f, err)
	},
	"by its root": func() error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", outer(), dir("beside")))
		return err
	},
	"trace":          func() error { return trace(outer()) },
	"signal":         func() error { return syscall.Kill(outer(), 0) },
	"call abstract":  func() error { c, err := net.Dial("unix", "@"+os.Getenv("TEST_ABSTRACT")); return closed(c, err) },
	"make device":    func() error { return unix.Mknod(dir("own/device"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))) },
	"mount":          func() error { return mount() },
	"own namespaces": func() error { return throughNamespaces() },
}

type closer interface{ Close() error }

func closed(c closer, err error) error {
	if err == nil {
		err = c.Close()
	}
	return err
}

func trace(pid int) error {
	runtime.LockOSThread()
	if err := syscall.PtraceAttach(pid); err != nil {
		return err
	}
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		return err
	}
	return syscall.PtraceDetach(pid)
}

func mount() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir("own"), "tmpfs", 0, "")
}

// throughNamespaces is the usual way to capabilities that one has not: within a user
// namespace all are had.
func throughNamespaces() error {
	cmd := exec.Command("/bin/cat", dir("beside"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "Permission denied") {
			return fs.ErrPermission
		}
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// world makes the folders that attempts are made on.
func world(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	for _, sub := range []string{"own", "other", "shown", "given/keys"} {
		if err := os.MkdirAll(filepath.Join(top, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"own/file", "shown/file", "shown/gone", "given/file", "given/keys/identity.pem", "beside"} {
		if err := os.WriteFile(filepath.Join(top, file), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("keys/identity.pem", filepath.Join(top, "given", "link")); err != nil {
		t.Fatal(err)
	}
	return top
}

// outsider is a process that is no child of the program in the sandbox.
func outsider(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return cmd.Process.Pid
}

// tried has a program try what is named, on a thread that was prepared, and returns what
// came out, by name.
func tried(t *testing.T, top string, names []string, prepare func() error) map[string]string {
	t.Helper()
	abstract := fmt.Sprintf("moult-sandbox-%d-%s", os.Getpid(), filepath.Base(filepath.Dir(top)))
	l, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"TEST_ATTEMPTS=" + strings.Join(names, ","), "TEST_DIR=" + top, fmt.Sprintf("TEST_PID=%d", outsider(t)), "TEST_ABSTRACT=" + abstract}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	aside(t, func() error {
		if err := prepare(); err != nil {
			return err
		}
		return cmd.Run()
	})
	found := map[string]string{}
	for line := range strings.Lines(out.String()) {
		name, outcome, _ := strings.Cut(strings.TrimSpace(line), ": ")
		found[name] = outcome
	}
	return found
}

// aside runs f on a thread that ends with it.
func aside(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	var begin func()
	begin = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			again := make(chan struct{})
			go func() { defer close(again); begin() }()
			<-again
			return
		}
		done <- f()
	}
	go begin()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func needs(t *testing.T, version int) {
	t.Helper()
	if v := abi(); v < version {
		t.Skipf("skipped: this kernel's Landlock has version %d, and %d is needed: %s", v, version, Lacks())
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: what only root can do outside of a sandbox shows what it refuses")
	}
}

// allowed are the attempts that a program in the sandbox of this test may make.
var allowed = []string{"read own", "write own", "read shown", "read given", "run system", "read of itself"}

// What is not the program's own it can neither read nor write to, by whatever way, though it
// is root; what is, it can. Each of it can be done without the sandbox.
func TestEnter(t *testing.T) {
	needs(t, knowsScopes)
	names := slices.DeleteFunc([]string{
		"read own", "write own", "move own", "read shown", "write shown", "cut shown", "remove shown", "read given", "write given", "read key", "read linked",
		"read beside", "write beside", "list beside", "run system", "read of itself", "read environ", "write mem", "by its root", "trace", "signal", "call abstract",
		"make device", "mount", "own namespaces",
	}, func(name string) bool { return attempts[name] == nil })
	if len(names) != len(attempts) {
		t.Fatalf("%d of %d attempts", len(names), len(attempts))
	}
	top := world(t)
	box := &Sandbox{Given: []string{filepath.Join(top, "given")}, Kept: []string{filepath.Join(top, "given", "keys")}}
	box = box.Of([]string{filepath.Join(top, "shown"), "/proc/self/exe", ""}, []string{filepath.Join(top, "own"), filepath.Join(top, "not there")})
	found := tried(t, top, names, func() error { return errors.Join(box.Enter(), withoutWatching()) })
	for _, name := range names {
		want := "refused"
		if slices.Contains(allowed, name) {
			want = "done"
		}
		if found[name] != want {
			t.Errorf("in the sandbox, %s: %q, want %q", name, found[name], want)
		}
	}
	top = world(t)
	for name, outcome := range tried(t, top, names, func() error { return nil }) {
		if outcome != "done" && name != "own namespaces" { // which machines may not have
			t.Errorf("without the sandbox, %s: %q", name, outcome)
		}
	}
}

// withoutWatching takes from this thread what lets one watch the whole machine, as Drop does.
func withoutWatching() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	for _, c := range []int{unix.CAP_PERFMON, unix.CAP_SYS_ADMIN} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return err
		}
		data[c/32].Permitted &^= 1 << (c % 32)
		data[c/32].Effective &^= 1 << (c % 32)
	}
	return unix.Capset(&hdr, &data[0])
}

// A kernel that knows less refuses what it can, and is named with what would give the rest.
func TestOlderKernels(t *testing.T) {
	needs(t, knowsScopes)
	real := abi()
	defer func(was func() int) { abi = was }(abi)
	for _, c := range []struct {
		abi     int
		names   []string
		refused []string
		lacks   string
	}{
		{0, []string{"read beside"}, nil, "has no Landlock"},
		{1, []string{"write own", "move own", "read beside", "cut shown", "signal"}, []string{"move own", "read beside"}, "can still cut"},
		{3, []string{"read beside", "cut shown", "signal"}, []string{"read beside", "cut shown"}, "sending signals"},
		{real, []string{"read beside", "cut shown", "signal"}, []string{"read beside", "cut shown", "signal"}, ""},
		{real + 9, []string{"read beside", "signal"}, []string{"read beside", "signal"}, ""},
	} {
		abi = func() int { return c.abi }
		if got := Lacks(); (c.lacks == "") != (got == "") || !strings.Contains(got, c.lacks) {
			t.Errorf("version %d lacks %q, want %q", c.abi, got, c.lacks)
		}
		top := world(t)
		box := (&Sandbox{}).Of([]string{filepath.Join(top, "shown"), "/proc/self/exe"}, []string{filepath.Join(top, "own")})
		for name, outcome := range tried(t, top, c.names, box.Enter) {
			if (outcome == "refused") != slices.Contains(c.refused, name) {
				t.Errorf("version %d, %s: %q", c.abi, name, outcome)
			}
		}
	}
}

// Who is in a sandbox of this process's can be told, and does not get out by what it starts;
// others are not.
func TestInside(t *testing.T) {
	needs(t, 1)
	start := func(box *Sandbox) int {
		cmd := exec.Command("/bin/sh", "-c", "/bin/sleep 1000 & echo $!; wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		aside(t, func() error {
			if err := box.Enter(); err != nil {
				return err
			}
			return cmd.Start()
		})
		t.Cleanup(func() { _, _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL), cmd.Wait() })
		var pid int
		if _, err := fmt.Fscan(out, &pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	if !Inside(start(&Sandbox{})) {
		t.Error("a grandchild in a sandbox is not found to be in one")
	}
	if Inside(start(nil)) || Inside(os.Getpid()) {
		t.Error("one that is in none is found in one")
	}
	if !Inside(1 << 30) {
		t.Error("one that has gone is not taken for one inside")
	}
}

// A folder that holds what is kept is allowed entry by entry, and they are bounded.
func TestTooManyRules(t *testing.T) {
	r := rules{n: maxRules}
	if err := r.allow("/", reading); err == nil || !strings.Contains(err.Error(), "more than 16384 rules") {
		t.Errorf("a rule too many: %v", err)
	}
}
