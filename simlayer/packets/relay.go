package packets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Relay passes the datagrams of one address on to the node and back. Each
// caller has a session: a socket of its own to the node, so that the node's
// answers find the caller, and come from the address that it called. While the
// node is down datagrams wait, in their order. Sessions outlive a restart of the
// node: they go on with its new address. It is safe for concurrent use.
type Relay struct {
	cfg  Config
	conn *net.UDPConn
	// any is set where the relay listens on all addresses: then the one that was
	// called is part of a session.
	any     bool
	buffers sync.Pool
	heard   chan struct{} // has one when the node has said something; for AwaitAnswers
	done    chan struct{}
	running sync.WaitGroup

	// mu guards all below, and every session.
	mu       sync.Mutex
	closed   bool
	others   []*net.UDPConn // that are read too
	sessions map[sessionKey]*session
	queue    []held // in their order
	queued   int    // bytes in queue
	waiting  bool   // a goroutine waits for the node
	stats    Stats
}

// Config is what a Relay needs to know.
type Config struct {
	Target Target
	Limits Limits
	// Quota bounds the sessions together with others; nil: nothing else does.
	Quota Quota
	// Senders are those of all relays that may reach one another; nil: there are no
	// others.
	Senders *Senders
	Log     *slog.Logger
}

// Open opens a host:port. What comes there waits in the socket until Serve.
func Open(ctx context.Context, addr string, cfg Config) (*Relay, error) {
	conn, err := Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	return New(conn, cfg)
}

// New is Open for a socket that is open. It is the relay's, also where that
// fails.
func New(conn *net.UDPConn, cfg Config) (*Relay, error) {
	var err error
	r := &Relay{
		cfg: cfg, conn: conn,
		heard: make(chan struct{}, 1), done: make(chan struct{}), sessions: map[sessionKey]*session{},
	}
	r.buffers.New = func() any { b := make([]byte, maxDatagram); return &b }
	// The system gives what it allows.
	_ = r.conn.SetReadBuffer(readBuffer)
	if local := r.Addr().Addr(); local.IsUnspecified() {
		r.any = true
		if local.Is4() {
			err = ipv4.NewPacketConn(r.conn).SetControlMessage(ipv4.FlagDst, true)
		} else {
			err = ipv6.NewPacketConn(r.conn).SetControlMessage(ipv6.FlagDst, true)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s (udp): ask for the address that callers call: %w; listen on one address instead", r.Addr(), err), r.conn.Close())
		}
	}
	return r, nil
}

// Serve begins to relay. It is called once, and does nothing after Close.
func (r *Relay) Serve() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.running.Go(func() { r.receive(r.conn) })
	}
}

// ServeFrom relays what another socket of the same address has as well, until that
// is closed. The relay closes it when it ends itself.
func (r *Relay) ServeFrom(conn *net.UDPConn) {
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

// Addr returns where the relay listens.
func (r *Relay) Addr() netip.AddrPort { return r.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Stats returns what the relay has seen.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Sessions, s.Held = len(r.sessions), len(r.queue)
	return s
}

// Close ends all sessions and returns when everything that the relay started has
// ended. It may be called again.
func (r *Relay) Close() {
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
func (r *Relay) receive(conn *net.UDPConn) {
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
			r.cfg.Log.Debug("datagram not read", "address", r.Addr().String(), "err", err)
			select {
			case <-time.After(readPause):
			case <-r.done:
			}
			continue
		}
		if r.cfg.Senders.has(caller) {
			r.cfg.Log.Debug("datagram for the node came back, for the node has no socket", "address", r.Addr().String())
			continue
		}
		key := sessionKey{caller: caller}
		if r.any {
			key.called = calledAddr(oob[:m])
		}
		r.take(key, buf[:n])
	}
}

// take passes a datagram of a caller on, or has it wait.
func (r *Relay) take(key sessionKey, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	way := r.cfg.Target.Way() // locked, so that AwaitAnswers knows what has passed
	if way.Addr == "" && way.Hold <= 0 {
		r.lose(way, &r.stats.NoTarget, 0)
		return
	}
	s := r.sessions[key]
	if s == nil {
		if s = r.begin(key); s == nil {
			r.lose(way, &r.stats.Overflow, 0)
			return
		}
	}
	s.last = time.Now()
	if way.Addr != "" {
		r.flush(way) // what has waited is older
		if r.sessions[key] != s {
			// It has ended with that.
			if s = r.begin(key); s == nil {
				r.lose(way, &r.stats.Overflow, 0)
				return
			}
			s.last = time.Now()
		}
		r.send(s, way, data, 0)
		return
	}
	if s.held >= r.cfg.Limits.PerSession || r.queued+len(data) > r.cfg.Limits.Total {
		r.lose(way, &r.stats.Overflow, 0)
		r.endIfUnused(s)
		return
	}
	s.held++
	r.queued += len(data)
	r.queue = append(r.queue, held{session: s, data: slices.Clone(data), from: s.last, until: s.last.Add(way.Hold)})
	if !r.waiting {
		r.waiting = true
		r.running.Go(r.wait)
	}
}

// AwaitAnswers waits until every caller has heard from the node since it last asked, or
// has not for so long that it may hear nothing; or until ctx ends. It is called when
// the target lets nothing more through.
func (r *Relay) AwaitAnswers(ctx context.Context, long time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := r.owed(long)
		if left <= 0 {
			return
		}
		timer.Reset(left)
		select {
		case <-r.heard:
		case <-timer.C:
		case <-ctx.Done():
			return
		case <-r.done:
			return
		}
	}
}

// owed is how long the node still has to answer the last caller that waits for it.
func (r *Relay) owed(long time.Duration) (left time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if !s.asked.IsZero() {
			left = max(left, time.Until(s.asked.Add(long)))
		}
	}
	return left
}
