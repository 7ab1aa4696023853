package routes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"moult/simlayer/attach"
	"moult/simlayer/proxy"
	"moult/simlayer/stream"
)

// Backend is one service of the node's software, or of an object process.
type Backend struct {
	Network, Addr string
	http, http2   *http.Transport

	mu     sync.Mutex
	conns  map[net.Conn]bool // mu; of the transports; nil once the backend is left
	relays map[Relayed]bool  // mu; likewise
}

// Relayed is a connection to a backend that a relay has.
type Relayed interface {
	// Release closes it, or makes it end with the calls that are on.
	Release()
	// Warn asks the caller, where the protocol can, to make further calls by another
	// connection; those that come by this one are taken.
	Warn()
	// Drain tells the caller, where the protocol can, that no more calls are
	// taken on its connection.
	Drain()
	// Close closes it.
	Close()
}

// Leave closes every connection to the software: it is called when no call is
// at the node any more. The transport alone would keep those that it has dialled
// and not used yet, and for these a server that ends politely waits.
func (b *Backend) Leave() {
	b.mu.Lock()
	conns, relays := b.conns, b.relays
	b.conns, b.relays = nil, nil
	b.mu.Unlock()
	for c := range conns {
		_ = c.Close() // nobody uses it
	}
	for r := range relays {
		r.Close()
	}
	b.http.CloseIdleConnections()
	b.http2.CloseIdleConnections()
}

// release closes the connections that nobody uses.
func (b *Backend) release() {
	for _, r := range b.Relaying() {
		r.Release()
	}
	b.http.CloseIdleConnections()
	b.http2.CloseIdleConnections()
}

// Relaying lists the relayed connections.
func (b *Backend) Relaying() []Relayed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.relays))
}

// Transport is what calls of HTTP/2 go by, or of HTTP/1.1.
func (b *Backend) Transport(http2 bool) *http.Transport {
	if http2 {
		return b.http2
	}
	return b.http
}

// KeepRelay remembers a relayed connection; false: the backend has been left meanwhile.
func (b *Backend) KeepRelay(r Relayed) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		return false
	}
	b.relays[r] = true
	return true
}

// ForgetRelay forgets one.
func (b *Backend) ForgetRelay(r Relayed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.relays, r)
}

// keep remembers a new connection; false: the backend has been left meanwhile.
func (b *Backend) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		return false
	}
	b.conns[c] = true
	return true
}

// Left reports whether the backend has been left: it is of no more use.
func (b *Backend) Left() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns == nil
}

func (b *Backend) forget(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

// keptConn is a connection that its backend remembers until it is closed.
type keptConn struct {
	net.Conn
	b *Backend
}

func (c *keptConn) Close() error {
	c.b.forget(c)
	return c.Conn.Close()
}

// Another returns a backend of the same address, with connections of its own.
func (b *Backend) Another() *Backend {
	o := &Backend{Network: b.Network, Addr: b.Addr, conns: map[net.Conn]bool{}, relays: map[Relayed]bool{}}
	o.addTransports()
	return o
}

// NewBackend returns the backend at an address: "host:port", or, but for UDP, "unix:" and
// the path of a socket.
func NewBackend(network, text string) (*Backend, error) {
	b := &Backend{Network: network, Addr: text, conns: map[net.Conn]bool{}, relays: map[Relayed]bool{}}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		b.Network, b.Addr = "unix", path
		switch {
		case path == "":
			return nil, fmt.Errorf("%q: want unix: and a path", text)
		case network == "udp":
			return nil, fmt.Errorf("%q: want host:port for a service that speaks udp", text)
		}
	} else if _, port, err := stream.SplitAddr(text); err != nil {
		return nil, err
	} else if port == 0 {
		return nil, fmt.Errorf("%q: want a port", text)
	}
	b.addTransports()
	return b, nil
}

func (b *Backend) addTransports() {
	b.http = proxy.NewTransport(b.dialKept, false, IdleBackend)
	b.http2 = proxy.NewTransport(b.dialKept, true, IdleBackend)
}

// Dial connects past the layer's own socket, where the address has another.
func (b *Backend) Dial(ctx context.Context) (net.Conn, error) {
	return dialBy(ctx, net.Dialer{Timeout: dialTimeout, ControlContext: attach.DialControl}, b.Network, b.Addr)
}

// dialKept dials for the transport.
func (b *Backend) dialKept(ctx context.Context) (net.Conn, error) {
	conn, err := b.Dial(ctx)
	if err != nil {
		return nil, err
	}
	kept := &keptConn{Conn: conn, b: b}
	if !b.keep(kept) {
		return nil, &proxy.DialError{Err: errors.Join(ErrLeft, conn.Close())}
	}
	return kept, nil
}

// ErrLeft ends a dial to software that is about to be stopped.
var ErrLeft = errors.New("the node is going down")

func dialBy(ctx context.Context, d net.Dialer, network, addr string) (net.Conn, error) {
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &proxy.DialError{Err: err}
	}
	return conn, nil
}
