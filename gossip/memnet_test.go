package gossip

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memNetwork is a network in memory, fit for a synctest bubble: nothing in it
// blocks but by channels. Packets are lost and delayed; streams are reliable
// until a partition cuts them.
type memNetwork struct {
	mu    sync.Mutex // protects what follows
	rng   *rand.Rand
	loss  float64
	cut   func(from, to string) bool // by IP address
	hosts map[string]*memHost        // by ip:port
	conns map[*memConn]struct{}
	sent  int // bytes in packets
}

type memHost struct {
	network *memNetwork
	addr    *net.TCPAddr
	accept  chan net.Conn
	packets chan memPacket
	done    chan struct{}
	once    sync.Once
}

type memPacket struct {
	data []byte
	from net.Addr
}

func newMemNetwork(seed uint64, loss float64) *memNetwork {
	return &memNetwork{rng: rand.New(rand.NewPCG(seed, 0)), loss: loss, cut: func(string, string) bool { return false },
		hosts: map[string]*memHost{}, conns: map[*memConn]struct{}{}}
}

// at is the network as one host sees it.
func (n *memNetwork) at(ip string) Network { return memPort{n, ip} }

// partition cuts the network, and the streams that cross the cut; nil heals it.
func (n *memNetwork) partition(cut func(from, to string) bool) {
	n.mu.Lock()
	if cut == nil {
		cut = func(string, string) bool { return false }
	}
	n.cut = cut
	var crossing []*memConn
	for c := range n.conns {
		if cut(c.local, c.remote) {
			crossing = append(crossing, c)
		}
	}
	n.mu.Unlock()
	for _, c := range crossing {
		_ = c.Close()
	}
}

type memPort struct {
	network *memNetwork
	ip      string
}

func (p memPort) Listen(_ context.Context, addr string) (net.Listener, net.PacketConn, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	h := &memHost{network: p.network, addr: a, accept: make(chan net.Conn, 64),
		packets: make(chan memPacket, 256), done: make(chan struct{})}
	p.network.mu.Lock()
	defer p.network.mu.Unlock()
	if p.network.hosts[addr] != nil {
		return nil, nil, syscall.EADDRINUSE
	}
	p.network.hosts[addr] = h
	return memListener{h}, memPackets{h}, nil
}

func (p memPort) Dial(_ context.Context, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p.network.mu.Lock()
	defer p.network.mu.Unlock()
	h := p.network.hosts[addr]
	if h == nil || p.network.cut(p.ip, host) {
		return nil, &net.OpError{Op: "dial", Net: "mem", Err: syscall.ECONNREFUSED}
	}
	there, back := newMemHalf(), newMemHalf()
	a := &memConn{network: p.network, in: back, out: there, local: p.ip, remote: host}
	b := &memConn{network: p.network, in: there, out: back, local: host, remote: p.ip}
	for _, c := range []*memConn{a, b} {
		c.read = newMemDeadline()
		p.network.conns[c] = struct{}{}
	}
	select {
	case h.accept <- b:
		return a, nil
	default:
		return nil, &net.OpError{Op: "dial", Net: "mem", Err: syscall.ECONNREFUSED}
	}
}

func (h *memHost) close() {
	h.once.Do(func() {
		close(h.done)
		h.network.mu.Lock()
		defer h.network.mu.Unlock()
		delete(h.network.hosts, h.addr.String())
	})
}

type memListener struct{ *memHost }

func (l memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l memListener) Close() error   { l.close(); return nil }
func (l memListener) Addr() net.Addr { return l.addr }

type memPackets struct{ *memHost }

func (p memPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case m := <-p.packets:
		return copy(b, m.data), m.from, nil
	case <-p.done:
		return 0, nil, net.ErrClosed
	}
}

func (p memPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	n := p.network
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent += len(b)
	toIP, _, _ := net.SplitHostPort(to.String())
	if n.rng.Float64() < n.loss || n.cut(p.addr.IP.String(), toIP) {
		return len(b), nil
	}
	h := n.hosts[to.String()]
	if h == nil {
		return len(b), nil
	}
	m := memPacket{append([]byte(nil), b...), &net.UDPAddr{IP: p.addr.IP, Port: p.addr.Port}}
	// Delays differ, so packets overtake each other.
	time.AfterFunc(time.Duration(1+n.rng.IntN(20))*time.Millisecond, func() {
		select {
		case h.packets <- m:
		default:
		}
	})
	return len(b), nil
}

func (p memPackets) Close() error                     { p.close(); return nil }
func (p memPackets) LocalAddr() net.Addr              { return p.addr }
func (p memPackets) SetDeadline(time.Time) error      { return nil }
func (p memPackets) SetReadDeadline(time.Time) error  { return nil }
func (p memPackets) SetWriteDeadline(time.Time) error { return nil }

// memHalf is one direction of a stream. Writers never wait.
type memHalf struct {
	wake chan struct{} // one token

	mu     sync.Mutex // protects what follows
	data   []byte
	closed bool
}

func newMemHalf() *memHalf { return &memHalf{wake: make(chan struct{}, 1)} }

func (h *memHalf) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	poke(h.wake)
}

type memConn struct {
	network       *memNetwork
	in, out       *memHalf
	local, remote string
	read          *memDeadline
}

func (c *memConn) Read(b []byte) (int, error) {
	for {
		c.in.mu.Lock()
		n := copy(b, c.in.data)
		c.in.data = c.in.data[n:]
		closed := c.in.closed
		c.in.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if closed {
			poke(c.in.wake) // for the next Read
			return 0, io.EOF
		}
		select {
		case <-c.in.wake:
		case <-c.read.passed():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (c *memConn) Write(b []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.closed {
		return 0, io.ErrClosedPipe
	}
	c.out.data = append(c.out.data, b...)
	poke(c.out.wake)
	return len(b), nil
}

func (c *memConn) Close() error {
	c.in.close()
	c.out.close()
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	delete(c.network.conns, c)
	return nil
}

func (c *memConn) LocalAddr() net.Addr                { return &net.TCPAddr{IP: net.ParseIP(c.local)} }
func (c *memConn) RemoteAddr() net.Addr               { return &net.TCPAddr{IP: net.ParseIP(c.remote)} }
func (c *memConn) SetDeadline(t time.Time) error      { c.read.set(t); return nil }
func (c *memConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { return nil }

// memDeadline is a channel that closes when a deadline has passed.
type memDeadline struct {
	mu    sync.Mutex // protects what follows
	timer *time.Timer
	gone  chan struct{}
}

func newMemDeadline() *memDeadline { return &memDeadline{gone: make(chan struct{})} }

func (d *memDeadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

func (d *memDeadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.gone // the old deadline's timer is running: let it end
	}
	d.timer = nil
	select {
	case <-d.gone:
		d.gone = make(chan struct{})
	default:
	}
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		close(d.gone)
	default:
		gone := d.gone
		d.timer = time.AfterFunc(wait, func() { close(gone) })
	}
}
