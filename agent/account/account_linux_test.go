package account

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"moult/agent/account/sandbox"
)

// TestMain lets the test binary be the program that is run as another user: it prints
// what it is, or what the agent of such a user would do.
func TestMain(m *testing.M) {
	switch os.Getenv("TEST_ACCOUNT") {
	case "status":
		printStatus()
	case "secret":
		fmt.Print((*Account)(nil).OpenTo(os.Getenv("TEST_PATH")))
	case "resolve":
		for _, args := range [][]string{{"nobody", ""}, {"root", ""}, {"daemon", ""}, {"nobody", "daemon"}} {
			a, err := Resolve(args[0], args[1], nil)
			fmt.Printf("%s %s: %v, others %v\n", args[0], args[1], err, a.Others())
		}
		a, _ := Resolve("nobody", "", nil)
		cmd := program("status")
		cmd.Stdout = os.Stdout
		if err := a.Start(nil, nil, cmd); err != nil {
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
	if err := nobody(t).Start(nil, nil, cmd); err != nil {
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
		{"nobody", "root", "", "its group is root's"},
		{"nobody", "0", "", "its group is root's"},
		{"nobody", "daemon", "0", "supplementary_groups: root's is among them"},
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

// What the account could write to, or put another in the place of, is named with the
// command that mends it; what it may not, and what is given to it on purpose, is passed.
func TestKeptFrom(t *testing.T) {
	needRoot(t)
	who := nobody(t) // in groups 65534, 12 and 13
	for name, c := range map[string]struct {
		spoil func(data string) error
		want  string // with DATA for the folder
	}{
		"as the agent makes it": {func(string) error { return nil }, ""},
		"the folder":            {who.Give, "`chown root DATA`"},
		"the folder above":      {func(d string) error { return who.Give(filepath.Dir(d)) }, "is that user's"},
		"a key":                 {func(d string) error { return who.Give(filepath.Join(d, "identity.pem")) }, "`chown -R root DATA/identity.pem`"},
		"slots":                 {func(d string) error { return who.Give(filepath.Join(d, "state")) }, "`chown root DATA/state`"},
		"everybody's":           {func(d string) error { return os.Chmod(d, 0o777) }, "`chmod o-w DATA`"},
		"everybody's, sticky":   {func(d string) error { return os.Chmod(filepath.Dir(d), 0o777|os.ModeSticky) }, ""},
		"its own, sticky":       {func(d string) error { return os.Chmod(d, 0o777|os.ModeSticky) }, "`chmod o-w DATA`"},
		"a key, sticky": {func(d string) error {
			return os.Chmod(filepath.Join(d, "identity.pem"), 0o666|os.ModeSticky)
		}, "`chmod o-w DATA/identity.pem`"},
		"a link": {func(d string) error {
			return errors.Join(os.Rename(d, d+"-real"), os.Symlink(d+"-real", d), who.Give(d))
		}, "`chown -h root DATA`"},
		"a link in the middle": {func(d string) error { // DATA leads to between/there, which leads to DATA-real
			between := d + "-between"
			return errors.Join(os.Rename(d, d+"-real"), os.Mkdir(between, 0o711), os.Symlink("../data-real", filepath.Join(between, "there")),
				os.Symlink("data-between/there", d), who.Give(between))
		}, "`chown root DATA-between`"},
		"links in a ring": {func(d string) error { return errors.Join(os.RemoveAll(d), os.Symlink(d, d)) }, "more than 40 links"},
		"a group's": {func(d string) error {
			return errors.Join(os.Chown(d, 0, 13), os.Chmod(d, 0o770))
		}, "`chmod g-w DATA`"},
		"another group's": {func(d string) error {
			return errors.Join(os.Chown(d, 0, 14), os.Chmod(d, 0o770))
		}, ""},
		"by a link": {func(d string) error {
			return errors.Join(os.Rename(d, d+"-real"), os.Symlink(d+"-real", d), who.Give(d+"-real"))
		}, "`chown root DATA-real`"},
		"not there": {os.RemoveAll, ""},
	} {
		data := filepath.Join(t.TempDir(), "data")
		for _, dir := range []string{data, filepath.Join(data, "state"), filepath.Join(data, "state", "1")} {
			if err := os.Mkdir(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.WriteFile(filepath.Join(data, "identity.pem"), nil, 0o600), who.Give(filepath.Join(data, "state", "1")), c.spoil(data)); err != nil {
			t.Fatal(err)
		}
		err := who.KeptFrom(data, "state")
		want := strings.ReplaceAll(c.want, "DATA", data)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if err := (*Account)(nil).KeptFrom("/"); err != nil {
		t.Errorf("without a user: %v", err)
	}
}

// What the account could read, by its user, its groups or the others' bits, is refused; not
// what a folder above hides.
func TestHiddenFrom(t *testing.T) {
	needRoot(t)
	who := nobody(t) // in groups 65534, 12 and 13
	dir, err := os.MkdirTemp("", "moult-secret-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(dir, 0o711)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uid, gid int
		mode     os.FileMode
		hidden   bool
	}{
		{0, 0, 0o600, true}, {0, 0, 0o640, true}, {0, 14, 0o660, true}, {0, 12, 0o640, false}, {0, 65534, 0o440, false},
		{0, 0, 0o604, false}, {0, 14, 0o644, false}, {0, 12, 0o604, true}, {65534, 0, 0o400, false}, {65534, 0, 0o004, true},
	} {
		if err := errors.Join(os.Chown(path, c.uid, c.gid), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		err := who.HiddenFrom(path)
		if (err == nil) != c.hidden || err != nil && !strings.Contains(err.Error(), "chmod 600 "+path+"`") {
			t.Errorf("%+v: %v", c, err)
		}
		// The kernel's word: the user's own program.
		cat := exec.Command("/bin/cat", path)
		cat.Dir, cat.SysProcAttr = "/", &syscall.SysProcAttr{}
		if err := who.Start(nil, nil, cat); err != nil {
			t.Fatal(err)
		}
		if read := cat.Wait() == nil; read == c.hidden {
			t.Errorf("%+v: the user reads it: %v", c, read)
		}
	}
	if err := errors.Join(os.Chown(path, 0, 0), os.Chmod(path, 0o644), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(who.HiddenFrom(path), who.HiddenFrom(path+"-missing"), who.HiddenFrom("")); err != nil {
		t.Errorf("hidden by its folder, not there, none: %v", err)
	}
}

// An agent that is not root is given files of root's by a group of its own.
func TestOpenTo(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("", "moult-secret-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(dir, 0o711)); err != nil {
		t.Fatal(err)
	}
	mend := "`chown 65534 " + path + " && chmod 600 " + path + "`"
	for _, c := range []struct {
		gid  int
		mode os.FileMode
		want []string
	}{
		{12, 0o640, nil}, {65534, 0o660, nil}, {0, 0o440, nil},
		{14, 0o640, []string{"open to group 14 (mode 0640)", mend}},
		{12, 0o444, []string{"open to all users of this machine", mend}},
	} {
		if err := errors.Join(os.Chown(path, 0, c.gid), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		cmd := program("secret")
		cmd.Env = append(cmd.Env, "TEST_PATH="+path)
		var out strings.Builder
		cmd.Stdout = &out
		if err := nobody(t).Start(nil, nil, cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if (out.Len() == 0) != (c.want == nil) {
			t.Errorf("%+v: %q", c, out.String())
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%+v: %q", c, out.String())
			}
		}
	}
	if err := errors.Join(os.Chown(path, 0, 12), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	if text := nobody(t).OpenTo(path); !strings.Contains(text, "`chmod 600 "+path+"`") {
		t.Errorf("root's, of a group of the account: %q", text)
	}
}

// Without an account, what works beside the software can gain no rights, and of root's has
// those for files and processes only; what is started as the software is has all of them.
func TestWorkersHaveFewRights(t *testing.T) {
	needRoot(t)
	start := func(box *sandbox.Sandbox) string {
		cmd := program("status")
		var out strings.Builder
		cmd.Stdout = &out
		if err := (*Account)(nil).RunIn(nil, box, cmd.Run); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const few = "00000000000004fb" // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10
	got := start((&sandbox.Sandbox{}).Of([]string{"/proc/self/exe"}, nil))
	want := "CapInh 0\nCapPrm " + few + "\nCapEff " + few + "\nCapBnd " + few + "\nCapAmb 0\nNoNewPrivs 1\n"
	if !strings.Contains(strings.ReplaceAll(got, "0000000000000000", "0"), want) {
		t.Errorf("in a sandbox it has\n%swant\n%s", got, want)
	}
	if got := start(nil); !strings.Contains(got, "NoNewPrivs 0") || strings.Contains(got, "CapEff "+few) {
		t.Errorf("in none it has\n%s", got)
	}
}
