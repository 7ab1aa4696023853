//go:build linux || darwin || freebsd

package durable

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// FreeSpace returns how many bytes an ordinary user may still write to the
// file system of dir.
func FreeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// ReadOnly reports whether the file system of dir is mounted read-only, as some systems
// do by themselves with a disk that fails.
func ReadOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Flags)&readOnlyFlag != 0
}
