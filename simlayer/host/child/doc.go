// Package child starts processes that the agent keeps up, with all that they start:
// each is a session of its own, which is killed whole, ends with the agent, and whose
// output goes to the log.
//
// A [Child] is one such process, a [Keeper] starts it again whenever it ends.
//
// Everything works on Linux. On other systems there is no memory limit, and what
// escapes a process's group is not ended.
package child
