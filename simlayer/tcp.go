package simlayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"moult/simlayer/so"
)

// acceptTCP relays connections of a raw protocol until the listener is closed.
func (f *listener) acceptTCP() error {
	pause := minPause
	for {
		conn, err := f.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || f.layer.ctx.Err() != nil {
				return net.ErrClosed
			}
			// Such as too many open files: it may pass.
			f.layer.log.Warn("accept failed", "service", f.service.name, "error", err)
			select {
			case <-time.After(pause):
			case <-f.layer.ctx.Done():
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		over := f.layer.conns.Add(1) > int64(f.layer.cfg.Limits.Conns)
		if over || !f.layer.tasks.begin() {
			f.layer.conns.Add(-1)
			reset(conn)
			continue
		}
		go func() {
			defer f.layer.tasks.end()
			defer f.layer.conns.Add(-1)
			f.relay(conn)
		}()
	}
}

// relay takes one connection to the node. Its call ends with the connection.
func (f *listener) relay(conn net.Conn) {
	r := &relaying{listener: f, conn: conn}
	up, err := r.connect()
	route := f.layer.gate.current()
	version := f.label
	if r.ticket != nil {
		defer f.layer.gate.leave(r.ticket)
		route = r.ticket.route
	}
	if version == 0 {
		version = f.layer.externalVersion(f.service, route)
	}
	n := f.service.tally.of(version)
	n.calls.Add(1)
	end := answered
	switch {
	case err != nil:
		f.layer.log.Debug("connection refused", "service", f.service.name, "from", version, "to", route.native, "error", err)
		reset(conn)
		end = failed
		if so.AsRefusal(err).Denied {
			end = denied
		}
	case !splice(conn, up) && r.wasCut():
		end = failed
	}
	n.end(end, r.patience.spent)
}

// relaying is one connection of a raw protocol on its way.
type relaying struct {
	listener *listener
	conn     net.Conn
	patience patience
	ticket   *ticket // once connect has succeeded

	mu   sync.Mutex
	up   net.Conn
	cutC bool
}

// connect gets through the gate to the node's software.
func (r *relaying) connect() (net.Conn, error) {
	l := r.listener.layer
	pause := minPause
	for {
		ctx, cancel := context.WithCancel(l.ctx)
		defer cancel()
		t, err := l.gate.enter(ctx, &r.patience, func() { cancel(); r.cut() })
		if err != nil {
			return nil, err
		}
		up, err := r.dial(ctx, t.route)
		if err == nil {
			r.ticket = t
			return up, nil
		}
		l.gate.leave(t)
		if !isDialError(err) || ctx.Err() != nil {
			return nil, err
		}
		if rest := l.gate.rest(l.ctx, &r.patience, t.route, pause); rest != nil {
			return nil, fmt.Errorf("%w: %w", rest, err)
		}
		pause = min(2*pause, maxPause)
	}
}

func (r *relaying) dial(ctx context.Context, route *route) (net.Conn, error) {
	version := r.listener.label
	if version == 0 {
		version = r.listener.layer.externalVersion(r.listener.service, route)
	}
	path, backend, err := route.path(version, r.listener.service.name)
	if err != nil {
		return nil, err
	}
	if !path.plain {
		return nil, so.Deny(0, "raw connections cannot be simulated by rules")
	}
	up, err := backend.dial(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cutC {
		up.Close()
		return nil, errCut
	}
	r.up = up
	return up, nil
}

// cut ends the connection: callers see its end, not a reset, since what the node
// has said so far is whole.
func (r *relaying) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutC = true
	r.conn.Close()
	if r.up != nil {
		r.up.Close()
	}
}

func (r *relaying) wasCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cutC
}

// splice copies both ways until both have ended, passing on the end of each, and
// closes both. It reports whether both ended without an error; one is passed on
// as a reset.
func splice(a, b net.Conn) bool {
	var wg sync.WaitGroup
	var backErr error
	wg.Go(func() { backErr = pipe(a, b) })
	err := pipe(b, a)
	wg.Wait()
	a.Close()
	b.Close()
	return err == nil && backErr == nil
}

// pipe copies from src to dst. Between sockets it copies in the kernel.
func pipe(dst, src net.Conn) error {
	_, err := io.Copy(dst, src)
	if err == nil {
		if half, ok := dst.(interface{ CloseWrite() error }); ok {
			// Where it fails, the other direction ends with the same error.
			_ = half.CloseWrite()
			return nil
		}
	}
	reset(dst)
	reset(src)
	return err
}

// reset closes a connection so that the other side sees that it broke.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
