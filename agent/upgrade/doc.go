// Package upgrade is the machine that takes one node from release to release.
//
// It is pure, in the manner of etcd's raft: no I/O, no clock, no goroutine.
// Events go in by Step; Todo tells what must become durable and what must then be
// done. Whoever drives it (package agent/node) keeps one rule:
//
//	have Todo.Save made durable, then Todo.Actions started, then call Advance.
//
// So a crash can only fall before a save (the step never happened), between a
// save and its action (New repeats the action from the saved state), or during
// an action (every action may be repeated at any time). That is promise P7 of
// the design; the scripts in testdata crash the machine at each of these
// places, twice in a row.
//
// The phases, and what ends each:
//
//	current       a newer release is in force (Target)
//	fetching      every artifact on the path is verified and unpacked (Staged)
//	rehearsing    the release has run on a copy of the state (Rehearsed), for which the
//	              schedule gives its word (MayRehearse); only where a release on the path
//	              wants that, and the node has served
//	waiting       the schedule says go (Go)
//	draining      the software has ended (Drained)
//	transforming  each transform on the path has made its slot (Transformed)
//	starting      the new software is ready (Ready)
//	probing       it stayed healthy with calls admitted (Healthy): it settles
//	settled       the settlement is recorded (Recorded): current again, and in its
//	              soak until Soaked or SoakFailed, which disturb no phase
//	rolling back  the old software runs again on its untouched slot (RolledBack)
//	held          an operator retries, or a newer release comes
//
// What fails in its rehearsal, or cannot be rehearsed however often it is tried, is held
// without ever having been down, and so are others where enough nodes are (promise P13). Every failure before admission rolls back. After admission the new state may
// hold writes that callers were promised, so going back would lose them
// (promise P6): the node stays on the new software and is held there.
package upgrade
