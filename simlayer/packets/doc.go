// Package packets passes the datagrams of UDP callers on to a node's software, and
// its answers back.
//
// A [Relay] serves one address. Where datagrams go, whether they wait, and what is
// counted of them its [Target] says, which it asks for each of them; so a change of
// the way takes effect between two datagrams. Callers are told apart by their own
// address, and have a session each: a socket of its own to the node. While the way
// leads nowhere for a time, datagrams wait in their order, within [Limits].
//
// An [Aside] is a relay for programs of this machine that ask after the software
// while its callers are held.
package packets
