// Package cgroup holds programs, with all that they begin, to an amount of memory and a
// share of the processors, by control groups of Linux: of version 2, or of version 1 for
// what that has on this machine.
//
// A [Group] is a folder that the agent makes beside its own group (below it, in version 1),
// by a name of the node's. It lasts as long as there are processes in it, whether an agent
// runs or not; the next agent opens it by its name. Where a service manager rules the tree
// the agent makes nothing outside of what that has delegated to it: see [Open].
//
// Programs begin in their group ([Group.Enter], [Group.Begin]): there is no moment in which
// they run outside.
package cgroup

import (
	"errors"
	"fmt"
)

// Limits are what a group holds its processes to, together.
type Limits struct {
	MemoryMax uint64 `json:"memory_max,omitempty"` // bytes; 0: as much as there is
	CPUWeight uint64 `json:"cpu_weight,omitempty"` // DefaultWeight is what others have; 0: that
}

// Group is a control group. It is a value that other processes can be told; a nil *Group
// holds nothing.
type Group struct {
	Limits
	// Unified is its folder of version 2, and Memory and CPU those of version 1; "" where
	// there is none.
	Unified string `json:"unified,omitempty"`
	Memory  string `json:"memory,omitempty"`
	CPU     string `json:"cpu,omitempty"`
	// HoldsMemory is false where MemoryMax cannot be had.
	HoldsMemory bool `json:"holds_memory,omitempty"`
}

// Check reports limits that no group can have.
func (l Limits) Check() error {
	var errs []error
	if l.MemoryMax > 0 && l.MemoryMax < minMemory {
		errs = append(errs, fmt.Errorf("memory_max = %d: want %d bytes or more: no program begins with less", l.MemoryMax, minMemory))
	}
	if l.CPUWeight > maxWeight {
		errs = append(errs, fmt.Errorf("cpu_weight = %d: want 1 to %d; %d is what others have", l.CPUWeight, maxWeight, DefaultWeight))
	}
	return errors.Join(errs...)
}

// MemoryText is MemoryMax in words.
func (l Limits) MemoryText() string {
	n, unit := l.MemoryMax, 0
	for ; n > 0 && n%1024 == 0 && unit < 4; unit++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, []string{"B", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// Killed says that the kernel has ended a process of the group since its count of those was
// before; "" where it has not. killed is whether the process in question ended by a signal
// that nobody else is known to have sent.
func (g *Group) Killed(before uint64, killed bool) string {
	switch {
	case g == nil || g.Kills() <= before:
		return ""
	case killed:
		return "ended by the kernel: it took more than memory_max " + g.MemoryText()
	}
	return "the kernel has ended a process of it, since they took more than memory_max " + g.MemoryText()
}
