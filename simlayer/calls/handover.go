package calls

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"moult/simlayer/gate"
	"moult/simlayer/stream"
)

// handover is the net.Listener of a server of net/http whose connections come from
// elsewhere, with the bytes that were read from them.
type handover struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.addr }

// give hands over a connection. It is closed where nobody takes it any more: false.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		c.Close()
		return false
	}
}

// handed is a connection from which something was read before.
type handed struct {
	net.Conn
	before []byte
	stay   bool // its calls are no better off on a relayed connection
	waited atomic.Pointer[gate.Patience]
}

type handedKey struct{}

// handedOf returns the connection of a call, nil where it is another's.
func handedOf(ctx context.Context) *handed {
	c, _ := ctx.Value(handedKey{}).(*handed)
	return c
}

func (c *handed) Read(p []byte) (int, error) {
	if len(c.before) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.before)
	if c.before = c.before[n:]; len(c.before) == 0 {
		c.before = nil
	}
	return n, nil
}

func (c *handed) CloseWrite() error {
	stream.CloseWrite(c.Conn)
	return nil
}

// takesHanded makes a server know the connections that are handed over to it.
func takesHanded(s *http.Server) *http.Server {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, handedKey{}, c)
	}
	return s
}
