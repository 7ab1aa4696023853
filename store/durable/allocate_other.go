//go:build !linux

package durable

import "os"

// Allocate makes a file of size bytes that takes as much of the disk, durably.
func Allocate(path string, size int64) error {
	return allocate(path, func(f *os.File) error { return writeZeros(f, size) })
}
