package simlayer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"moult/simlayer/stream"
)

// egressFront accepts the software's connections to the egress proxy. The first
// byte says which of the two protocols a connection speaks: those of SOCKS5 are
// served at once, those of HTTP are what Accept returns. Connections stay what
// the system gave, so that tunnels are copied in the kernel.
type egressFront struct {
	net.Listener
	http chan net.Conn
	done chan struct{}
	once sync.Once
}

func newEgressFront(ln net.Listener) *egressFront {
	return &egressFront{Listener: ln, http: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener for the server of HTTP.
func (f *egressFront) Accept() (net.Conn, error) {
	select {
	case c := <-f.http:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It may be called again.
func (f *egressFront) Close() error {
	f.once.Do(func() { close(f.done) })
	return f.Listener.Close()
}

// accept takes connections until the front is closed.
func (e *egress) accept() error {
	l := e.layer
	return stream.Accept(l.ctx, e.front.Listener, l.log.With("service", "egress"), func(c net.Conn) { l.admit(c, e.sort) })
}

// sort finds out what a connection speaks, and hands it to whoever serves that.
func (e *egress) sort(conn net.Conn) {
	if !e.tunnels.add(conn) {
		e.layer.conns.Add(-1)
		return
	}
	deadline := time.Now().Add(headerTimeout)
	err := conn.SetReadDeadline(deadline)
	first, peekErr := firstByte(conn)
	if err = errors.Join(err, peekErr); err != nil || first == socksVersion {
		if err == nil {
			e.socks(conn, deadline)
		}
		e.tunnels.remove(conn)
		e.layer.conns.Add(-1)
		return
	}
	_ = conn.SetReadDeadline(time.Time{}) // the server has its own
	e.tunnels.release(conn)
	select {
	case e.front.http <- conn:
	case <-e.front.done:
		conn.Close()
		e.layer.conns.Add(-1)
	}
}

// release takes c out and leaves it open.
func (s *connSet) release(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// firstByte waits for the first byte and leaves it where it is.
func firstByte(conn net.Conn) (byte, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, errors.New("not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var buf [1]byte
	var n int
	var peek error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, peek = unix.Recvfrom(int(fd), buf[:], unix.MSG_PEEK)
			if !errors.Is(peek, unix.EINTR) {
				return !errors.Is(peek, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, peek); err == nil && n == 0 {
		err = io.EOF
	}
	return buf[0], err
}

type egressConnKey struct{}

// newServer returns the server of what speaks HTTP. Its connections are counted
// already; those that become tunnels count until these end.
func (e *egress) newServer() *http.Server {
	return &http.Server{
		Handler:                      e,
		ReadHeaderTimeout:            headerTimeout,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(e.layer.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, egressConnKey{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateClosed:
				e.layer.conns.Add(-1)
			case http.StateHijacked:
				e.hijacked.Store(c, true)
			}
		},
	}
}

// uncount lets a connection that was a tunnel count no longer.
func (e *egress) uncount(r *http.Request) {
	if _, was := e.hijacked.LoadAndDelete(r.Context().Value(egressConnKey{})); was {
		e.layer.conns.Add(-1)
	}
}
