package bounds

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"moult/agent/account/cgroup"
)

// TestMain lets the test binary be what begins a program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == CommandName {
		os.Exit(Main(os.Args[2:], os.Stderr))
	}
	os.Exit(m.Run())
}

func ptr[T any](v T) *T { return &v }

const show = `ulimit -n; ulimit -Hn; ulimit -Sc; umask; cat /proc/self/oom_score_adj; echo "$0 $1 $LATE"`

func run(t *testing.T, b *Bounds, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH"), "LATE=late"}, "/bin"
	if err := b.Wrap(cmd); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A program has its bounds from its first instruction on, and its arguments, folder and
// environment as they were; without bounds it has the agent's.
func TestWrap(t *testing.T) {
	b := &Bounds{Limits: map[string]uint64{"nofile": 77, "core": 0}, Umask: ptr(uint32(0o027)), OOMScore: ptr(777)}
	for _, shell := range []string{"sh", "/bin/sh", "./sh"} {
		if got, err := run(t, b, shell, "-c", show, "zero", "a b"); err != nil || got != "77\n77\n0\n0027\n777\nzero a b late\n" {
			t.Errorf("%s: %q, %v", shell, got, err)
		}
	}
	if got, err := run(t, nil, "sh", "-c", show, "zero", "a b"); err != nil || strings.HasPrefix(got, "77\n") || strings.Contains(got, "\n777\n") || !strings.HasSuffix(got, "zero a b late\n") {
		t.Errorf("without bounds: %q, %v", got, err)
	}
	// The limit that a program was given on the way is not raised.
	lower := exec.Command("/bin/sh", "-c", show)
	if err := b.Wrap(lower); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	within := exec.Command("/bin/sh", append([]string{"-c", `ulimit -n 50; exec "$0" "$@"`, self}, lower.Args[1:]...)...)
	if got, err := within.CombinedOutput(); err != nil || !strings.HasPrefix(string(got), "50\n50\n") {
		t.Errorf("a lower one: %q, %v", got, err)
	}
	if got, err := run(t, b, "/not/there"); err == nil || !strings.Contains(got, "exec /not/there: no such file or directory") {
		t.Errorf("a program that is not there: %q, %v", got, err)
	}
	if got, err := run(t, b, "no-such-program"); got != "" || err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("a program that is nowhere: %q, %v", got, err)
	}
}

// A program of a folder is found where another one is to be its own.
func TestBegin(t *testing.T) {
	for _, c := range []struct{ program, want string }{{"./kv", "/rel/kv"}, {"bin/kv", "/rel/bin/kv"}, {"/bin/kv", "/bin/kv"}, {"kv", "kv"}} {
		argv := []string{c.program, "-x"}
		dir, got := (&Bounds{WorkingDir: "/srv"}).Begin("/rel", argv)
		if dir != "/srv" || got[0] != c.want || got[1] != "-x" || argv[0] != c.program {
			t.Errorf("%s: %s %q, want %s", c.program, dir, got, c.want)
		}
		for _, b := range []*Bounds{nil, {}} {
			if dir, got := b.Begin("/rel", argv); dir != "/rel" || got[0] != c.program {
				t.Errorf("%s without a folder: %s %q", c.program, dir, got)
			}
		}
	}
}

// Where no group can be had each process is held to the memory by itself, and each kind of
// programs has a group of its own where it can.
func TestKinds(t *testing.T) {
	b := &Bounds{Together: cgroup.Limits{MemoryMax: 64 << 20}}
	k, lacks := b.Kinds(fmt.Sprintf("moult-test-%d", os.Getpid()))
	defer k.Remove()
	if _, ok := k.Software.Limits["data"]; ok == (lacks == nil) || (k.Software.InGroup() == nil) == (lacks == nil) {
		t.Errorf("%+v, %v", k.Software, lacks)
	}
	if lacks != nil {
		t.Skipf("skipped: no group holds memory here: %v", lacks)
	}
	if *k.Software.Group == *k.Objects.Group || *k.Transforms.Group == *k.Rehearsals.Group {
		t.Errorf("one group for several: %+v", k)
	}
}

// Memory is a limit of each process where the group does not hold it, and only there.
func TestInGroup(t *testing.T) {
	b := &Bounds{Together: cgroup.Limits{MemoryMax: 64 << 20, CPUWeight: 50}}
	for _, c := range []struct {
		g    *cgroup.Group
		want uint64
	}{{nil, 64 << 20}, {&cgroup.Group{Unified: "/g"}, 64 << 20}, {&cgroup.Group{CPU: "/g"}, 64 << 20}, {&cgroup.Group{Unified: "/g", HoldsMemory: true}, 0}} {
		if got := b.in(c.g); got.Limits["data"] != c.want || got.Group != c.g {
			t.Errorf("%+v: %+v", c.g, got)
		}
	}
}

// What cannot be obeyed is refused when the agent starts.
func TestCheck(t *testing.T) {
	most, err := hard(limits["nofile"])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		b    *Bounds
		want string
	}{
		{nil, ""},
		{&Bounds{Limits: map[string]uint64{"nofile": most}, Umask: ptr(uint32(0o777)), OOMScore: ptr(1000)}, ""},
		{&Bounds{Limits: map[string]uint64{"files": 1}}, `rlimits: this system has no "files"; it has as, core, cpu`},
		{&Bounds{Limits: map[string]uint64{"nofile": Unlimited}}, "raise that (in its unit LimitNOFILE=infinity), or say less"},
		{&Bounds{Umask: ptr(uint32(0o1000))}, "umask = 01000: want at most 0777"},
		{&Bounds{OOMScore: ptr(1001)}, "oom_score = 1001: want -1000 to 1000"},
		{&Bounds{OOMScore: ptr(-1000)}, "in its unit OOMScoreAdjust=-1000"},
	} {
		if err := c.b.Check(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.b, err, c.want)
		}
	}
}
