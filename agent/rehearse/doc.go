// Package rehearse runs a release on a copy of a node's own state, while the node's
// software runs on and nobody notices.
//
// [Run] does it, in two processes of this binary (see [Main]) that end with the agent and
// give way to everything else on the machine:
//
//   - The first makes the copy: by the release's snapshot program, or file by file, while
//     the software writes to them.
//   - The second has, on Linux, a network of its own with nothing but a loopback interface,
//     so that no byte leaves it and no address is taken, and, where it may, processes of its
//     own, which end with it and see no other. It runs every transform of the
//     path on the copy, as [transforms.Runner] runs the real ones, starts the software on
//     what came of it by [process.Start], waits until it is healthy and stays so, and runs
//     the release's check against it, and against the simulation object that will answer
//     callers of the version before.
//
// Where the agent may not make such a network, the rehearsal ends with the transforms and
// says so: a second node with this one's name must not call anybody.
//
// While it runs, some of the machine's memory and disk stay free, or it is ended: that is no
// fault of the release.
//
// All of it is in one folder, which is removed in the end; [Sweep] removes what an agent
// has left that was killed, and ends what may still run there. Every process has the
// folder's name in its environment, by which it is found.
//
// What the release itself fails at is an [Unfit]. Any other error says nothing against it
// and may be over when it is tried again, as a disk without room is.
package rehearse
