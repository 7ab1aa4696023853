//go:build !(linux || darwin || freebsd)

package durable

import "math"

// FreeSpace is not known here: the disk's own error has to do.
func FreeSpace(string) (int64, error) { return math.MaxInt64, nil }

// ReadOnly is not known here: the disk's own error has to do.
func ReadOnly(string) bool { return false }
