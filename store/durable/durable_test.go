package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"one", "", "three"} {
		if err := WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("read %q, %v, want %q", got, err, content)
		}
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v, want 0640", fi.Mode(), err)
	}
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := ReadFile(path, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	for content, good := range map[string]bool{"": true, "abc": true, "abcd": false} {
		if err := WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := ReadFile(path, 3)
		switch {
		case good && (err != nil || string(data) != content):
			t.Errorf("read %q, %v, want %q", data, err, content)
		case !good && (err == nil || !strings.Contains(err.Error(), path+": it has more than 3 bytes")):
			t.Errorf("%q: %q, %v, want an error that names the file and the limit", content, data, err)
		}
	}
	if _, err := ReadFile(filepath.Dir(path), 3); err == nil {
		t.Error("a folder was read")
	}
}

// TestWriteFileFails shows that a write that cannot be published leaves the
// old content, and nothing else.
func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Fatal("a file was renamed over a folder that is not empty")
	}
	if left := names(t, dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := WriteFile(filepath.Join(dir, "no", "folder"), nil, 0o600); err == nil {
		t.Error("a file was written into a folder that does not exist")
	}
}

func TestSyncTree(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "b", "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	if err := SyncTree(dir); err != nil {
		t.Error(err)
	}
	if err := SyncTree(filepath.Join(dir, "missing")); err == nil {
		t.Error("a tree that is not there was synced")
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, c := range []struct {
		mode fs.FileMode
		good bool
	}{{0o600, true}, {0o400, true}, {0o640, false}, {0o604, false}, {0o620, false}, {0o601, false}} {
		if err := WriteFile(path, []byte("k"), c.mode); err != nil {
			t.Fatal(err)
		}
		data, err := ReadSecret(path, 1)
		switch {
		case c.good && (err != nil || string(data) != "k"):
			t.Errorf("mode %v: %q, %v", c.mode, data, err)
		case !c.good && (!errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "`chmod 600 "+path) || data != nil):
			t.Errorf("mode %v: %q, %v, want it refused with the command", c.mode, data, err)
		}
	}
	if _, err := ReadSecret(path+"-missing", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing one: %v", err)
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
