//go:build !linux

package connect

import (
	"errors"
	"fmt"
	"os"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("connect: it is closed")

// Connect is the cgroup of one node, with its table. Only Linux has them.
type Connect struct{}

var errLinux = fmt.Errorf("connect: BPF programs of cgroups are Linux's: %w", ErrNotSupported)

// Open fails: only Linux has cgroups.
func Open(Options) (*Connect, error) { return nil, errLinux }

// Probe says why Open fails.
func Probe(Options) error { return errLinux }

// MountCgroup2 fails: only Linux has cgroups.
func MountCgroup2(string) error { return errLinux }

// Adopted reports false.
func (*Connect) Adopted() bool { return false }

// Cgroup returns nil.
func (*Connect) Cgroup() *os.File { return nil }

// Add fails.
func (*Connect) Add(int) error { return errLinux }

// Set fails.
func (*Connect) Set(Table) error { return errLinux }

// Table fails.
func (*Connect) Table() (Table, error) { return Table{}, errLinux }

// Remove does nothing.
func (*Connect) Remove() error { return nil }

// Close does nothing.
func (*Connect) Close() error { return nil }
