package account

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program that is run as another user: it prints
// what it is, or what the agent of such a user would do.
func TestMain(m *testing.M) {
	switch os.Getenv("TEST_ACCOUNT") {
	case "status":
		printStatus()
	case "resolve":
		for _, args := range [][]string{{"nobody", ""}, {"root", ""}, {"daemon", ""}, {"nobody", "daemon"}} {
			a, err := Resolve(args[0], args[1], nil)
			fmt.Printf("%s %s: %v, others %v\n", args[0], args[1], err, a.Others())
		}
		a, _ := Resolve("nobody", "", nil)
		cmd := program("status")
		cmd.Stdout = os.Stdout
		if err := a.Start(cmd); err != nil {
			fmt.Println(err)
		}
		_ = cmd.Wait()
	default:
		os.Exit(m.Run())
	}
}

func printStatus() {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if slices.Contains([]string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"}, name) {
			fmt.Println(name, strings.Join(strings.Fields(value), " "))
		}
	}
}

func program(part string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{"TEST_ACCOUNT=" + part}, "/", &syscall.SysProcAttr{}
	return cmd
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as another user")
	}
}

// nobody is the user, by number since machines differ in the names of its groups.
func nobody(t *testing.T) *Account {
	t.Helper()
	a, err := Resolve("65534", "65534", []string{"12", "13"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A program has its user's rights, and nothing is left by which it could have others.
// The agent itself keeps its own.
func TestProgramHasNoRights(t *testing.T) {
	needRoot(t)
	cmd := program("status")
	var out strings.Builder
	cmd.Stdout = &out
	if err := nobody(t).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	want := "Uid 65534 65534 65534 65534\nGid 65534 65534 65534 65534\nGroups 12 13\nCapInh 0\nCapPrm 0\nCapEff 0\nCapBnd 0\nCapAmb 0\nNoNewPrivs 1\n"
	if got := strings.ReplaceAll(out.String(), "0000000000000000", "0"); got != want {
		t.Errorf("the program has\n%swant\n%s", got, want)
	}
	for range 100 { // whichever thread it is on
		if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); n != 0 || err != nil {
			t.Fatalf("the agent itself cannot gain rights any more: %d, %v", n, err)
		}
		done := make(chan struct{})
		go close(done)
		<-done
	}
}

// An agent without rights can be told of its own user only, whose programs then cannot
// gain rights either.
func TestResolveWithoutRights(t *testing.T) {
	needRoot(t)
	cmd := program("resolve")
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"nobody : <nil>, others false", "root : user: root is who the node's programs are to be kept from",
		`daemon : user = "daemon": the agent's own user is 65534, and only root can start programs as another`,
		"nobody daemon: group, supplementary_groups: only root", "NoNewPrivs 1",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// What cannot be obeyed is refused by name.
func TestResolveRefuses(t *testing.T) {
	needRoot(t)
	for _, c := range []struct{ user, group, supplementary, want string }{
		{"no-such-user", "", "", `user = "no-such-user": this machine has no such user`},
		{"4000000001", "", "", "so its group is not known: name a group, too"},
		{"4294967295", "0", "", "no such user"},
		{"-1", "", "", "no such user"},
		{"root", "", "", "user: root is who"},
		{"0", "", "", "user: root is who"},
		{"nobody", "no-such-group", "", `group = "no-such-group": this machine has no such group`},
		{"nobody", "", "no-such-group", `supplementary_groups: "no-such-group": this machine has no such group`},
	} {
		var groups []string
		if c.supplementary != "" {
			groups = []string{c.supplementary}
		}
		if _, err := Resolve(c.user, c.group, groups); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if a, err := Resolve("4000000001", "4000000002", nil); err != nil || a.UID != 4000000001 || a.GID != 4000000002 {
		t.Errorf("numbers alone: %+v, %v", a, err)
	}
}

// A folder that the user cannot enter is refused, and named.
func TestReaches(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "in")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := nobody(t).Reaches(dir); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "let that user through") {
		t.Errorf("a closed folder: %v", err)
	}
	if err := nobody(t).Reaches("/"); err != nil {
		t.Errorf("an open folder: %v", err)
	}
	if err := (*Account)(nil).Reaches(dir); err != nil {
		t.Errorf("without a user: %v", err)
	}
}
