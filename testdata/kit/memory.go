package kit

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// MemDir is a folder in memory, where there is one, that ends with the test: for tests
// that write, sync and remove hundreds of times, and are about content, not about the disk.
func MemDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "moult-test-")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return t.TempDir()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
