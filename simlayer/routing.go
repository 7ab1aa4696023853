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
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// route is a Routing made ready. It does not change.
type route struct {
	native, external bundle.Version
	egress           bundle.Version // 0 before the first routing
	down             bool
	hold             time.Duration
	backends         map[string]*backend
	chains           map[bundle.Version]*so.Chain
}

// newRoute checks r and makes it ready. Backends that old has too keep their
// connections.
func newRoute(r Routing, services map[string]Service, old *route) (*route, error) {
	switch {
	case r.Native < 1 || r.Native > bundle.MaxVersion:
		return nil, fmt.Errorf("native version %d, want 1 to %d", r.Native, bundle.MaxVersion)
	case r.Egress > bundle.MaxVersion:
		return nil, fmt.Errorf("egress version %d, want at most %d", r.Egress, bundle.MaxVersion)
	case r.HoldTimeout < 0 || r.HoldTimeout > MaxHoldTimeout:
		return nil, fmt.Errorf("hold timeout %v, want 0 to %v", r.HoldTimeout, MaxHoldTimeout)
	}
	n := &route{
		native:   r.Native,
		external: r.External,
		egress:   r.Egress,
		down:     r.Down,
		hold:     r.HoldTimeout,
		backends: map[string]*backend{},
		chains:   so.Chains(r.Native, r.Objects),
	}
	if n.external == 0 {
		n.external = n.native
	}
	if n.egress == 0 {
		n.egress = n.native
	}
	if n.hold == 0 {
		n.hold = DefaultHoldTimeout
	}
	for _, name := range slices.Sorted(maps.Keys(r.Backends)) {
		if _, ok := services[name]; !ok {
			return nil, fmt.Errorf("backend %s of service %q: there is no such service", r.Backends[name], name)
		}
		b, err := newBackend(r.Backends[name])
		if err != nil {
			return nil, fmt.Errorf("backend of service %q: %w", name, err)
		}
		if same := old.backends[name]; same != nil && same.network == b.network && same.addr == b.addr && old.native == n.native && !old.down && !same.left() {
			b = same
		}
		n.backends[name] = b
	}
	for name := range services {
		if n.backends[name] == nil && !n.down {
			return nil, fmt.Errorf("service %q: no backend, and the node is not down", name)
		}
	}
	return n, nil
}

// versions returns those that the route answers.
func (r *route) versions() []bundle.Version {
	return slices.Sorted(maps.Keys(r.chains))
}

// chain returns what answers callers of version v.
func (r *route) chain(v bundle.Version) (*so.Chain, error) {
	if c := r.chains[v]; c != nil {
		return c, nil
	}
	return nil, &so.Refusal{
		Status: http.StatusNotImplemented,
		Reason: fmt.Sprintf("this node runs version %d and has no simulation object for callers of version %d", r.native, v),
		From:   v, To: r.native,
	}
}

// release lets go of connections that keep does not use.
func (r *route) release(keep *route) {
	for name, b := range r.backends {
		if keep == nil || keep.backends[name] != b {
			b.http.CloseIdleConnections()
		}
	}
}

// backend is one service of the node's software.
type backend struct {
	network, addr string
	http          *http.Transport

	mu    sync.Mutex
	conns map[net.Conn]bool // mu; nil once the backend is left
}

// leave closes every connection to the software: it is called when no call is
// at the node any more. The transport alone would keep those that it has dialled
// and not used yet, and for these a server that ends politely waits.
func (b *backend) leave() {
	b.mu.Lock()
	conns := b.conns
	b.conns = nil
	b.mu.Unlock()
	for c := range conns {
		_ = c.Close() // nobody uses it
	}
	b.http.CloseIdleConnections()
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

func newBackend(text string) (*backend, error) {
	b := &backend{network: "tcp", addr: text, conns: map[net.Conn]bool{}}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		b.network, b.addr = "unix", path
		if path == "" {
			return nil, fmt.Errorf("%q: want unix: and a path", text)
		}
	} else if _, port, err := splitAddr(text); err != nil {
		return nil, err
	} else if port == 0 {
		return nil, fmt.Errorf("%q: want a port", text)
	}
	b.http = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return b.dialKept(ctx) },
		DisableCompression:     true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        idleBackend,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
	return b, nil
}

// dialError is a failure to connect: nothing of a call was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

func (b *backend) dial(ctx context.Context) (net.Conn, error) {
	return dial(ctx, b.network, b.addr, dialTimeout)
}

// dialKept dials for the transport.
func (b *backend) dialKept(ctx context.Context) (net.Conn, error) {
	conn, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	kept := &keptConn{Conn: conn, b: b}
	if !b.keep(kept) {
		return nil, &dialError{errors.Join(errLeft, conn.Close())}
	}
	return kept, nil
}

// errLeft ends a dial to software that is about to be stopped.
var errLeft = errors.New("the node is going down")

func dial(ctx context.Context, network, addr string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &dialError{err}
	}
	return conn, nil
}
