package config

// How callers of a service's public address reach the node.
const (
	AttachAuto    = "auto"    // the best that works here
	AttachRelay   = "relay"   // the agent accepts and relays
	AttachInherit = "inherit" // the node is started with the listening socket
	AttachSteer   = "steer"   // the kernel hands callers to the node's own socket
)

// How a node's calls find the peer's address for its version. A node has one
// way for all its services: a call says where it goes, not whose call it is.
const (
	EgressAuto    = "auto"    // the best that works here
	EgressProxy   = "proxy"   // by a proxy that its environment names
	EgressConnect = "connect" // the kernel rewrites the destination
	EgressResolve = "resolve" // the node asks the agent
)

// AttachWords and EgressWords list the words, for checks and messages.
func AttachWords() []string { return []string{AttachAuto, AttachRelay, AttachInherit, AttachSteer} }
func EgressWords() []string { return []string{EgressAuto, EgressProxy, EgressConnect, EgressResolve} }
