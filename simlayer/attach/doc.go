// Package attach brings the callers of an address to a socket of the node's own,
// inside the kernel, so that calls between equal versions cost nothing. The
// agent keeps a listening socket of the same address, which gets the callers
// whenever the node must not or cannot have them.
//
// # Inherit
//
// A [Pair] is one TCP address with two listening sockets, the agent's and the
// node's, in one SO_REUSEPORT group. A classic BPF program of one instruction
// says which of the two gets a new connection, and [Pair.Point] exchanges it in
// one system call. No right is needed but that all sockets of a group belong to
// one user. The node gets its socket as systemd would give it ([Pair.Node]); the
// agent keeps a duplicate, so that what is queued there outlives the software.
//
// The program names a socket by its place in the group. The kernel appends who
// joins, and puts the last in the place of who leaves. So in a fresh Pair the
// agent is 0 and the node 1; where the agent died the node is alone at 0, and
// both a 0 and an out-of-range 1 lead to it, the latter because the kernel then
// falls back to spreading by hash, over one member. An agent that comes back
// ([AdoptPair]) sets 0 before its new socket joins as 1: no connection changes
// its way at that. A stranger in the group would make the places wrong, so
// both constructors count the sockets of the address, and refuse.
//
// # Steer
//
// A [Steer] is an sk_lookup program, attached to the network namespace, and a
// map from public addresses to sockets that the node opened itself, anywhere;
// [Take] gets hold of one in an unaware process. Program and map are pinned in a
// BPF file system, so that they outlive the agent, which finds them again with
// [OpenSteer]. The kernel removes the entry of a socket when its last holder
// closes it; callers then reach the agent's listener, as they do where the
// program fails to assign the socket. A program takes effect where a listener is
// looked up: once a TCP connection, once a UDP datagram that no connected socket
// takes. Several agents may attach programs to one namespace: each passes on
// what is not its own, and of two that have an entry for one address the one
// attached last wins.
//
// # Strays
//
// A connection belongs to the socket that its first packet met. After a change
// of direction some are still queued at the earlier socket or on the way there.
// The agent's are accepted as ever; the node's, once its software has ended, by
// [Strays] over the duplicate of the node's socket. Where nobody keeps one, they
// are reset with the software, as without moult.
package attach
