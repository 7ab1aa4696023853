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
