package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Allocate makes a file of size bytes that takes as much of the disk, durably.
func Allocate(path string, size int64) error {
	return allocate(path, func(f *os.File) error {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return writeZeros(f, size)
		}
		return os.NewSyscallError("fallocate", err)
	})
}
