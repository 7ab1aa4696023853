package wasm

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What others may have put into a state is neither followed nor waited for: it is
// refused by name.
func TestFileKVPlainFilesOnly(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, encodeBatch([]Op{{Set, "a", []byte("secret")}}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		put  func(path string) error
		want string
	}{
		"pipe":      {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "not a regular file"},
		"link":      {func(path string) error { return os.Symlink(secret, path) }, "not a regular file"},
		"hard link": {func(path string) error { return os.Link(secret, path) }, "hard link"},
		"huge": {func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, maxBatch+1)
		}, ErrFull.Error()},
	} {
		for _, file := range []string{batchFile, "key"} {
			t.Run(name+" "+file, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, file)
				if err := c.put(path); err != nil {
					t.Fatal(err)
				}
				if _, err := OpenFileKV(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
					t.Errorf("%v, want %q", err, c.want)
				}
			})
		}
	}
}
