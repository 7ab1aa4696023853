// Package attach brings the callers of an address to a socket of the node's own,
// inside the kernel, so that calls between equal versions cost nothing. The
// agent keeps a listening socket of the same address, which gets the callers
// whenever the node must not or cannot have them.
//
// # Inherit
//
// A [Pair] is one address with two sockets, of TCP or UDP, the agent's and the
// node's, in one SO_REUSEPORT group. A classic BPF program says which of the two
// gets a new connection, and [Pair.Point] exchanges it in one system call. No right
// is needed but that all sockets of a group belong to one user. The node gets its
// socket as systemd would give it ([Pair.Node]), and needs no other; the agent keeps
// a duplicate, so that what is queued there outlives the software.
//
// The agent reaches the node's socket at any time, to ask after its health before
// it gets callers, and for the calls that it relays. Its connections
// ([DialControl]) carry a code point for local use in the field of the type of
// service (or traffic class), and come from the address that they go to, so from
// this machine; to both together the program gives the node's socket. Whoever may
// run programs on the machine may do the same: it is no protection from them.
//
// Of UDP each datagram goes its own way: what is said of connections holds for
// datagrams, and the agent's own are all that a marked socket sends. What is queued
// at the node's socket at a switch is the software's to read. Its answers come from
// the address that was called, for there its socket is bound; so that must not be a
// wildcard.
//
// The kernel gives the callers of a socket that is closed to the other of the
// group. Were that of an agent that dies, callers would reach a node that is not to
// have them. So the software holds the agent's socket open too ([Pair.Hold]),
// without knowing of it: callers of it wait in the kernel for the next agent, which
// finds both sockets in the software by their numbers ([TakeCookies]) and goes on
// with the same two ([AdoptPair]), pointed as they were. Software that closes what
// it does not know loses that, no more.
//
// The program names a socket by its place in the group. The kernel appends who
// joins, and puts the last in the place of who leaves. So in a fresh Pair the
// agent is 0 and the node 1, and they stay so while both are open, whoever holds
// them ([Members]). Who is alone is at 0, and both a 0 and an out-of-range 1 lead
// to it, the latter because the kernel then falls back to spreading by hash, over
// one member. An agent that finds only one of the two sets 0 before a new socket
// joins as 1: no connection changes its way at that. A stranger in the group would
// make the places wrong, so both constructors count the sockets of the address, and
// refuse.
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
