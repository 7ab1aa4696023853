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
//   - Exit 0 is done, 21 is "try later" (ErrLater), all else is *Failed.
//   - It is killed with its process group at its time limit, when the new slot
//     outgrows its disk limit, when the disk is nearly full, and when the
//     agent asks. On Linux it is also killed when the agent dies, and so is
//     whatever left the group but kept MOULT_NEW in its environment.
//   - Its memory limit is, on Linux, RLIMIT_DATA of each of its processes: the
//     heap that may be written. (RLIMIT_AS would count address space that is
//     only reserved, of which Go and Java programs take gigabytes.) A Go
//     program needs some 128 MiB before it has done anything. Elsewhere there
//     is no memory limit.
//
// # The old slot stays as it was
//
// This is promise P5 of the design: until the new version has settled, the old
// state is what the node goes back to. Permission bits cannot keep it (root
// passes them, and a crash would leave them changed), so the program is given
// either the old slot through a read-only mount in a mount namespace of its
// own (Linux, with CAP_SYS_ADMIN), or else a copy of it without write
// permission, at the price of time and disk (NeedBytes counts it). Both guard
// against mistakes; a program that runs as root and sets out to undo the mount
// can. Therefore, and because something else might write there, the old slot
// is in any case compared before and after by each entry's name, kind, mode,
// size, inode, modification and change time. A difference fails the transform
// with ErrOldChanged.
package transforms
