package standin

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// A program that makes a stand-in, says so, and lives until its input ends.
const holder = "MOULT_TEST_STANDIN_OF"

func TestMain(m *testing.M) {
	if of := os.Getenv(holder); of != "" {
		f, err := New(of)
		if err == nil {
			err = os.WriteFile(filepath.Join(f.Path(), "content"), make([]byte, 1<<20), 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(f.Path())
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(1) // as a crash: nothing is closed
	}
	os.Exit(m.Run())
}

// What a killed process leaves is swept, once it is dead and not before; what belongs to
// another folder, or is not what a stand-in is, stays.
func TestSweep(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	of, other := t.TempDir(), t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holder+"="+of)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	path, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	path = path[:len(path)-1]
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the folder has mode %v", info.Mode())
	}

	another, err := New(other)
	must(t, err)
	begins, err := prefix(of)
	must(t, err)
	stay := []string{another.Path()}
	if os.Geteuid() == 0 {
		foreign := filepath.Join(os.TempDir(), begins+"foreign")
		must(t, os.Mkdir(foreign, 0o700))
		must(t, os.Chown(foreign, 65534, 65534))
		stay = append(stay, foreign)
	}
	open := filepath.Join(os.TempDir(), begins+"open")
	must(t, os.Mkdir(open, 0o755))
	must(t, os.Chmod(open, 0o755))
	link := filepath.Join(os.TempDir(), begins+"link")
	must(t, os.Symlink(another.Path(), link))
	stay = append(stay, open, link)

	swept := func(when string, want ...string) {
		t.Helper()
		if got, err := Sweep(of); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s %q were swept, %v; want %q", when, got, err, want)
		}
	}
	swept("while it lives")
	if found, err := Find(of); err != nil || !slices.Equal(found, []string{path}) {
		t.Errorf("found %q, %v, want %q", found, err, path)
	}
	must(t, in.Close())
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	if _, err := os.Stat(filepath.Join(path, "content")); err != nil {
		t.Errorf("there is nothing to sweep: %v", err)
	}
	swept("once it is dead", path)
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
	for _, stays := range stay {
		if _, err := os.Lstat(stays); err != nil {
			t.Errorf("it is not there any more: %v", err)
		}
	}
	must(t, another.Close())
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != len(stay)-1 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// Root makes stand-ins beside the folder of another user, and finds its own as well as those
// of that user.
func TestOfAnothersFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to another user")
	}
	t.Setenv("TMPDIR", t.TempDir())
	of := t.TempDir()
	const user, third = 65534, 65533
	must(t, os.Chown(of, user, user))
	var want []string
	for _, uid := range []int{0, user, third} {
		f, err := New(of)
		must(t, err)
		must(t, f.lock.Unlock()) // dead
		must(t, os.Chown(f.Path(), uid, uid))
		if uid != third {
			want = append(want, f.Path())
		}
	}
	slices.Sort(want)
	if found, err := Find(of); err != nil || !slices.Equal(found, want) {
		t.Errorf("found %q, %v; want %q", found, err, want)
	}
	if swept, err := Sweep(of); err != nil || !slices.Equal(swept, want) {
		t.Errorf("%q were swept, %v; want %q", swept, err, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
