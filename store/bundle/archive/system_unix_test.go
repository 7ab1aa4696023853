//go:build unix

package archive

import "syscall"

// umask sets the process's mask, and returns what sets it back.
func umask(mask int) (back func()) {
	old := syscall.Umask(mask)
	return func() { syscall.Umask(old) }
}

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o644) }
