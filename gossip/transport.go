package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"moult/store/bundle"
)

// A transport is the one port: memberlist's packets on UDP, and on TCP both
// memberlist's streams and HTTP between peers, told apart by ALPN. Every
// stream has passed the gate.
//
// It implements memberlist.NodeAwareTransport and, for inbound HTTP,
// net.Listener (by peerListener).
type transport struct {
	gate      *gate
	network   Network
	ln        net.Listener
	packets   net.PacketConn
	advertise *net.TCPAddr
	log       *slog.Logger
	// expect returns the identity that a member's streams must have; false
	// when the name is not known.
	expect func(name string) (bundle.NodeID, bool)
	// impostor is told of a member whose address answers with another identity.
	impostor func(name string, err *IdentityError)
	// attach runs at memberlist's first call of FinalAdvertiseAddr: see ring.go.
	attach     func()
	attachOnce sync.Once

	packetCh   chan *memberlist.Packet
	ringCh     chan net.Conn
	peerCh     chan net.Conn
	handshakes *shares
	streams    *shares // inbound
	refusals   *Quiet
	failures   *Quiet // of the sockets

	packeted, ringed, peered traffic

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // protects what follows
	raw     map[net.Conn]struct{}
	inbound map[bundle.NodeID]int
	closed  bool
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// Bytes that came in and went out, of what was encrypted by TLS without that.
type Bytes struct{ In, Out int64 }

// Traffic are the bytes that have gone between this agent and others since Start.
type Traffic struct {
	Packets Bytes // of UDP: failure detection and rumours
	Ring    Bytes // of memberlist's streams
	Peer    Bytes // of requests between peers: anti-entropy, and those of Config.Handler
}

type traffic struct{ in, out atomic.Int64 }

func (t *traffic) load() Bytes { return Bytes{t.in.Load(), t.out.Load()} }

// A stream is a connection that has passed the gate.
type stream struct {
	*tls.Conn
	id      bundle.NodeID
	counted *traffic
	release func() // idempotent
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.counted.in.Add(int64(n))
	return n, err
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	s.counted.out.Add(int64(n))
	return n, err
}

func (s *stream) Close() error {
	err := s.Conn.Close()
	s.release()
	return err
}

func newTransport(ctx context.Context, cfg Config, g *gate) (*transport, error) {
	network := cfg.Network
	if network == nil {
		network = sockets{}
	}
	ln, packets, err := network.Listen(ctx, cfg.Bind)
	if err != nil {
		return nil, err
	}
	bound, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		err = fmt.Errorf("listener at %s has no TCP address", ln.Addr())
	}
	var adv *net.TCPAddr
	if err == nil {
		adv, err = advertised(ctx, bound, cfg.Advertise)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close(), packets.Close())
	}
	t := &transport{
		gate: g, network: network, ln: ln, packets: packets, advertise: adv, log: cfg.Log,
		packetCh: make(chan *memberlist.Packet), ringCh: make(chan net.Conn), peerCh: make(chan net.Conn),
		handshakes: newShares(maxHandshakes, handshakesPerSource), streams: newShares(maxStreams, streamsPerSource),
		refusals: &Quiet{Every: logInterval}, failures: &Quiet{Every: logInterval},
		raw: map[net.Conn]struct{}{}, inbound: map[bundle.NodeID]int{},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// start begins to listen, once the hooks are in place.
func (t *transport) start() {
	t.wg.Add(2)
	go t.acceptLoop()
	go t.packetLoop()
}

// Shutdown closes every socket and every stream, and returns when the
// transport's goroutines have ended. It may be called twice.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	var conns []net.Conn
	for c := range t.raw {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	if first {
		t.cancel()
		_ = t.ln.Close()
		_ = t.packets.Close()
		for _, c := range conns {
			_ = c.Close() // not through TLS, whose farewell waits for slow peers
		}
	}
	t.wg.Wait()
	return nil
}

// track registers a raw connection, so that Shutdown can end it.
func (t *transport) track(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.raw[c] = struct{}{}
	return true
}

func (t *transport) untrack(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.raw, c)
}

// admitInbound counts one more stream of a peer, unless it has too many.
func (t *transport) admitInbound(id bundle.NodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inbound[id] >= maxStreamsPerPeer {
		return false
	}
	t.inbound[id]++
	return true
}

func (t *transport) dropInbound(id bundle.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inbound[id]--; t.inbound[id] <= 0 {
		delete(t.inbound, id)
	}
}

// failed reports that a socket fails (too many open files, say), and keeps the loop over it
// from spinning.
func (t *transport) failed(what string, err error) {
	t.failures.Log(t.log, slog.LevelWarn, what, "err", err)
	select {
	case <-time.After(100 * time.Millisecond):
	case <-t.ctx.Done():
	}
}

func (t *transport) acceptLoop() {
	defer t.wg.Done()
	for {
		c, err := t.ln.Accept()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			t.failed("cannot accept a connection", err)
			continue
		}
		if !t.track(c) {
			_ = c.Close()
			return
		}
		in := &inbound{Conn: c, source: sourceOf(c.RemoteAddr().String())}
		in.leave = t.handshakes.enter(in.source, in.end)
		t.wg.Add(1)
		go func() {
			defer t.wg.Done()
			t.admit(in)
		}()
	}
}

// inbound is a connection of which nothing is known yet but where it comes from.
type inbound struct {
	net.Conn
	source netip.Prefix
	leave  func() // of those whose handshake is in progress
	shed   atomic.Bool
}

// end makes room for another. It does not go through TLS, whose farewell waits for slow
// peers.
func (in *inbound) end() {
	in.shed.Store(true)
	_ = in.Close()
}

// admit takes one inbound connection through the gate and hands it to its
// protocol.
func (t *transport) admit(in *inbound) {
	raw := in.Conn
	_ = raw.SetDeadline(time.Now().Add(handshakeTimeout))
	c, id, err := t.gate.accept(raw)
	in.leave()
	if in.shed.Load() {
		err = errShed
	}
	if err == nil && !t.admitInbound(id) {
		err = fmt.Errorf("it has %d streams open already", maxStreamsPerPeer)
	}
	if err != nil {
		t.untrack(raw)
		_ = raw.Close()
		if t.ctx.Err() == nil {
			t.refused(raw.RemoteAddr(), id, err)
		}
		return
	}
	_ = raw.SetDeadline(time.Time{})
	leave := t.streams.enter(in.source, func() {
		_ = raw.Close() // as in end
		t.refused(raw.RemoteAddr(), id, errShed)
	})
	protocol := c.ConnectionState().NegotiatedProtocol
	s := &stream{Conn: c, id: id, counted: t.countedBy(protocol), release: sync.OnceFunc(func() {
		t.untrack(raw)
		t.dropInbound(id)
		leave()
	})}
	to := t.ringCh
	if protocol == alpnPeer {
		to = t.peerCh
	}
	select {
	case to <- s:
	case <-t.ctx.Done():
		_ = raw.Close()
		s.release()
	}
}

// refused reports a refusal, but not each one of a flood, nor a peer that
// just hung up.
func (t *transport) refused(from net.Addr, id bundle.NodeID, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		t.log.Debug("a connection ended before it was let in", "from", from.String(), "err", err)
		return
	}
	log := t.log
	if !id.IsZero() {
		log = log.With("node", id.Short())
	}
	t.refusals.Log(log, slog.LevelWarn, "refused a connection", "from", from.String(), "error", err)
}

// open dials a peer and takes the stream through the gate. A zero want lets
// any member of the cluster answer.
func (t *transport) open(ctx context.Context, addr, protocol string, want bundle.NodeID) (*stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %v", dialTimeout))
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	raw, err := t.network.Dial(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, openError(addr, bundle.NodeID{}, err)
	}
	if !t.track(raw) {
		_ = raw.Close()
		return nil, openError(addr, bundle.NodeID{}, net.ErrClosed)
	}
	_ = raw.SetDeadline(time.Now().Add(handshakeTimeout))
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	c, id, err := t.gate.dial(raw, protocol)
	if !stop() {
		err = context.Cause(ctx) // the handshake's own error only says that it was cut off
	}
	if err == nil && !want.IsZero() && id != want {
		err = &IdentityError{Addr: addr, Want: want, Got: id}
	}
	if err != nil {
		t.untrack(raw)
		_ = raw.Close()
		return nil, openError(addr, id, err)
	}
	_ = raw.SetDeadline(time.Time{})
	return &stream{Conn: c, id: id, counted: t.countedBy(protocol), release: sync.OnceFunc(func() { t.untrack(raw) })}, nil
}

func (t *transport) countedBy(protocol string) *traffic {
	if protocol == alpnPeer {
		return &t.peered
	}
	return &t.ringed
}

// An openFailure is a stream that could not be opened. It names the peer.
type openFailure struct{ error }

func (f *openFailure) Unwrap() error { return f.error }

func openError(addr string, id bundle.NodeID, err error) error {
	var other *IdentityError
	switch {
	case errors.As(err, &other):
	case errors.Is(err, ErrForeign):
		err = fmt.Errorf("peer %s at %s refused: %w: compare the root file and the gossip key on both", id.Short(), addr, err)
	default:
		err = fmt.Errorf("peer at %s: %w", addr, err)
	}
	return &openFailure{err}
}

// What follows is memberlist's interface.

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	t.attachOnce.Do(t.attach)
	ip := t.advertise.IP
	if ip4 := ip.To4(); ip4 != nil {
		ip = ip4
	}
	return ip, t.advertise.Port, nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("packet to %q: %w", addr, err)
	}
	n, err := t.packets.WriteTo(b, net.UDPAddrFromAddrPort(ap))
	t.packeted.out.Add(int64(n))
	return time.Now(), err
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }
func (t *transport) StreamCh() <-chan net.Conn           { return t.ringCh }

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	var want bundle.NodeID
	if a.Name != "" {
		want, _ = t.expect(a.Name)
	}
	s, err := t.open(ctx, a.Addr, alpnRing, want)
	if err != nil {
		var other *IdentityError
		if errors.As(err, &other) {
			t.impostor(a.Name, other)
		}
		return nil, err
	}
	return s, nil
}

func (t *transport) packetLoop() {
	defer t.wg.Done()
	buf := make([]byte, maxUDPPacket)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		now := time.Now()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			t.failed("cannot read a packet", err)
			continue
		}
		if n == 0 {
			continue
		}
		t.packeted.in.Add(int64(n))
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: now}
		select {
		case t.packetCh <- p:
		case <-t.ctx.Done():
			return
		}
	}
}

// peerListener gives inbound HTTP streams to an http.Server, which closes it.
type peerListener struct {
	t    *transport
	done chan struct{}
	once sync.Once
}

func newPeerListener(t *transport) *peerListener {
	return &peerListener{t: t, done: make(chan struct{})}
}

func (l *peerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.t.peerCh:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *peerListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *peerListener) Addr() net.Addr { return l.t.ln.Addr() }

// Quiet lets one message through in each interval and counts the others: for what peers
// may have an agent say as often as they like.
type Quiet struct {
	Every time.Duration

	mu         sync.Mutex // protects what follows
	last       time.Time
	suppressed int
}

// Log gives a message, or counts it, with how many were not given before it.
func (q *Quiet) Log(log *slog.Logger, level slog.Level, message string, args ...any) {
	if suppressed, ok := q.now(time.Now()); ok {
		log.With("suppressed", suppressed).Log(context.Background(), level, message, args...)
	}
}

// now reports whether a message may be given at this time, and how many were
// not given before it.
func (q *Quiet) now(at time.Time) (suppressed int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.last.IsZero() && at.Sub(q.last) < q.Every {
		q.suppressed++
		return 0, false
	}
	suppressed, q.suppressed, q.last = q.suppressed, 0, at
	return suppressed, true
}
