// Package transforms takes a node's state from one version to the next,
// wholly or not at all.
//
// # Slots
//
// The state of one version is a folder, its slot. Slots lie side by side:
//
//	<data>/state/1         a complete slot
//	<data>/state/2         a complete slot
//	<data>/state/current   symbolic link to the live slot ("2")
//	<data>/state/.new-3    a slot that is being made
//	<data>/state/.old-3    a throw-away copy of the old slot (see below)
//	<data>/state/.del-1    a slot that is being removed
//
// A folder whose name is a version is complete and durable, always: slots are
// made as .new-N, synced, then renamed; they are renamed to .del-N before the
// first file is removed. current changes by rename too, and only to a slot
// that exists. So a crash at any instant leaves whole slots, a current that
// names one of them, and perhaps some dot folders, which OpenSlots clears.
// Every method may be repeated after a crash.
//
// # The state of simulation objects
//
// The objects of a release (its past object answers callers of the version
// before, on nodes that have the release; its future object answers callers of
// the release, on nodes that have not) keep their state beside the slots, by the
// release that brought them:
//
//	<data>/objects/3/future      what the future object of release 3 has written
//	<data>/objects/3/past        what its past object has
//	<data>/objects/3/complement  what was kept when release 3 was taken back: see below
//	<data>/objects/3/.new-past   a past object's first state, being made
//	<data>/objects/3/.del-past   a state that is being removed
//
// A transform carries state over, as in Upstart (Ajmani, Liskov, Shrira, ECOOP
// 2006): it reads the future object's state and makes the past object's first.
// The latter is published with the slot: synced and renamed before the slot is,
// so that the slot's own rename is what makes both count. A past state above the
// live version and without its slot is of nothing; OpenSlots and Prepare clear
// it. So a crash at any instant leaves either the old slot and the future
// object's state as it was, or the new slot and the past object's first state.
// Roll-back (Remove) takes a new slot's past state along and keeps the future
// object's; the past states of versions that were live stay until Retire, however
// long their slots are gone.
//
// # Transforms
//
// Runner makes a new slot from an old one: by the release's own program, or,
// without one, by a copy. What a program is promised and held to:
//
//   - It runs in the unpacked artifact's folder with MOULT_OLD, MOULT_NEW,
//     MOULT_FROM and MOULT_TO in its environment, MOULT_NEW being an empty
//     folder. It owes the state of MOULT_TO in MOULT_NEW: regular files,
//     folders, and symbolic links that stay inside; anything else is refused.
//     It need not sync.
//   - Where the future object of MOULT_TO has state, MOULT_FUTURE_STATE is its
//     folder, to be read; the object has ended. Where the past object of MOULT_TO
//     may have state, MOULT_PAST_STATE is an empty folder for the first of it, of
//     the same kinds of file as a slot. Left empty, the object starts without.
//   - Exit 0 is done, 21 is "try later" (ErrLater), all else is *Failed.
//   - It is killed with its process group at its time limit, when the new slot
//     and past state outgrow its disk limit, when the disk is nearly full, and
//     when the agent asks. On Linux it is also killed when the agent dies, and
//     so is whatever left the group but kept MOULT_NEW in its environment.
//   - Its memory limit is, on Linux, RLIMIT_DATA of each of its processes: the
//     heap that may be written. (RLIMIT_AS would count address space that is
//     only reserved, of which Go and Java programs take gigabytes.) A Go
//     program needs some 128 MiB before it has done anything. Elsewhere there
//     is no memory limit.
//
// # Taking a release back
//
// A release with a reverse transform can be taken back after callers were let in. It runs
// as a transform does, from the slot of MOULT_FROM, the release that is taken back, to an
// empty one of MOULT_TO, which it goes back to, with the state of the past object in
// MOULT_PAST_STATE. What the old form cannot hold it puts into MOULT_COMPLEMENT, an empty
// folder, and what the future object is to begin with into MOULT_FUTURE_STATE, another.
// Both get their names before the slot has its, so the slot comes with them or not at all;
// the new slot is not touched. When the node goes forward again, the transform finds the
// complement in MOULT_COMPLEMENT, to be read: so nothing is lost by going back and forth.
//
// # The old slot stays as it was
//
// This is promise P5 of the design: until the new version has settled, the old
// state is what the node goes back to. Permission bits cannot keep it (root
// passes them, and a crash would leave them changed), so the program is given
// the old slot, and the future object's state with it, either through read-only
// mounts in a mount namespace of its own (Linux, with CAP_SYS_ADMIN), or else as
// copies without write permission, at the price of time and disk (NeedBytes
// counts it). Both guard against mistakes; a program that runs as root and sets
// out to undo the mount can. Therefore, and because something else might write
// there, what it was given is in any case compared before and after by each
// entry's name, kind, mode, size, inode, modification and change time. A
// difference fails the transform with ErrOldChanged.
package transforms
