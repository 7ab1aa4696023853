package simlayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"moult/store/bundle"
)

// udpWay says where the datagrams of one label go now.
type udpWay struct {
	// addr is the host:port that they go to; "" where they go nowhere now.
	addr string
	// hold is how long they wait where they go nowhere now; 0: they are dropped.
	hold time.Duration
	// changed is closed when the way may have become another. Needed with hold.
	changed <-chan struct{}
	// version is the callers'.
	version bundle.Version
	// denied: where they are dropped, that is by an author's word.
	denied bool
}

// udpTarget knows the way, and counts. It is asked and told of every datagram, with
// the relay locked: it must not block, nor call the relay.
type udpTarget interface {
	way() udpWay
	// count is told of a datagram of a caller that was passed on (answered) or
	// dropped, and how long it had waited.
	count(v bundle.Version, o outcome, waited time.Duration)
}

// udpLimits bounds what callers can make a udpRelay keep.
type udpLimits struct {
	// sessions bounds the callers at once. Datagrams of more are dropped.
	sessions int
	// idle is how long a session lives without a datagram either way.
	idle time.Duration
	// perSession bounds the datagrams of one session that wait, and total the
	// bytes of all.
	perSession, total int
	// rest is how long a node that goes down has to answer a datagram.
	rest time.Duration
	// admit and leave count sessions with others elsewhere; admit reports false
	// where there are too many, and leave follows all the same. Nil: they do not.
	admit func() bool
	leave func()
}

func defaultUDPLimits() udpLimits {
	return udpLimits{sessions: 8192, idle: 2 * time.Minute, perSession: 32, total: 4 << 20, rest: packetRest}
}

const (
	// maxDatagram is more than the most that UDP carries, in bytes.
	maxDatagram = 1 << 16
	// udpBuffer is asked of the system for what has not been read yet, in bytes.
	udpBuffer = 2 << 20
)

// udpStats is what a udpRelay has seen since it began.
type udpStats struct {
	sessions    int   // now
	held        int   // datagrams that wait now
	toNode      int64 // datagrams passed on
	toCaller    int64
	noTarget    int64 // dropped: they went nowhere
	overflow    int64 // dropped: too many waited, or too many callers were there
	expired     int64 // dropped: they waited too long
	unreachable int64 // dropped, or said so by the other side: nobody listens there
}

// udpRelay passes the datagrams of one address on to the node and back. Each
// caller has a session: a socket of its own to the node, so that the node's
// answers find the caller, and come from the address that it called. While the
// node is down datagrams wait, in their order. Sessions outlive a restart of the
// node: they go on with its new address. It is safe for concurrent use.
type udpRelay struct {
	conn    *net.UDPConn
	senders *senders // of the layer; nil where there are no others
	target  udpTarget
	limits  udpLimits
	log     *slog.Logger
	// any is set where the relay listens on all addresses: then the one that was
	// called is part of a session.
	any     bool
	buffers sync.Pool
	heard   chan struct{} // has one when the node has said something; for rest
	done    chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	others   []*net.UDPConn // that are read too
	sessions map[udpKey]*udpSession
	queue    []udpHeld // in their order
	queued   int       // bytes in queue
	waiting  bool      // a goroutine waits for the node
	stats    udpStats
}

// udpKey tells sessions apart.
type udpKey struct {
	caller netip.AddrPort
	called netip.Addr // of the relay; invalid unless it listens on all
}

// udpSession is one caller. The relay's lock protects it.
type udpSession struct {
	key   udpKey
	up    *net.UDPConn // to the node; nil before the first datagram goes there
	addr  string       // of the node, as up has it
	last  time.Time    // of a datagram either way
	asked time.Time    // of the last one to the node; zero once it has answered
	held  int          // datagrams of it in the queue
}

// udpHeld is a datagram that waits.
type udpHeld struct {
	session     *udpSession
	data        []byte
	from, until time.Time
}

// bindUDP opens addr. What comes there waits in the socket until serve.
func bindUDP(ctx context.Context, addr string, target udpTarget, limits udpLimits, log *slog.Logger) (*udpRelay, error) {
	conn, err := listenUDP(ctx, addr)
	if err != nil {
		return nil, err
	}
	return relayUDP(conn, target, limits, log)
}

func listenUDP(ctx context.Context, addr string) (*net.UDPConn, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s (udp) is in use: stop the program that has it, or configure another address: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s (udp) is no address of this machine: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("%s (udp): %w", addr, err)
	}
	return pc.(*net.UDPConn), nil
}

// relayUDP is bindUDP for a socket that is open. It is the relay's, also where that
// fails.
func relayUDP(conn *net.UDPConn, target udpTarget, limits udpLimits, log *slog.Logger) (*udpRelay, error) {
	var err error
	r := &udpRelay{
		conn: conn, target: target, limits: limits, log: log,
		heard: make(chan struct{}, 1), done: make(chan struct{}), sessions: map[udpKey]*udpSession{},
	}
	r.buffers.New = func() any { b := make([]byte, maxDatagram); return &b }
	// The system gives what it allows.
	_ = r.conn.SetReadBuffer(udpBuffer)
	if local := r.local().Addr(); local.IsUnspecified() {
		r.any = true
		if local.Is4() {
			err = ipv4.NewPacketConn(r.conn).SetControlMessage(ipv4.FlagDst, true)
		} else {
			err = ipv6.NewPacketConn(r.conn).SetControlMessage(ipv6.FlagDst, true)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s (udp): ask for the address that callers call: %w; listen on one address instead", r.local(), err), r.conn.Close())
		}
	}
	return r, nil
}

// serve begins to relay. It is called once, and does nothing after close.
func (r *udpRelay) serve() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.running.Go(func() { r.receive(r.conn) })
	}
}

// serveFrom relays what another socket of the same address has as well, until that
// is closed. The relay closes it when it ends itself.
func (r *udpRelay) serveFrom(conn *net.UDPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		conn.Close()
		return
	}
	r.others = append(r.others, conn)
	r.running.Go(func() {
		r.receive(conn)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.others = slices.DeleteFunc(r.others, func(c *net.UDPConn) bool { return c == conn })
	})
}

// local returns where the relay listens.
func (r *udpRelay) local() netip.AddrPort { return r.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// statistics returns what the relay has seen.
func (r *udpRelay) statistics() udpStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.sessions, s.held = len(r.sessions), len(r.queue)
	return s
}

// close ends all sessions and returns when everything that the relay started has
// ended. It may be called again.
func (r *udpRelay) close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.done)
		r.conn.Close()
		for _, conn := range r.others {
			conn.Close()
		}
		for _, s := range r.sessions {
			r.end(s)
		}
	}
	r.mu.Unlock()
	r.running.Wait()
}

// receive takes datagrams of callers from a socket until that is closed.
func (r *udpRelay) receive(conn *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	oob := make([]byte, 0)
	if r.any {
		oob = make([]byte, 256)
	}
	for {
		n, m, _, caller, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.log.Debug("datagram not read", "address", r.local().String(), "error", err)
			select {
			case <-time.After(minPause):
			case <-r.done:
			}
			continue
		}
		if r.senders.has(caller) {
			r.log.Debug("datagram for the node came back, for the node has no socket", "address", r.local().String())
			continue
		}
		key := udpKey{caller: caller}
		if r.any {
			key.called = calledAddr(oob[:m])
		}
		r.take(key, buf[:n])
	}
}

// take passes a datagram of a caller on, or has it wait.
func (r *udpRelay) take(key udpKey, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	way := r.target.way() // locked, so that rest knows what has passed
	if way.addr == "" && way.hold <= 0 {
		r.lose(way, &r.stats.noTarget, 0)
		return
	}
	s := r.sessions[key]
	if s == nil {
		if s = r.begin(key); s == nil {
			r.lose(way, &r.stats.overflow, 0)
			return
		}
	}
	s.last = time.Now()
	if way.addr != "" {
		r.flush(way) // what has waited is older
		if r.sessions[key] != s {
			// It has ended with that.
			if s = r.begin(key); s == nil {
				r.lose(way, &r.stats.overflow, 0)
				return
			}
			s.last = time.Now()
		}
		r.send(s, way, data, 0)
		return
	}
	if s.held >= r.limits.perSession || r.queued+len(data) > r.limits.total {
		r.lose(way, &r.stats.overflow, 0)
		r.endIfUnused(s)
		return
	}
	s.held++
	r.queued += len(data)
	r.queue = append(r.queue, udpHeld{session: s, data: slices.Clone(data), from: s.last, until: s.last.Add(way.hold)})
	if !r.waiting {
		r.waiting = true
		r.running.Go(r.wait)
	}
}

// begin makes a session; nil: there are too many. The lock is held.
func (r *udpRelay) begin(key udpKey) *udpSession {
	if len(r.sessions) >= r.limits.sessions {
		return nil
	}
	if r.limits.admit != nil && !r.limits.admit() {
		r.limits.leave()
		return nil
	}
	s := &udpSession{key: key}
	r.sessions[key] = s
	return s
}

// lose counts a datagram that is dropped. The lock is held.
func (r *udpRelay) lose(way udpWay, why *int64, waited time.Duration) {
	*why++
	o := failed
	if way.denied && why == &r.stats.noTarget {
		o = denied
	}
	r.target.count(way.version, o, waited)
}

// wait passes on what waits when the node is back, and drops what has waited too
// long. It ends when nothing waits.
func (r *udpRelay) wait() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, changed, more := r.settle()
		if !more {
			return
		}
		timer.Reset(time.Until(next))
		select {
		case <-changed:
		case <-timer.C:
		case <-r.done:
			return
		}
	}
}

// settle does what the way allows with what waits. If something goes on waiting,
// more is true, next is when it has waited too long, and changed is closed when the
// way may have become another.
func (r *udpRelay) settle() (next time.Time, changed <-chan struct{}, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	way := r.target.way() // locked, as in take: a way of before may lead to a node that is gone
	switch {
	case r.closed:
	case way.addr != "":
		r.flush(way)
	case way.hold <= 0:
		for len(r.queue) > 0 {
			r.drop(way, r.next(), &r.stats.noTarget)
		}
	default:
		now := time.Now()
		for len(r.queue) > 0 && !r.queue[0].until.After(now) {
			r.drop(way, r.next(), &r.stats.expired)
		}
	}
	if r.closed || len(r.queue) == 0 {
		r.waiting = false
		return time.Time{}, nil, false
	}
	return r.queue[0].until, way.changed, true
}

// next takes the first datagram that waits. The lock is held, as in all below.
func (r *udpRelay) next() udpHeld {
	h := r.queue[0]
	r.queue[0] = udpHeld{}
	r.queue = r.queue[1:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	r.queued -= len(h.data)
	h.session.held--
	return h
}

// drop gives a datagram up; with the last of a session that has no other reason
// to be, the session goes.
func (r *udpRelay) drop(way udpWay, h udpHeld, why *int64) {
	r.lose(way, why, time.Since(h.from))
	r.endIfUnused(h.session)
}

func (r *udpRelay) endIfUnused(s *udpSession) {
	if s.held == 0 && s.up == nil {
		r.end(s)
	}
}

// flush passes on all that waits.
func (r *udpRelay) flush(way udpWay) {
	for len(r.queue) > 0 {
		h := r.next()
		if time.Now().After(h.until) {
			r.drop(way, h, &r.stats.expired)
			continue
		}
		r.send(h.session, way, h.data, time.Since(h.from))
	}
}

// send passes a datagram on to the node.
func (r *udpRelay) send(s *udpSession, way udpWay, data []byte, waited time.Duration) {
	if err := r.reach(s, way.addr); err != nil {
		r.log.Debug("datagram not passed on", "address", r.local().String(), "to", way.addr, "error", err)
		r.lose(way, &r.stats.unreachable, waited)
		r.endIfUnused(s)
		return
	}
	asked := time.Now() // before the node can answer
	_, err := s.up.Write(data)
	if errors.Is(err, syscall.ECONNREFUSED) {
		// That was said of an earlier datagram; this one was not sent yet.
		r.stats.unreachable++
		_, err = s.up.Write(data)
	}
	if err != nil {
		r.lose(way, &r.stats.unreachable, waited)
		return
	}
	s.asked = asked
	r.stats.toNode++
	r.target.count(way.version, answered, waited)
}
