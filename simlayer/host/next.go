package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/stream"
)

// target is where calls of one service go now. Whoever waits for one is woken by
// a change.
type target struct {
	mu      sync.Mutex
	addr    string        // "" while nobody is there
	changed chan struct{} // closed and replaced with each change
}

func newTarget() *target { return &target{changed: make(chan struct{})} }

func (t *target) set(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if addr == t.addr {
		return
	}
	t.addr = addr
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *target) get() (addr string, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addr, t.changed
}

// dial connects to the target, and tries again, also where it goes elsewhere
// meanwhile, until hold is over.
func (t *target) dial(ctx context.Context, hold time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	err := errors.New("it is not there")
	for pause := minDial; ; pause = min(2*pause, maxDial) {
		addr, changed := t.get()
		var again <-chan time.Time
		if addr != "" {
			conn, dialErr := attach.Dial(ctx, addr)
			if dialErr == nil {
				return conn, nil
			}
			err = dialErr
			again = time.After(pause)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil, fmt.Errorf("next did not accept within %v: %w", hold, err)
		}
	}
}

// bridge is the stable address of what is next: it carries each connection to the
// target.
type bridge struct {
	*target
	addr string
	hold atomic.Int64 // of nanoseconds that who is carried waits for the target
	log  *slog.Logger

	ln      net.Listener
	packets *packetBridge // instead of ln, for UDP
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // mu; of both sides; nil once closed
	most  int               // of them, before another is taken
}

func newBridge(s Service, log *slog.Logger) (*bridge, error) {
	b := &bridge{target: newTarget(), log: log, conns: map[net.Conn]bool{}, most: 2 * maxCarried}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if s.Protocol == protocolUDP {
		p, err := newPacketBridge(b.target)
		if err != nil {
			b.cancel()
			return nil, err
		}
		b.packets, b.addr = p, p.conn.LocalAddr().String()
		return b, nil
	}
	ln, err := stream.Listen(b.ctx, anyPort)
	if err != nil {
		b.cancel()
		return nil, fmt.Errorf("address of what a simulation object calls next: %w", err)
	}
	b.ln, b.addr = ln, ln.Addr().String()
	b.work.Go(func() { _ = stream.Accept(b.ctx, ln, log, b.accept) }) // it ends with ln
	return b, nil
}

// lead says where connections go from now on, and how long they wait for that.
func (b *bridge) lead(addr string, hold time.Duration) {
	b.hold.Store(int64(hold))
	b.set(addr)
}

// accept takes a connection of the object's, unless it has as many as it may.
func (b *bridge) accept(c net.Conn) {
	if b.full() {
		b.log.Debug("call of a simulation object reset: it has too many under way", "connections", maxCarried)
		stream.Reset(c)
		return
	}
	if b.keep(c) {
		b.work.Go(func() { b.carry(c) })
	}
}

func (b *bridge) carry(c net.Conn) {
	defer b.forget(c)
	up, err := b.dial(b.ctx, time.Duration(b.hold.Load()))
	if err != nil {
		b.log.Debug("call of a simulation object got nowhere", "err", err)
		stream.Reset(c)
		return
	}
	if b.keep(up) {
		stream.Splice(c, up)
		b.forget(up)
	}
}

// full reports whether the object has as many connections as it may: they are in this
// process, which has other things to do as well.
func (b *bridge) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns) >= b.most
}

// keep remembers a connection, to end it with the bridge; where that has ended,
// it closes it and returns false.
func (b *bridge) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		stream.Reset(c)
		return false
	}
	b.conns[c] = true
	return true
}

func (b *bridge) forget(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	c.Close()
}

func (b *bridge) close() {
	b.cancel()
	if b.packets != nil {
		b.packets.close()
		return
	}
	b.ln.Close()
	b.mu.Lock()
	conns := b.conns
	b.conns = nil
	for c := range conns {
		stream.Reset(c)
	}
	b.mu.Unlock()
	b.work.Wait()
}
