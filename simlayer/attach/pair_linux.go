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

// Pair is one address with two sockets, the agent's and the node's: of TCP, which
// listen, or of UDP. What is said of connections is of datagrams there: each goes
// its way by itself. Its methods may be called at the same time.
type Pair struct {
	agent   member
	addr    netip.AddrPort
	network string

	// The places of the two in the group.
	agentIndex, nodeIndex uint32
	open                  bool // the node's is not ours

	mu   sync.Mutex
	node *os.File // under mu; nil once closed, and if open
}

// ListenPair binds both sockets of an address, "host:port" as for net.Listen;
// with port 0 the kernel chooses one for both. New connections go to the agent.
// The network is "tcp" or "udp", perhaps with a 4 or 6 behind it. The error is
// EADDRINUSE where somebody has the address already (a node that runs on without
// its agent is for AdoptPair), and ErrShared where somebody of the same user joined
// in the same instant. An address of UDP must not be a wildcard (ErrSocket): the
// software's answers might come from another address than was called.
func ListenPair(ctx context.Context, network, addr string) (*Pair, error) {
	p, err := listenPair(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the agent and the node: %w", addr, err)
	}
	return p, nil
}

func listenPair(ctx context.Context, network, addr string) (*Pair, error) {
	p, s, err := listenAgent(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	// Before the second socket joins: who is here already has the first place.
	err = members(s, 1)
	if err == nil {
		p.node, err = p.newNode(ctx)
	}
	if err == nil {
		err = members(s, 2)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// listenAgent opens the agent's socket, which has the first place.
func listenAgent(ctx context.Context, network, addr string) (*Pair, socket, error) {
	var s socket
	err := oneAddress(network, addr)
	if err == nil {
		err = unused(ctx, network, addr)
	}
	if err != nil {
		return nil, s, err
	}
	// The program is there before the group is: no connection is ever spread.
	agent, err := listenMember(ctx, network, addr, func(fd int) error { return direct(fd, 0, 1) })
	if err != nil {
		return nil, s, err
	}
	if s, err = inspectFile(agent); err != nil {
		agent.Close()
		return nil, s, err
	}
	return &Pair{agent: agent, agentIndex: 0, nodeIndex: 1, addr: s.local, network: s.network()}, s, nil
}

// AdoptPair is ListenPair for an agent that comes back while the node's software
// runs on. m is what an earlier agent noted (Pair.Members), and node and agent are
// the sockets that [TakeCookies] finds in the software by it; one may be nil, where
// the software has closed it. They stay the caller's, who may close them.
//
// With both, new connections go where they went before, until Point. With the
// node's alone the agent gets a new socket, and new connections go to the node.
// With the agent's alone the node gets a new one, for the next software, and new
// connections go to the agent.
//
// It fails with ErrShared where another process has a socket of the address, an
// earlier agent that still runs perhaps.
func AdoptPair(ctx context.Context, addr string, m Members, node, agent *os.File) (*Pair, error) {
	p, err := adoptPair(ctx, addr, m, node, agent)
	if err != nil {
		return nil, fmt.Errorf("take the running node's socket of %s back: %w", addr, err)
	}
	return p, nil
}

func adoptPair(ctx context.Context, addr string, m Members, node, agent *os.File) (*Pair, error) {
	if node == nil && agent == nil {
		return nil, fmt.Errorf("%w: neither of its sockets is open any more", ErrNotFound)
	}
	p, count := &Pair{agentIndex: 1}, 0
	var s socket
	for _, f := range []*os.File{node, agent} {
		if f == nil {
			continue
		}
		var err error
		if s, err = inspectFile(f); err == nil {
			err = adoptable(s, addr)
		}
		if err == nil && count > 0 && s.network() != p.network {
			err = fmt.Errorf("%w: one is of %s and one of %s", ErrSocket, p.network, s.network())
		}
		if err != nil {
			return nil, err
		}
		p.addr, p.network = s.local, s.network()
		count++
	}
	// Who is alone has the first place, and keeps it. Of two, nobody has left.
	if agent != nil && (node == nil || !m.NodeFirst) {
		p.agentIndex, p.nodeIndex = 0, 1
	}
	if err := members(s, count); err != nil {
		return nil, err
	}
	err := p.rejoin(ctx, node, agent)
	if err == nil {
		err = members(s, 2)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// rejoin opens what is missing. What is there gets the program before: a second
// member changes nothing then.
func (p *Pair) rejoin(ctx context.Context, node, agent *os.File) (err error) {
	if agent != nil {
		if p.agent, err = memberOf(agent); err != nil {
			return err
		}
	} else {
		if err := control(node, func(fd int) error { return direct(fd, p.nodeIndex, p.nodeIndex) }); err != nil {
			return err
		}
		if p.agent, err = listenMember(ctx, p.network, p.addr.String(), nil); err != nil {
			return err
		}
	}
	if node != nil {
		p.node, err = dup(node)
		return err
	}
	if err := control(agent, func(fd int) error { return direct(fd, p.agentIndex, p.nodeIndex) }); err != nil {
		return err
	}
	p.node, err = p.newNode(ctx)
	return err
}

// newNode opens a socket for the node, as the last of the group.
func (p *Pair) newNode(ctx context.Context) (*os.File, error) {
	ln, err := listenMember(ctx, p.network, p.addr.String(), nil)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	return ln.File()
}

// adoptable says whether a socket is one that ListenPair made for the address.
func adoptable(s socket, addr string) error {
	stream := s.kind == unix.SOCK_STREAM && s.listening && s.protocol == unix.IPPROTO_TCP
	if !stream && (s.kind != unix.SOCK_DGRAM || s.protocol != unix.IPPROTO_UDP || s.connected) {
		return fmt.Errorf("%w: it is neither a listening TCP socket nor an unconnected one of UDP", ErrSocket)
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

// Addr is the address of both sockets, with the port that the kernel chose.
func (p *Pair) Addr() netip.AddrPort { return p.addr }

// Agent is the listener that accepts what comes to the agent's socket; nil for an
// address of UDP. It is the Pair's; closing it leaves all new connections to the
// node.
func (p *Pair) Agent() net.Listener {
	if ln, ok := p.agent.(*net.TCPListener); ok {
		return ln
	}
	return nil
}

// Packets is the agent's socket of UDP, as Agent is of TCP; nil there.
func (p *Pair) Packets() *net.UDPConn {
	pc, _ := p.agent.(*net.UDPConn)
	return pc
}

// Node returns a descriptor of the node's socket to give to the software, in
// blocking mode as systemd does it; the caller closes it. Close what Strays
// returned first. The Pair keeps its own descriptor, so the queue outlives the
// software.
func (p *Pair) Node() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		return nil, p.lacksNode()
	}
	err := control(p.node, func(fd int) error { return unix.SetNonblock(fd, false) })
	if err != nil {
		return nil, fmt.Errorf("the node's socket of %s: %w", p.addr, err)
	}
	return dup(p.node)
}

// lacksNode says why the Pair has no socket of the node's.
func (p *Pair) lacksNode() error {
	why := ErrClosed
	if p.open {
		why = fmt.Errorf("%w: the software opens it by itself", ErrSocket)
	}
	return fmt.Errorf("the node's socket of %s: %w", p.addr, why)
}

// Hold returns a descriptor of the agent's socket, which the software is to keep
// open and not to use: should the agent die, callers of it wait in the kernel for
// the next agent, and never reach the node instead. The caller closes it. It stays
// non-blocking.
func (p *Pair) Hold() (*os.File, error) {
	f, err := still(p.agent)
	if err != nil {
		return nil, fmt.Errorf("the agent's socket of %s: %w", p.addr, err)
	}
	return f, nil
}

// still duplicates a socket for os/exec. A File that finds its descriptor
// non-blocking makes it blocking when it is given away, for all who share it, and
// the agent's accept would never end. So this File is made of another descriptor,
// which the socket's then replaces.
func still(sock syscall.Conn) (*os.File, error) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	f := os.NewFile(uintptr(fd), "the agent's socket")
	if err := control(sock, func(from int) error { return unix.Dup3(from, fd, unix.O_CLOEXEC) }); err != nil {
		f.Close()
		return nil, fmt.Errorf("duplicate a socket: %w", err)
	}
	return f, nil
}

// Members returns what AdoptPair needs to know of the two sockets, or AdoptOpen of the
// agent's.
func (p *Pair) Members() (Members, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := Members{NodeFirst: p.nodeIndex < p.agentIndex}
	if p.node == nil && !p.open {
		return m, fmt.Errorf("the sockets of %s: %w", p.addr, ErrClosed)
	}
	ask := func(to *uint64) func(fd int) error {
		return func(fd int) (err error) {
			*to, err = cookie(fd)
			return err
		}
	}
	err := control(p.agent, ask(&m.Agent))
	if err == nil && p.node != nil {
		err = control(p.node, ask(&m.Node))
	}
	if err != nil {
		return m, fmt.Errorf("number the sockets of %s: %w", p.addr, err)
	}
	return m, nil
}

// Point says where new connections go from now on: to the node or the agent. It
// is atomic. Those whose first packet has come stay where they are. The agent's
// own ([DialControl]) go to the node in any case.
func (p *Pair) Point(node bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var of syscall.Conn = p.node // any of the group
	switch {
	case p.open:
		of = p.agent
	case p.node == nil:
		return fmt.Errorf("point %s: %w", p.addr, ErrClosed)
	}
	index := p.agentIndex
	if node {
		index = p.nodeIndex
	}
	if err := control(of, func(fd int) error { return direct(fd, index, p.nodeIndex) }); err != nil {
		return fmt.Errorf("point %s: %w", p.addr, err)
	}
	return nil
}

// Strays is [Strays] for the node's socket.
func (p *Pair) Strays() (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		return nil, p.lacksNode()
	}
	return Strays(p.node)
}

// StrayPackets is Strays for an address of UDP: a socket that has the datagrams
// which the software has not read.
func (p *Pair) StrayPackets() (*net.UDPConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		return nil, p.lacksNode()
	}
	sock, err := memberOf(p.node)
	if err != nil {
		return nil, fmt.Errorf("read what is left at the node's socket %s: %w", p.addr, err)
	}
	pc, ok := sock.(*net.UDPConn)
	if !ok {
		sock.Close()
		return nil, fmt.Errorf("read what is left at the node's socket %s: %w: it is not of UDP", p.addr, ErrSocket)
	}
	return pc, nil
}

// Close closes the agent's socket and the agent's hold on the node's socket. A
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
