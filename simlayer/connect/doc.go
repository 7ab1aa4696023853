// Package connect lets the kernel send a node's calls to the address at which a
// peer answers callers of the node's version. Nothing of the traffic passes
// through the agent.
//
// The node runs in a cgroup (v2) of its own. BPF programs that are attached to
// that cgroup look up the destination of every connect, and of every datagram
// that is sent unconnected, in a [Table]. What is in the table is replaced by the
// address that stands there; all else passes untouched, and so does everything
// outside the cgroup. The software sees the address that it called: from
// getpeername and as the sender of datagrams.
//
// IPv4 and IPv6 are covered, also IPv4 addresses in IPv6 form (::ffff:10.0.0.1),
// and TCP and UDP. A socket of multipath TCP gets where it should, but shows the
// address at which it is: the kernel asks about one of its paths, which nobody
// remembers.
//
// # Life
//
// Programs, table and attachments are pinned in a BPF file system ([Options].Dir),
// so they go on when the agent dies; the next [Open] with the same options takes
// them over, and the table stays as it was until its first [Connect.Set]. Set
// replaces the whole table in one instant: a program sees either the old one or
// the new one, and never an entry half written. [Connect.Remove] undoes it all.
//
// Connections that are open stay as they are, whatever the table says later.
//
// # Binding
//
// A [Binder] is for software that takes calls by UDP and opens its socket by itself.
// A program on the same cgroup has it bound, with SO_REUSEPORT, to the address that its
// callers call, so that its answers come from there; the software believes that it has
// the address that it was told, until it asks. Nothing of that is pinned: it matters
// when the software starts, which an agent does.
//
// # Needs
//
// Linux 5.11 or newer, the right to load BPF programs of networks and to attach
// them (root, or CAP_BPF with CAP_NET_ADMIN), a mounted cgroup v2 and a mounted BPF
// file system. [Probe] tells what is missing.
package connect
