package egress

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"moult/simlayer/stream"
)

// front accepts the software's connections to the egress proxy. The first
// byte says which of the two protocols a connection speaks: those of SOCKS5 are
// served at once, those of HTTP are what Accept returns. Connections stay what
// the system gave, so that tunnels are copied in the kernel.
type front struct {
	net.Listener
	http chan net.Conn
	done chan struct{}
	once sync.Once
}

func newFront(ln net.Listener) *front {
	return &front{Listener: ln, http: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener for the server of HTTP.
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.http:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It may be called again.
func (f *front) Close() error {
	f.once.Do(func() { close(f.done) })
	return f.Listener.Close()
}

// accept takes connections until the front is closed.
func (p *Proxy) accept() error {
	return stream.Accept(p.ctx, p.front.Listener, p.cfg.Log.With("service", "egress"), func(c net.Conn) {
		if !p.cfg.Quota.Enter() || !p.tasks.Go(func() { p.sort(c) }) {
			p.cfg.Quota.Leave()
			stream.Reset(c)
		}
	})
}

// sort finds out what a connection speaks, and hands it to whoever serves that.
func (p *Proxy) sort(conn net.Conn) {
	if !p.tunnels.Add(conn) {
		p.cfg.Quota.Leave()
		return
	}
	deadline := time.Now().Add(headTimeout)
	err := conn.SetReadDeadline(deadline)
	first, peekErr := firstByte(conn)
	if err = errors.Join(err, peekErr); err != nil || first == socksVersion {
		if err == nil {
			p.socks(conn, deadline)
		}
		p.tunnels.Remove(conn)
		p.cfg.Quota.Leave()
		return
	}
	_ = conn.SetReadDeadline(time.Time{}) // the server has its own
	p.tunnels.Release(conn)
	select {
	case p.front.http <- conn:
	case <-p.front.done:
		conn.Close()
		p.cfg.Quota.Leave()
	}
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
		n, peek = stream.Peek(fd, buf[:])
		return !errors.Is(peek, syscall.EAGAIN)
	})
	if err = errors.Join(err, peek); err == nil && n == 0 {
		err = io.EOF
	}
	return buf[0], err
}
