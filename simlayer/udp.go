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
)

// udpWay says where the datagrams of one label go now.
type udpWay struct {
	// addr is the host:port that they go to; "" where they go nowhere now.
	addr string
	// hold is how long they wait where they go nowhere now; 0: they are dropped.
	hold time.Duration
	// changed is closed when the way may have become another. Needed with hold.
	changed <-chan struct{}
}

// udpTarget knows the way. It is asked for every datagram, and must not block.
type udpTarget interface{ way() udpWay }

// udpLimits bounds what callers can make a udpRelay keep.
type udpLimits struct {
	// sessions bounds the callers at once. Datagrams of more are dropped.
	sessions int
	// idle is how long a session lives without a datagram either way.
	idle time.Duration
	// perSession bounds the datagrams of one session that wait, and total the
	// bytes of all.
	perSession, total int
}

func defaultUDPLimits() udpLimits {
	return udpLimits{sessions: 8192, idle: 2 * time.Minute, perSession: 32, total: 4 << 20}
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
	conn   *net.UDPConn
	target udpTarget
	limits udpLimits
	log    *slog.Logger
	ended  func(o outcome, waited time.Duration) // of each session; may be nil
	// any is set where the relay listens on all addresses: then the one that was
	// called is part of a session.
	any     bool
	buffers sync.Pool
	done    chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool
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
	key    udpKey
	up     *net.UDPConn // to the node; nil before the first datagram goes there
	addr   string       // of the node, as up has it
	last   time.Time    // of a datagram either way
	held   int          // datagrams of it in the queue
	passed bool         // something has gone to the node
	waited time.Duration
}

// udpHeld is a datagram that waits.
type udpHeld struct {
	session     *udpSession
	data        []byte
	from, until time.Time
}

// listenUDP begins to relay what comes to addr. ended is called for every session
// that has ended, with how long its datagrams have waited at most; it may be nil.
func listenUDP(ctx context.Context, addr string, target udpTarget, limits udpLimits, log *slog.Logger, ended func(outcome, time.Duration)) (*udpRelay, error) {
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
	r := &udpRelay{
		conn: pc.(*net.UDPConn), target: target, limits: limits, log: log, ended: ended,
		done: make(chan struct{}), sessions: map[udpKey]*udpSession{},
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
			return nil, errors.Join(fmt.Errorf("%s (udp): ask for the address that callers call: %w; listen on one address instead", addr, err), r.conn.Close())
		}
	}
	r.running.Go(r.receive)
	return r, nil
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
		for _, s := range r.sessions {
			r.end(s)
		}
	}
	r.mu.Unlock()
	r.running.Wait()
}

// receive takes datagrams from callers until the relay is closed.
func (r *udpRelay) receive() {
	buf := make([]byte, maxDatagram)
	oob := make([]byte, 0)
	if r.any {
		oob = make([]byte, 256)
	}
	for {
		n, m, _, caller, err := r.conn.ReadMsgUDPAddrPort(buf, oob)
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
		key := udpKey{caller: caller}
		if r.any {
			key.called = calledAddr(oob[:m])
		}
		r.take(key, buf[:n])
	}
}

// take passes a datagram of a caller on, or has it wait.
func (r *udpRelay) take(key udpKey, data []byte) {
	way := r.target.way()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if way.addr == "" && way.hold <= 0 {
		r.stats.noTarget++
		return
	}
	s := r.sessions[key]
	if s == nil {
		if len(r.sessions) >= r.limits.sessions {
			r.stats.overflow++
			return
		}
		s = &udpSession{key: key}
		r.sessions[key] = s
	}
	s.last = time.Now()
	if way.addr != "" {
		r.flush(way)        // what has waited is older
		r.sessions[key] = s // it may have ended with that
		r.send(s, way.addr, data)
		return
	}
	if s.held >= r.limits.perSession || r.queued+len(data) > r.limits.total {
		r.stats.overflow++
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

// wait passes on what waits when the node is back, and drops what has waited too
// long. It ends when nothing waits.
func (r *udpRelay) wait() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		way := r.target.way()
		next, more := r.settle(way)
		if !more {
			return
		}
		timer.Reset(time.Until(next))
		select {
		case <-way.changed:
		case <-timer.C:
		case <-r.done:
			return
		}
	}
}

// settle does what the way allows with what waits. If something goes on waiting,
// more is true, and next is when it has waited too long.
func (r *udpRelay) settle(way udpWay) (next time.Time, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
	case way.addr != "":
		r.flush(way)
	case way.hold <= 0:
		for len(r.queue) > 0 {
			r.drop(r.next(), &r.stats.noTarget)
		}
	default:
		now := time.Now()
		for len(r.queue) > 0 && !r.queue[0].until.After(now) {
			r.drop(r.next(), &r.stats.expired)
		}
	}
	if r.closed || len(r.queue) == 0 {
		r.waiting = false
		return time.Time{}, false
	}
	return r.queue[0].until, true
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
	h.session.waited = max(h.session.waited, time.Since(h.from))
	return h
}

// drop gives a datagram up; with the last of a session that has no other reason
// to be, the session goes.
func (r *udpRelay) drop(h udpHeld, why *int64) {
	*why++
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
			r.drop(h, &r.stats.expired)
			continue
		}
		r.send(h.session, way.addr, h.data)
	}
}

// send passes a datagram on to the node at addr.
func (r *udpRelay) send(s *udpSession, addr string, data []byte) {
	if err := r.reach(s, addr); err != nil {
		r.stats.unreachable++
		r.log.Debug("datagram not passed on", "address", r.local().String(), "to", addr, "error", err)
		r.endIfUnused(s)
		return
	}
	_, err := s.up.Write(data)
	if errors.Is(err, syscall.ECONNREFUSED) {
		// That was said of an earlier datagram; this one was not sent yet.
		r.stats.unreachable++
		_, err = s.up.Write(data)
	}
	if err != nil {
		r.stats.unreachable++
		return
	}
	s.passed = true
	r.stats.toNode++
}
