package transforms

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"moult/agent/account"
	"moult/agent/account/sandbox"
	"moult/store/bundle"
	"moult/testdata/kit"
)

var nobody = &account.Account{Name: "nobody", UID: 65534, GID: 65534, Home: "/"}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can give files to another user")
	}
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	uid, _, _ := owner(info)
	return uid
}

// limitedUser runs a transform of another user with a memory limit, and prints what that
// user's program has. It is in TEST_PATH, which that user may pass through.
func limitedUser() int {
	s, err := OpenSlotsOf(nobody, filepath.Join(os.Getenv("TEST_PATH"), "state"))
	if err == nil {
		_, err = s.Prepare(1)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	spec := bundle.Transform{Exec: []string{"sh", "-c", "echo limit $(ulimit -d) of user $(id -u)"}, MemoryMax: 512<<20 + 1}
	if os.Getenv("TEST_WITHOUT") != "" {
		shell = "/nowhere/sh"
		fmt.Println("can:", CanLimit(spec, nobody))
	}
	_, err = Runner{Output: os.Stdout}.Run(context.Background(), Job{
		Spec: spec,
		Dir:  "/", New: s.scratch(newPrefix, 1), To: 1, Env: []string{"PATH=" + os.Getenv("PATH")}, Account: nobody,
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// A memory limit needs no right that an agent of root in a container may lack, nor a shell
// where it has that right; and that it has neither is known before.
func TestMemoryLimitOfUser(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("", "moult-limit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		capable    bool // of CAP_SYS_RESOURCE
		env, wants string
	}{
		{false, "", "limit 524288 of user 65534\n<nil>"},
		{true, "TEST_WITHOUT=shell", "can: <nil>\nlimit 524288 of user 65534\n<nil>"},
		{false, "TEST_WITHOUT=both", "can: hold the transform to its memory_max as user nobody: without CAP_SYS_RESOURCE that takes a shell"},
	} {
		if c.capable && !capable(unix.CAP_SYS_RESOURCE) {
			t.Log("without CAP_SYS_RESOURCE this shows less")
			continue
		}
		agent := kit.Child("TEST_PROGRAM=limited-user", "TEST_PATH="+dir, c.env)
		out := make(chan string, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends, with what it has lost
			if !c.capable {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_RESOURCE, 0, 0, 0); err != nil {
					out <- err.Error()
					return
				}
			}
			text, err := agent.CombinedOutput()
			out <- fmt.Sprintf("%s%v", text, err)
		}()
		if got := <-out; !strings.HasPrefix(got, c.wants) {
			t.Errorf("%q: the transform says %q, want %q", c.env, got, c.wants)
		}
	}
}

// In a sandbox a transform has its folders, a folder for temporary files that is gone
// afterwards, and what the operator gives; and who runs into the wall is told what it is.
func TestSandboxed(t *testing.T) {
	if lacks := sandbox.Lacks(); lacks != "" {
		t.Skip("skipped: ", lacks)
	}
	beside := t.TempDir()
	writeTree(t, beside, map[string]string{"given": "g"})
	for name, way := range ways(t) {
		for _, c := range []struct{ script, want string }{
			{`cp "$MOULT_OLD"/* "$MOULT_NEW"/ && echo x > "$TMPDIR/x" && mv "$TMPDIR/x" "$MOULT_NEW/c"`, ""},
			{`cat "$BESIDE/given" > "$MOULT_NEW/c"`, "(it may be that it is held to its folders and the system's: readable and writable in agent.hcl give it others)"},
			{`echo x > "$BESIDE/new"`, "readable and writable in agent.hcl"},
			{`echo x > /tmp/moult-sandboxed`, "readable and writable in agent.hcl"},
			{`given; cat "$BESIDE/given" > "$MOULT_NEW/c"`, ""},
			{`given; echo x > "$BESIDE/new"`, "readable and writable in agent.hcl"},
			{`none; echo x > "$BESIDE/new"`, ""},
		} {
			j := newJob(t, "")
			box := &sandbox.Sandbox{}
			script := c.script
			if rest, ok := strings.CutPrefix(script, "given; "); ok {
				script, box.Given = rest, []string{beside}
			}
			if rest, ok := strings.CutPrefix(script, "none; "); ok {
				script, box = rest, nil
			}
			j.Spec.Exec, j.Sandbox = []string{"/bin/sh", "-c", script}, box
			j.Env = []string{"PATH=" + os.Getenv("PATH"), "BESIDE=" + beside}
			_, err := Runner{Protect: way}.Run(context.Background(), j)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %s: %v, want %q", name, c.script, err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(j.New), ".old-*")); len(left) > 0 {
				t.Errorf("%s: %s: left: %q", name, c.script, left)
			}
			_ = os.Remove(filepath.Join(beside, "new"))
		}
	}
}

// What has a name elsewhere is not given away with a slot; what has several in it is.
func TestOwnRefusesOtherNames(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil  func(slot string) error
		refuse string
	}{
		"several names inside": {func(slot string) error { return nil }, ""},
		"a name outside":       {func(slot string) error { return os.Link(secret, filepath.Join(slot, "z")) }, "z has 2 names, and 1 in this folder"},
		"two names and one outside": {func(slot string) error {
			if err := os.Link(secret, filepath.Join(slot, "d", "y")); err != nil {
				return err
			}
			return os.Link(secret, filepath.Join(slot, "z"))
		}, "has 3 names, and 2 in this folder"},
		"another user's, and all of it here": {func(slot string) error {
			return os.Lchown(filepath.Join(slot, "b"), 12345, 12345)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenSlotsOf(nobody, filepath.Join(t.TempDir(), "state"))
			if err != nil {
				t.Fatal(err)
			}
			slot := s.Path(1)
			writeTree(t, slot, map[string]string{"b": "twice", "d/e": "once"})
			if err := os.Link(filepath.Join(slot, "b"), filepath.Join(slot, "d", "c")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/nowhere", filepath.Join(slot, "link")); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(slot); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(filepath.Join(slot, "z"))
			defer os.Remove(filepath.Join(slot, "d", "y"))
			ahead := s.Ownable(1)
			err = s.Own(1)
			if fmt.Sprint(ahead) != fmt.Sprint(err) {
				t.Errorf("known ahead: %v, later %v", ahead, err)
			}
			if ownerOf(t, secret) != 0 {
				t.Error("a file outside the slot was given away")
			}
			if c.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), c.refuse) || ownerOf(t, slot) != 0 {
					t.Errorf("%v, the slot is user %d's; want it refused, with %q", err, ownerOf(t, slot), c.refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{".", "b", "d", "d/c", "d/e", "link"} {
				if uid := ownerOf(t, filepath.Join(slot, name)); uid != nobody.UID {
					t.Errorf("%s is user %d's", name, uid)
				}
			}
		})
	}
}

// The file that is given away is the one that was checked, whatever has its name by then.
func TestGiveFileExchanged(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"slot/a": "good", "secret": "bad"})
	root, err := os.OpenRoot(filepath.Join(dir, "slot"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	secret, a, kept := filepath.Join(dir, "secret"), filepath.Join(dir, "slot", "a"), filepath.Join(dir, "slot", "kept")
	exchange := func(string, fs.FileInfo) error {
		if err := os.Rename(a, kept); err != nil {
			return err
		}
		return os.Link(secret, a)
	}
	if err := giveFile(root, "a", nobody, exchange); err != nil {
		t.Fatal(err)
	}
	if ownerOf(t, secret) != 0 || ownerOf(t, kept) != nobody.UID {
		t.Errorf("the secret is user %d's, what was checked user %d's", ownerOf(t, secret), ownerOf(t, kept))
	}
}

// Until a copy is whole its user cannot get at it, since owners and permissions are set
// by names in it.
func TestCopyIsClosed(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	writeTree(t, from, map[string]string{"a": "alpha"})
	l, err := net.Listen("unix", filepath.Join(from, "z")) // which a copy refuses
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{from, to} {
		if err := nobody.Give(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(t.Context(), from, to, 0); err == nil || !strings.Contains(err.Error(), "socket") {
		t.Fatal(err)
	}
	if uid := ownerOf(t, to); uid != 0 {
		t.Errorf("half a copy is user %d's", uid)
	}
	_ = l.Close()
	writeTree(t, to, nil)
	if err := os.RemoveAll(filepath.Join(to, "a")); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), from, to, 0); err != nil || ownerOf(t, to) != nobody.UID {
		t.Errorf("a whole copy: %v, user %d's", err, ownerOf(t, to))
	}
	if err := copyTree(t.Context(), from, to, 0); err == nil || !strings.Contains(err.Error(), "not empty any more") {
		t.Errorf("a copy into a folder that somebody filled: %v", err)
	}
}

// Whose programs may have run is seen by whose what they wrote is.
func TestOwners(t *testing.T) {
	needRoot(t)
	s, err := OpenSlotsOf(nobody, filepath.Join(t.TempDir(), "a [b] *", "state")) // no pattern
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(1); err != nil {
		t.Fatal(err)
	}
	future, err := s.Objects().Future(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]int{{nobody.UID}, {12345, nobody.UID}} {
		if got, err := s.Owners(); err != nil || !slices.Equal(got, want) {
			t.Errorf("owners %v, %v; want %v", got, err, want)
		}
		if err := os.Lchown(future, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
}
