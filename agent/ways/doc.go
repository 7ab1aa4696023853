// Package ways is how callers reach a node past its agent (attach), and how the
// node's own calls find their way to its peers (egress): it finds what works on this
// machine, and holds what that needs of the kernel.
//
// What is in the kernel outlives the agent on purpose, in a folder and a cgroup that
// bear the node's name ([KernelName]): the next agent takes it over, and [Remove]
// takes it out.
package ways
