//go:build !linux

package attach

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
)

func unsupported(what string) error {
	return fmt.Errorf("%s: %w: it needs Linux, this is %s: use attach = relay", what, ErrNotSupported, runtime.GOOS)
}

// Pair is one address with two sockets. See the Linux version.
type Pair struct{}

// ListenPair is not supported here.
func ListenPair(_ context.Context, _, addr string) (*Pair, error) {
	return nil, unsupported("listen on " + addr + " for the agent and the node")
}

// AdoptPair is not supported here.
func AdoptPair(_ context.Context, addr string, _ Members, _, _ *os.File) (*Pair, error) {
	return nil, unsupported("take the running node's socket of " + addr + " back")
}

// ListenOpen is not supported here.
func ListenOpen(_ context.Context, _, addr string) (*Pair, error) {
	return nil, unsupported("listen on " + addr + " beside the node")
}

// AdoptOpen is not supported here.
func AdoptOpen(_ context.Context, addr string, _ *os.File) (*Pair, error) {
	return nil, unsupported("take the agent's socket of " + addr + " back")
}

// Open is not supported here.
func (*Pair) Open() bool { return false }

// Bound is not supported here.
func Bound(uint16) (bool, error) { return false, unsupported("list sockets") }

// Joined is not supported here.
func (*Pair) Joined() (bool, error) { return false, unsupported("list sockets") }

// TakeOther is not supported here.
func TakeOther(_ []int, network string, addr netip.AddrPort, _ uint64) (*os.File, error) {
	return nil, unsupported("take the socket of " + network + " " + addr.String())
}

// Addr is not supported here.
func (*Pair) Addr() netip.AddrPort { return netip.AddrPort{} }

// Agent is not supported here.
func (*Pair) Agent() net.Listener { return nil }

// Packets is not supported here.
func (*Pair) Packets() *net.UDPConn { return nil }

// Node is not supported here.
func (*Pair) Node() (*os.File, error) { return nil, unsupported("the node's socket") }

// Point is not supported here.
func (*Pair) Point(bool) error { return unsupported("point an address") }

// Hold is not supported here.
func (*Pair) Hold() (*os.File, error) { return nil, unsupported("the agent's socket") }

// Members is not supported here.
func (*Pair) Members() (Members, error) { return Members{}, unsupported("number sockets") }

// Strays is not supported here.
func (*Pair) Strays() (net.Listener, error) {
	return nil, unsupported("accept what is left at the node's socket")
}

// StrayPackets is not supported here.
func (*Pair) StrayPackets() (*net.UDPConn, error) {
	return nil, unsupported("read what is left at the node's socket")
}

// Close is not supported here.
func (*Pair) Close() error { return nil }

// Strays is not supported here.
func Strays(*os.File) (net.Listener, error) {
	return nil, unsupported("accept what is left at the node's socket")
}

// Take is not supported here.
func Take(_ []int, network string, addr netip.AddrPort) (*os.File, error) {
	return nil, unsupported("take the socket of " + network + " " + addr.String())
}

// TakeCookies is not supported here.
func TakeCookies([]int, ...uint64) ([]*os.File, error) {
	return nil, unsupported("take the running node's sockets")
}

// DialControl does nothing: here nobody looks at marks.
func DialControl(context.Context, string, string, syscall.RawConn) error { return nil }

// Family is not supported here.
func Family(int) ([]int, error) { return nil, unsupported("list processes") }

// Steer points public addresses at sockets of the node's. See the Linux version.
type Steer struct{}

// OpenSteer is not supported here.
func OpenSteer(dir string, _ Options) (*Steer, error) {
	return nil, unsupported("steer callers from " + dir)
}

// Adopted is not supported here.
func (*Steer) Adopted() bool { return false }

// Point is not supported here.
func (*Steer) Point(network string, addr netip.AddrPort, _ *os.File) error {
	return unsupported("steer " + network + " " + addr.String())
}

// PointOneWay is not supported here.
func (*Steer) PointOneWay(network string, addr netip.AddrPort, _ *os.File) error {
	return unsupported("steer " + network + " " + addr.String())
}

// Clear is not supported here.
func (*Steer) Clear(network string, addr netip.AddrPort) error {
	return unsupported("end steering " + network + " " + addr.String())
}

// Pointed is not supported here.
func (*Steer) Pointed() ([]Entry, error) { return nil, unsupported("list steered addresses") }

// Settle is not supported here.
func (*Steer) Settle() error { return unsupported("settle steering") }

// Remove is not supported here.
func (*Steer) Remove() error { return unsupported("end steering") }

// Close is not supported here.
func (*Steer) Close() error { return nil }

// FindBPFFS is not supported here.
func FindBPFFS() (string, error) { return "", unsupported("find a BPF file system") }

// MountBPFFS is not supported here.
func MountBPFFS(path string) error { return unsupported("mount a BPF file system on " + path) }

// Probe says that no Kind works here.
func Probe(kind Kind) error { return unsupported("attach by " + string(kind)) }
