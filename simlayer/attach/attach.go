package attach

import (
	"errors"
	"log/slog"
	"net/netip"
)

// Kind is a way to bring callers to the node's socket, or a part of one.
type Kind string

const (
	// KindInherit is a Pair.
	KindInherit Kind = "inherit"
	// KindSteer is a Steer.
	KindSteer Kind = "steer"
	// KindTake is taking a socket from another process: a Steer needs it of
	// software, which is unaware of it, and a Pair after the agent's restart.
	KindTake Kind = "take"
)

var (
	// ErrNotSupported says that this system cannot do it at all: another
	// operating system, an older kernel, one built without it, no BPF file system.
	ErrNotSupported = errors.New("not supported on this system")
	// ErrNotPermitted says that this process has not the right to.
	ErrNotPermitted = errors.New("not permitted")
	// ErrNotFound says that no process has such a socket, or that no BPF file
	// system is mounted.
	ErrNotFound = errors.New("not found")
	// ErrShared says that others have sockets of the same address in the same
	// SO_REUSEPORT group.
	ErrShared = errors.New("another process listens on the same address")
	// ErrSocket says that a socket cannot serve the address: another protocol,
	// address family or state. The text says which and what to do.
	ErrSocket = errors.New("unsuitable socket")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("closed")
)

// DefaultBPFFS is where systems usually mount the BPF file system.
const DefaultBPFFS = "/sys/fs/bpf"

// Options says how a Steer is made.
type Options struct {
	// Entries is how many addresses it can hold; 0 is DefaultEntries. What an
	// earlier agent pinned keeps its own.
	Entries int
	// Logger gets what is adopted or replaced; nil is none.
	Logger *slog.Logger
}

// Entry is one address that a Steer points at a socket.
type Entry struct {
	Network string // "tcp" or "udp"
	Addr    netip.AddrPort
	// Cookie is the kernel's number of the socket (SO_COOKIE).
	Cookie uint64
}

// Members is what must be known of the two sockets of a Pair to take them back
// after the agent's death: their numbers (SO_COOKIE), which nothing else has until
// the machine starts anew, and their order.
type Members struct {
	Node  uint64 `json:"node"`
	Agent uint64 `json:"agent"`
	// NodeFirst says that the node's has the first place of the group.
	NodeFirst bool `json:"node_first,omitempty"`
}
