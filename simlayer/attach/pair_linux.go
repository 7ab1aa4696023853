package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pair is one TCP address with two listening sockets, the agent's and the
// node's. Its methods may be called at the same time.
type Pair struct {
	agent *net.TCPListener
	addr  netip.AddrPort

	// The places of the two in the group.
	agentIndex, nodeIndex uint32

	mu     sync.Mutex
	node   *os.File // under mu; nil once closed
	toNode bool     // under mu
}

// ListenPair binds both sockets of an address, "host:port" as for net.Listen;
// with port 0 the kernel chooses one for both. New connections go to the agent.
// The network is "tcp", "tcp4" or "tcp6". The error is EADDRINUSE where somebody
// listens there already (a node that runs on without its agent is for AdoptPair),
// and ErrShared where somebody of the same user joined in the same instant.
func ListenPair(ctx context.Context, network, addr string) (*Pair, error) {
	p, err := listenPair(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the agent and the node: %w", addr, err)
	}
	return p, nil
}

func listenPair(ctx context.Context, network, addr string) (*Pair, error) {
	if err := unused(ctx, network, addr); err != nil {
		return nil, err
	}
	// The program is there before the group is: no connection is ever spread.
	agent, err := listenMember(ctx, network, addr, func(fd int) error { return direct(fd, 0) })
	if err != nil {
		return nil, err
	}
	p := &Pair{agent: agent, agentIndex: 0, nodeIndex: 1}
	fail := func(err error) (*Pair, error) { p.Close(); return nil, err }
	s, err := inspectListener(agent)
	if err != nil {
		return fail(err)
	}
	p.addr = s.local
	// Before the second socket joins: who is here already has the first place.
	if err := alone(s.local); err != nil {
		return fail(err)
	}
	node, err := listenMember(ctx, s.network(), s.local.String(), nil)
	if err != nil {
		return fail(err)
	}
	p.node, err = node.File()
	node.Close()
	if err != nil {
		return fail(err)
	}
	if err := both(s.local); err != nil {
		return fail(err)
	}
	return p, nil
}

// AdoptPair is ListenPair for an agent that comes back while the node's software
// runs on: a new socket of the agent's joins the node's, which [Take] finds in
// the software. New connections go on to the node. The node's file stays the
// caller's, who may close it. It fails with ErrShared where another process has
// a socket of the address, an earlier agent that still runs perhaps.
func AdoptPair(ctx context.Context, addr string, node *os.File) (*Pair, error) {
	p, err := adoptPair(ctx, addr, node)
	if err != nil {
		return nil, fmt.Errorf("take the running node's socket of %s back: %w", addr, err)
	}
	return p, nil
}

func adoptPair(ctx context.Context, addr string, node *os.File) (*Pair, error) {
	s, err := inspectFile(node)
	if err != nil {
		return nil, err
	}
	if err := adoptable(s, addr); err != nil {
		return nil, err
	}
	if err := alone(s.local); err != nil {
		return nil, err
	}
	p := &Pair{addr: s.local, nodeIndex: 0, agentIndex: 1, toNode: true}
	if p.node, err = dup(node); err != nil {
		return nil, err
	}
	fail := func(err error) (*Pair, error) { p.Close(); return nil, err }
	// The place that the node has now, and keeps, before there is a second one.
	if err := control(p.node, func(fd int) error { return direct(fd, p.nodeIndex) }); err != nil {
		return fail(err)
	}
	if p.agent, err = listenMember(ctx, s.network(), s.local.String(), nil); err != nil {
		return fail(err)
	}
	if err := both(s.local); err != nil {
		return fail(err)
	}
	return p, nil
}

// adoptable says whether a socket is one that ListenPair made for the address.
func adoptable(s socket, addr string) error {
	if s.kind != unix.SOCK_STREAM || !s.listening || s.protocol != unix.IPPROTO_TCP {
		return fmt.Errorf("%w: it is no listening TCP socket", ErrSocket)
	}
	if !s.reuseport {
		return fmt.Errorf("%w: the software opened it itself (it lacks SO_REUSEPORT), so the agent cannot join it: restart the software, or attach it by steer", ErrSocket)
	}
	want, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return err
	}
	ip, _ := netip.AddrFromSlice(want.IP)
	wild := !ip.IsValid() || ip.IsUnspecified()
	if same := wild && s.local.Addr().IsUnspecified() || s.local.Addr().Unmap() == ip.Unmap().WithZone(want.Zone); !same || want.Port != 0 && want.Port != int(s.local.Port()) {
		return fmt.Errorf("%w: it is bound to %s", ErrSocket, s.local)
	}
	return nil
}

// alone fails unless exactly one socket listens on an address, both unless two do.
func alone(local netip.AddrPort) error { return members(local, 1) }
func both(local netip.AddrPort) error  { return members(local, 2) }

func members(local netip.AddrPort, want int) error {
	n, err := listenersAt(local)
	switch {
	case err != nil:
		return fmt.Errorf("count the sockets of %s: %w", local, err)
	case n > want:
		return fmt.Errorf("%w: %s has %d sockets besides: end that process (an earlier agent or node?) or configure another address", ErrShared, local, n-want)
	case n < want:
		return fmt.Errorf("%d sockets listen on %s, want %d: is /proc that of another network namespace?", n, local, want)
	}
	return nil
}

// listenMember opens a socket that joins the group of its address. The function
// gets the descriptor before it is bound.
func listenMember(ctx context.Context, network, addr string, before func(fd int) error) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var failed error
		err := rc.Control(func(fd uintptr) {
			if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); failed == nil && before != nil {
				failed = before(int(fd))
			}
		})
		return errors.Join(err, failed)
	}}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, inUse(err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return nil, fmt.Errorf("network %q: want tcp, tcp4 or tcp6", network)
	}
	return tcp, nil
}

// unused fails where somebody listens on an address. A socket with SO_REUSEPORT
// would not fail, but take callers of a group that is not its own.
func unused(ctx context.Context, network, addr string) error {
	if _, port, err := net.SplitHostPort(addr); err == nil && port == "0" {
		return nil
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return inUse(err)
	}
	return ln.Close()
}

func inUse(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("it is in use: stop the program that has it, or configure another address (a node that runs on can only be joined by an agent of the same user): %w", err)
	}
	return err
}

func inspectListener(ln *net.TCPListener) (s socket, err error) {
	rc, err := ln.SyscallConn()
	if err != nil {
		return s, err
	}
	if cerr := rc.Control(func(fd uintptr) { s, err = inspect(int(fd)) }); cerr != nil {
		return s, cerr
	}
	return s, err
}

// direct makes the group of a socket give new connections to one place in it.
func direct(fd int, index uint32) error {
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: index}
	prog := unix.SockFprog{Len: 1, Filter: &ret}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog); err != nil {
		return fmt.Errorf("say which socket gets new connections (SO_ATTACH_REUSEPORT_CBPF): %w", permission(err))
	}
	return nil
}

// Addr is the address of both sockets, with the port that the kernel chose.
func (p *Pair) Addr() netip.AddrPort { return p.addr }

// Agent is the listener that accepts what comes to the agent's socket. It is the
// Pair's; closing it leaves all new connections to the node.
func (p *Pair) Agent() net.Listener { return p.agent }

// Node returns a descriptor of the node's socket to give to the software, in
// blocking mode as systemd does it; the caller closes it. Close what Strays
// returned first. The Pair keeps its own descriptor, so the queue outlives the
// software.
func (p *Pair) Node() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		return nil, fmt.Errorf("the node's socket of %s: %w", p.addr, ErrClosed)
	}
	err := control(p.node, func(fd int) error { return unix.SetNonblock(fd, false) })
	if err != nil {
		return nil, fmt.Errorf("the node's socket of %s: %w", p.addr, err)
	}
	return dup(p.node)
}

// Point says where new connections go from now on: to the node or the agent. It
// is atomic. Those whose first packet has come stay where they are.
func (p *Pair) Point(node bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		return fmt.Errorf("point %s: %w", p.addr, ErrClosed)
	}
	index := p.agentIndex
	if node {
		index = p.nodeIndex
	}
	if err := control(p.node, func(fd int) error { return direct(fd, index) }); err != nil {
		return fmt.Errorf("point %s: %w", p.addr, err)
	}
	p.toNode = node
	return nil
}

// ToNode says where new connections go.
func (p *Pair) ToNode() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.toNode
}

// Strays is [Strays] for the node's socket.
func (p *Pair) Strays() (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		return nil, fmt.Errorf("the node's socket of %s: %w", p.addr, ErrClosed)
	}
	return Strays(p.node)
}

// Close closes the agent's listener and the agent's hold on the node's socket. A
// node that has its own serves on and gets all new connections. An agent that
// leaves it so calls Point(true) first, and accepts what is queued at its own
// socket: closing that resets them.
func (p *Pair) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	if p.agent != nil {
		if err := p.agent.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if p.node != nil {
		errs = append(errs, p.node.Close())
		p.node = nil
	}
	return errors.Join(errs...)
}
