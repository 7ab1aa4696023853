//go:build unix

package durable

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Whoever can write to a tree while it is made durable can put anything in the place of
// what was seen: a pipe keeps nobody waiting, and a link leads nowhere else.
func TestSyncTreeExchanged(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "out"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "in", "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"file": "../out", "absolute": "/etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(dir, "in", name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := syncIn(root, "pipe"); err != nil {
		t.Errorf("a pipe: %v", err)
	}
	for _, name := range []string{"file", "absolute"} {
		if err := syncIn(root, name); err == nil {
			t.Errorf("a link that leads out (%s) was followed", name)
		}
	}
}
