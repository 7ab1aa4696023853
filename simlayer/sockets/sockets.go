// Package sockets tells what the kernel knows of the TCP connections to software that
// serves its callers past the layer, where the layer itself sees no call begin or end.
package sockets

import "net/netip"

// Ends are those of a connection.
type Ends struct{ Local, Remote netip.AddrPort }

// Conn is a connection that a caller has to software.
type Conn struct {
	Ends
	// Unanswered: something has come by it that the software has not read, or after which
	// it has sent nothing. The kernel counts in its ticks, of some milliseconds: a call
	// that comes in the very tick of the answer before it is not noticed.
	Unanswered bool
}
