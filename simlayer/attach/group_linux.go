package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// member is a socket of a group: a *net.TCPListener or a *net.UDPConn.
type member interface {
	syscall.Conn
	io.Closer
	File() (*os.File, error)
}

func memberOf(f *os.File) (member, error) {
	s, err := inspectFile(f)
	if err != nil {
		return nil, err
	}
	if s.kind == unix.SOCK_DGRAM {
		pc, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		return asMember(pc)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return asMember(ln)
}

// asMember closes what is none.
func asMember(sock io.Closer) (member, error) {
	m, ok := sock.(member)
	if !ok {
		sock.Close()
		return nil, fmt.Errorf("%w: it is neither a listening TCP socket nor one of UDP", ErrSocket)
	}
	return m, nil
}

// members fails unless this many sockets have the address of one.
func members(s socket, want int) error {
	n, err := socketsAt(s)
	switch {
	case err != nil:
		return fmt.Errorf("count the sockets of %s: %w", s.local, err)
	case n > want:
		return fmt.Errorf("%w: %s has %d sockets besides: end that process (an earlier agent or node?) or configure another address", ErrShared, s.local, n-want)
	case n < want:
		return fmt.Errorf("%d sockets have %s, want %d: is /proc that of another network namespace?", n, s.local, want)
	}
	return nil
}

// listenMember opens a socket that joins the group of its address. The function
// gets the descriptor before it is bound.
func listenMember(ctx context.Context, network, addr string, before func(fd int) error) (member, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var failed error
		err := rc.Control(func(fd uintptr) {
			if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); failed == nil && before != nil {
				failed = before(int(fd))
			}
		})
		return errors.Join(err, failed)
	}}
	sock, err := listenBy(ctx, lc, network, addr)
	if err != nil {
		return nil, err
	}
	return asMember(sock)
}

// listenBy opens a socket of either protocol.
func listenBy(ctx context.Context, lc net.ListenConfig, network, addr string) (io.Closer, error) {
	lc.SetMultipathTCP(false)
	if datagrams(network) {
		pc, err := lc.ListenPacket(ctx, network, addr)
		if err != nil {
			return nil, inUse(err)
		}
		return pc, nil
	}
	ln, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, inUse(err)
	}
	return ln, nil
}

func datagrams(network string) bool { return strings.HasPrefix(network, "udp") }

// oneAddress fails for a wildcard of UDP.
func oneAddress(network, addr string) error {
	if !datagrams(network) {
		return nil
	}
	at, err := net.ResolveUDPAddr(network, addr)
	if err != nil {
		return err
	}
	if at.IP == nil || at.IP.IsUnspecified() {
		return fmt.Errorf("%w: software that has all addresses of UDP may answer from another one than was called: configure one address, or attach it by relay", ErrSocket)
	}
	return nil
}

// unused fails where somebody has an address. A socket with SO_REUSEPORT
// would not fail, but take callers of a group that is not its own.
func unused(ctx context.Context, network, addr string) error {
	if _, port, err := net.SplitHostPort(addr); err == nil && port == "0" {
		return nil
	}
	sock, err := listenBy(ctx, net.ListenConfig{}, network, addr)
	if err != nil {
		return err
	}
	return sock.Close()
}

func inUse(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("it is in use: stop the program that has it, or configure another address (a node that runs on can only be joined by an agent of the same user): %w", err)
	}
	return err
}
