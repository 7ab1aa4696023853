// Package speed holds the speed table of the simulation layer, and nothing but
// tests: `make bench` prints the table, docs/performance.md has the figures and what
// they mean.
//
// Every server is a process of its own, as is the client, so that the CPU time of
// the servers for a call can be told apart. All ways to the node are measured in
// turns, some rounds of short cells, and each figure is the median of what the
// rounds gave, of that round's direct calls. Direct calls are measured twice: what
// the second differ from the first is the noise.
//
// As root it all runs in namespaces of its own, for the kernel's part in it. What
// a system does not allow, or has not installed, is left out with the reason.
package speed
