package simlayer

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

// backend is one service of the node's software, or of an object process.
type backend struct {
	network, addr string
	http, http2   *http.Transport

	mu     sync.Mutex
	conns  map[net.Conn]bool // mu; of the transports; nil once the backend is left
	relays map[relayed]bool  // mu; likewise
}

// relayed is a connection to a backend that a relay has.
type relayed interface {
	// release closes it, or makes it end with the calls that are on.
	release()
	// warn asks the caller, where the protocol can, to make further calls by another
	// connection; those that come by this one are taken.
	warn()
	// drain tells the caller, where the protocol can, that no more calls are
	// taken on its connection.
	drain()
	close()
}

// leave closes every connection to the software: it is called when no call is
// at the node any more. The transport alone would keep those that it has dialled
// and not used yet, and for these a server that ends politely waits.
func (b *backend) leave() {
	b.mu.Lock()
	conns, relays := b.conns, b.relays
	b.conns, b.relays = nil, nil
	b.mu.Unlock()
	for c := range conns {
		_ = c.Close() // nobody uses it
	}
	for r := range relays {
		r.close()
	}
	b.http.CloseIdleConnections()
	b.http2.CloseIdleConnections()
}

// release closes the connections that nobody uses.
func (b *backend) release() {
	for _, r := range b.relaying() {
		r.release()
	}
	b.http.CloseIdleConnections()
	b.http2.CloseIdleConnections()
}

// relaying lists the relayed connections.
func (b *backend) relaying() []relayed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.relays))
}

// transport is what calls of HTTP/2 go by, or of HTTP/1.1.
func (b *backend) transport(http2 bool) *http.Transport {
	if http2 {
		return b.http2
	}
	return b.http
}

// keepRelay is keep for a relayed connection.
func (b *backend) keepRelay(r relayed) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		return false
	}
	b.relays[r] = true
	return true
}

func (b *backend) forgetRelay(r relayed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.relays, r)
}

// keep remembers a new connection; false: the backend has been left meanwhile.
func (b *backend) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		return false
	}
	b.conns[c] = true
	return true
}

// left reports whether the backend has been left: it is of no more use.
func (b *backend) left() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns == nil
}

func (b *backend) forget(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

// keptConn is a connection that its backend remembers until it is closed.
type keptConn struct {
	net.Conn
	b *backend
}

func (c *keptConn) Close() error {
	c.b.forget(c)
	return c.Conn.Close()
}

// another returns a backend of the same address, with connections of its own.
func (b *backend) another() *backend {
	o := &backend{network: b.network, addr: b.addr, conns: map[net.Conn]bool{}, relays: map[relayed]bool{}}
	o.addTransports()
	return o
}

func newBackend(network, text string) (*backend, error) {
	b := &backend{network: network, addr: text, conns: map[net.Conn]bool{}, relays: map[relayed]bool{}}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		b.network, b.addr = "unix", path
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

func (b *backend) addTransports() {
	b.http = proxy.NewTransport(b.dialKept, false, idleBackend)
	b.http2 = proxy.NewTransport(b.dialKept, true, idleBackend)
}

// dial connects past the layer's own socket, where the address has another.
func (b *backend) dial(ctx context.Context) (net.Conn, error) {
	return dialBy(ctx, net.Dialer{Timeout: dialTimeout, ControlContext: attach.DialControl}, b.network, b.addr)
}

// dialKept dials for the transport.
func (b *backend) dialKept(ctx context.Context) (net.Conn, error) {
	conn, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	kept := &keptConn{Conn: conn, b: b}
	if !b.keep(kept) {
		return nil, &proxy.DialError{Err: errors.Join(errLeft, conn.Close())}
	}
	return kept, nil
}

// errLeft ends a dial to software that is about to be stopped.
var errLeft = errors.New("the node is going down")

func dialBy(ctx context.Context, d net.Dialer, network, addr string) (net.Conn, error) {
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &proxy.DialError{Err: err}
	}
	return conn, nil
}
