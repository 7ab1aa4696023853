//go:build !linux

package connect

import (
	"errors"
	"fmt"
	"net/netip"
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
func (*Connect) Set(Table) ([]LeftOut, error) { return nil, errLinux }

// Table fails.
func (*Connect) Table() (Table, error) { return Table{}, errLinux }

// Remove does nothing.
func (*Connect) Remove() error { return nil }

// Close does nothing.
func (*Connect) Close() error { return nil }

// Binder has what a node binds for UDP bound elsewhere. Only Linux can.
type Binder struct{}

// OpenBinder fails: only Linux has cgroups.
func OpenBinder(Options) (*Binder, error) { return nil, errLinux }

// RemoveCgroup does nothing.
func RemoveCgroup(Options) error { return nil }

// Cgroup returns nil.
func (*Binder) Cgroup() *os.File { return nil }

// Set fails.
func (*Binder) Set(map[netip.AddrPort]netip.AddrPort) error { return errLinux }

// Close does nothing.
func (*Binder) Close() error { return nil }
