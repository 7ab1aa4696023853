package transforms

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capability is a valid value of security.capability: cap_net_bind_service.
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// makeOdd fills a state folder with what a simple copy loses.
func makeOdd(t *testing.T, dir string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	do(os.Mkdir(at("sub"), 0o750))
	for _, name := range []string{"plain", "tool", "sub/one", "noted"} {
		do(os.WriteFile(at(name), []byte(name), 0o600))
	}
	do(os.Link(at("sub/one"), at("sub/two")))
	do(os.Link(at("sub/one"), at("also")))
	f, err := os.Create(at("sparse"))
	do(err)
	_, err = f.WriteAt([]byte("end"), 16<<20)
	do(errors.Join(err, f.Close()))
	for _, name := range []string{"noted", "sub"} {
		if err := unix.Setxattr(at(name), "user.note", []byte("of "+name), 0); errors.Is(err, unix.ENOTSUP) {
			t.Skip("this disk keeps no extended attributes")
		} else {
			do(err)
		}
	}
	do(os.Chmod(at("noted"), 0o400)) // its attributes can still be kept
	if os.Geteuid() == 0 {
		do(os.Chown(at("tool"), 1, 1))
		do(unix.Setxattr(at("plain"), "security.capability", capability, 0))
	}
	do(os.Chmod(at("tool"), fs.ModeSetuid|fs.ModeSetgid|0o755))
	do(os.Chtimes(at("sub"), time.Unix(1, 0), time.Unix(1, 0)))
}

// lost lists what a copy does not have.
func lost(t *testing.T, from, to string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(from, path)
		old, err := os.Lstat(path)
		now, toErr := os.Lstat(filepath.Join(to, name))
		if err != nil || toErr != nil {
			return errors.Join(err, toErr)
		}
		a, b := old.Sys().(*syscall.Stat_t), now.Sys().(*syscall.Stat_t)
		for what, differs := range map[string]bool{
			"mode": old.Mode() != now.Mode(), "owner": a.Uid != b.Uid || a.Gid != b.Gid, "names": !old.IsDir() && a.Nlink != b.Nlink,
			"time": !old.ModTime().Equal(now.ModTime()), "holes": b.Blocks > a.Blocks+64, "attributes": attributesOf(t, path) != attributesOf(t, filepath.Join(to, name)),
		} {
			if differs {
				all = append(all, fmt.Sprintf("%s of %s", what, name))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func attributesOf(t *testing.T, path string) (all string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, err := attributes(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		value := make([]byte, maxAttribute)
		n, err := unix.Getxattr(path, name, value)
		all += fmt.Sprintf("%s=%q %v;", name, value[:max(n, 0)], err)
	}
	return all
}

// A release without a transform program keeps files as they are: extended attributes,
// setuid bits, owners, hard links, holes, times.
func TestCopyIsFaithful(t *testing.T) {
	j := newJob(t, "")
	j.Spec.Exec = nil
	makeOdd(t, j.Old)
	if err := Keepable(j.Old); err != nil {
		t.Error(err)
	}
	if _, err := (Runner{}).Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	if all := lost(t, j.Old, j.New); len(all) > 0 {
		t.Errorf("the copy lacks: %s", strings.Join(all, ", "))
	}
}

// The test above finds what a simple copy loses.
func TestCopyIsFaithfulCatches(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	makeOdd(t, from)
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	all := lost(t, from, to)
	for _, want := range []string{"attributes of noted", "attributes of sub", "mode of tool", "names of also", "names of sub/two", "time of plain"} {
		if !slices.Contains(all, want) {
			t.Errorf("not found: %s; found: %s", want, strings.Join(all, ", "))
		}
	}
}

// What a copy could not have is named while the node is up: for an agent without root's
// rights, and for every agent.
func TestKeepable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make these files")
	}
	dir := t.TempDir()
	makeOdd(t, dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{"plain": "security.capability", "tool": "rights of user 1", "noted": ""} {
		info, err := root.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		err = keepable(root, name, info)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Join(dir, name))) {
			t.Errorf("%s: %v, want %q and the file's name", name, err, want)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := Keepable(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "out")) {
		t.Errorf("a link that leads out: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Keepable(dir); err != nil {
		t.Errorf("a socket, which its software removes: %v", err)
	}
}
