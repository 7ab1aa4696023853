package transforms

import (
	"os"
	"path/filepath"
	"testing"

	"moult/agent/account"
)

// The state of an object that is a program is the account's, also what is from before
// there was one; of all others it is moult's, also what a transform has made and opened
// to everybody.
func TestHand(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files to another user")
	}
	who := &account.Account{Name: "nobody", UID: 65534, GID: 65534}
	s, err := OpenSlotsOf(who, filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	o := s.Objects()
	is := func(path string, want int) os.FileInfo {
		t.Helper()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid, gid, _ := owner(info); uid != want || gid != want {
			t.Errorf("%s is of user %d, group %d; want %d", path, uid, gid, want)
		}
		return info
	}
	future, err := o.Future(3)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, future, map[string]string{"old/file": "from before"})
	if err := os.Symlink("/etc", filepath.Join(future, "link")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := o.Hand(future, true); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{".", "old", "old/file", "link"} {
			is(filepath.Join(future, name), who.UID)
		}
	}
	is("/etc", 0)

	past, err := o.Past(3)
	if err != nil {
		t.Fatal(err)
	}
	is(past, 0)
	if err := own(past, who); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(past, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := o.Hand(past, false); err != nil {
		t.Fatal(err)
	}
	if perm := is(past, 0).Mode().Perm(); perm != 0o700 {
		t.Errorf("the state of an object of moult's own process has mode %#o", perm)
	}
	if err := o.Hand(filepath.Join(future, "link"), false); err == nil {
		t.Error("a link was handed over")
	}
	made, err := s.PreparePast(4)
	if err != nil {
		t.Fatal(err)
	}
	is(made, who.UID) // a transform is a program
}
