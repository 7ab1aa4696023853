package simlayer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// egress is the proxy for the node's own calls: of HTTP, and of SOCKS5 (socks.go)
// on the same address.
type egress struct {
	layer     *Layer
	listener  net.Listener
	front     *egressFront
	server    *http.Server
	transport *http.Transport
	proxy     *proxy.Proxy
	tunnels   connSet
	hijacked  sync.Map // connections of the server that are tunnels
	held      atomic.Int64
	count     counters
}

func (l *Layer) startEgress(addr string) (*egress, error) {
	ln, err := stream.Listen(l.ctx, addr)
	if err != nil {
		return nil, err
	}
	e := &egress{layer: l, listener: ln, front: newEgressFront(ln)}
	e.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dial(ctx, network, addr, egressDialTimeout)
		},
		DisableCompression:    true,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       idleEgress,
		ExpectContinueTimeout: time.Second,
	}
	e.proxy = proxy.New(proxy.Config{Transport: e, Refuse: e.refusal, Log: l.log})
	e.server = e.newServer()
	for _, serve := range []func() error{func() error { return e.server.Serve(e.front) }, e.accept} {
		l.tasks.begin()
		go func() {
			defer l.tasks.end()
			if err := serve(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				l.log.Error("egress proxy failed", "address", ln.Addr().String(), "error", err)
			}
		}()
	}
	return e, nil
}

func (e *egress) close() {
	e.server.Close()
	e.front.Close() // the server may not have begun
	e.tunnels.close()
	e.transport.CloseIdleConnections()
}

// outgoing is one call of the node.
type outgoing struct {
	proxy.Call
	dest     string         // host:port
	version  bundle.Version // that the call is labelled with
	patience patience
	outcome  outcome
}

// ServeHTTP implements http.Handler.
func (e *egress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !e.layer.tasks.begin() {
		panic(http.ErrAbortHandler)
	}
	defer e.layer.tasks.end()
	defer e.uncount(r)
	o := &outgoing{outcome: failed}
	parent := r.Context()
	// Connections that were upgraded outlive the server, so they end with ctx.
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	defer context.AfterFunc(e.layer.ctx, cancel)()
	r = r.WithContext(ctx)
	defer func() {
		if o.outcome == failed && parent.Err() != nil {
			o.outcome = canceled
		}
		e.count.calls.Add(1)
		e.count.end(o.outcome, o.patience.spent)
	}()
	if err := e.forward(w, r, o); err != nil {
		e.refuse(o, r, err).WriteTo(w, r)
	}
}

// forward carries out a call, or says why not.
func (e *egress) forward(w http.ResponseWriter, r *http.Request, o *outgoing) error {
	if err := e.destination(o, r); err != nil {
		return err
	}
	if err := e.label(r.Context(), o); err != nil {
		return err
	}
	_, isPeer, err := e.resolve(o)
	if err != nil {
		return err
	}
	if r.Method == http.MethodConnect {
		return e.tunnel(w, r, o)
	}
	keep := 0
	if isPeer {
		keep = egressReplay
	}
	e.proxy.Serve(w, r, o, keep)
	return nil
}

// label finds out which version the calling software speaks. Before the first
// routing nobody knows; the call waits, for without a label a peer would take it
// for one from outside.
func (e *egress) label(ctx context.Context, o *outgoing) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if o.version = e.layer.gate.current().egress; o.version != 0 {
			return nil
		}
		if err := e.rest(ctx, o, pause); err != nil {
			refusal := so.Fail(http.StatusServiceUnavailable, err, "the agent of this node has not yet found out which version the node runs: %v", err)
			refusal.RetryAfter = retryAfter
			return refusal
		}
	}
}

// destination finds out where the node wants to call.
func (e *egress) destination(o *outgoing, r *http.Request) error {
	host, port := r.URL.Hostname(), r.URL.Port()
	switch {
	case r.Method == http.MethodConnect:
		host, port, _ = net.SplitHostPort(r.Host)
	case r.URL.Scheme == "" || host == "":
		return so.Fail(http.StatusBadRequest, nil, "this is the proxy for calls of a node to its peers; it needs a whole URL, as in GET http://peer:7000/")
	case r.URL.Scheme != "http":
		return so.Fail(http.StatusBadRequest, nil, "the proxy takes http:// URLs and CONNECT, not %.20s://", r.URL.Scheme)
	case port == "":
		port = "80"
	}
	o.dest = net.JoinHostPort(host, port)
	if host == "" || port == "" {
		return so.Fail(http.StatusBadRequest, nil, "CONNECT %.200q: want host:port", r.Host)
	}
	return e.notItself(o.dest)
}

func (e *egress) notItself(dest string) error {
	if sameAddr(e.listener.Addr(), dest) {
		return so.Fail(http.StatusLoopDetected, nil, "%s is this proxy itself", dest)
	}
	return nil
}

// resolve finds the address to dial.
func (e *egress) resolve(o *outgoing) (addr string, isPeer bool, err error) {
	addr, isPeer, err = e.layer.cfg.Resolve(o.dest, o.version)
	switch {
	case !isPeer:
		return o.dest, false, nil
	case err != nil:
		return "", true, so.Fail(http.StatusBadGateway, err, "the peer at %s cannot be called by version %d: %v", o.dest, o.version, err)
	}
	return addr, true, nil
}

// RoundTrip sends one call, and again while a peer is briefly away. It implements
// http.RoundTripper for the proxy.
func (e *egress) RoundTrip(r *http.Request) (*http.Response, error) {
	o := proxy.Of[*outgoing](r.Context())
	pause := minPause
	for tries := 1; ; tries++ {
		addr, isPeer, err := e.resolve(o)
		if err != nil {
			return nil, err
		}
		out := proxy.To(r, addr).WithContext(r.Context())
		o.Renew(out)
		resp, err := e.transport.RoundTrip(out)
		if err == nil {
			o.outcome = answered
			return resp, nil
		}
		o.Sent(r.Method, err)
		again := o.Again(r.Context(), err) && (proxy.IsDialError(err) || tries < maxTries)
		if !isPeer || !again {
			return nil, o.unreachable(addr, isPeer, err)
		}
		if e.rest(r.Context(), o, pause) != nil {
			return nil, o.unreachable(addr, isPeer, err)
		}
		pause = min(2*pause, maxPause)
	}
}

// unreachable is the refusal of a call that did not get through.
func (o *outgoing) unreachable(addr string, isPeer bool, err error) error {
	if !isPeer {
		return so.Fail(http.StatusBadGateway, err, "%s: %v", o.dest, err)
	}
	waited := ""
	if o.patience.spent > 0 {
		waited = fmt.Sprintf(" for %v", o.patience.spent.Round(time.Millisecond))
	}
	refusal := so.Fail(http.StatusBadGateway, err, "the peer at %s, at %s for version %d, did not answer%s: %v", o.dest, addr, o.version, waited, err)
	refusal.RetryAfter = retryAfter
	return refusal
}

// rest lets a call wait before it is tried again.
func (e *egress) rest(ctx context.Context, o *outgoing, pause time.Duration) error {
	if e.held.Add(1) > int64(e.layer.cfg.Limits.Held) {
		e.held.Add(-1)
		return errHeldTooMany
	}
	defer e.held.Add(-1)
	o.patience.start(e.layer.gate.current().hold)
	if o.patience.spent >= o.patience.limit {
		return errHeldTooLong
	}
	began := time.Now()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	defer func() { o.patience.spent += time.Since(began) }()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.layer.ctx.Done():
		return ErrClosed
	}
}

// refusal says with what a call is answered that got no response.
func (e *egress) refusal(_ http.Header, r *http.Request, err error) *so.Refusal {
	return e.refuse(proxy.Of[*outgoing](r.Context()), r, err)
}

func (e *egress) refuse(o *outgoing, r *http.Request, err error) *so.Refusal {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	refusal := *so.AsRefusal(err)
	refusal.From = o.version
	e.layer.log.Debug("call of the node failed", "destination", o.dest, "status", refusal.Status, "error", &refusal)
	return &refusal
}

// tunnel carries out a CONNECT. It returns an error only while the caller can
// still be answered.
func (e *egress) tunnel(w http.ResponseWriter, r *http.Request, o *outgoing) error {
	up, err := e.connect(r.Context(), o)
	if err != nil {
		return err
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		up.Close()
		return so.Fail(http.StatusInternalServerError, err, "CONNECT: %v", err)
	}
	defer conn.Close()
	defer up.Close()
	if !e.tunnels.add(conn) || !e.tunnels.add(up) {
		return nil
	}
	defer e.tunnels.remove(conn)
	defer e.tunnels.remove(up)
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil
	}
	if _, err := io.Copy(up, bytes.NewReader(early)); err != nil {
		return nil
	}
	o.outcome = answered
	stream.Splice(conn, up)
	return nil
}

// connect dials the destination of a CONNECT, and again while a peer is briefly
// away.
func (e *egress) connect(ctx context.Context, o *outgoing) (net.Conn, error) {
	pause := minPause
	for {
		addr, isPeer, err := e.resolve(o)
		if err != nil {
			return nil, err
		}
		up, err := dial(ctx, "tcp", addr, egressDialTimeout)
		if err == nil {
			return up, nil
		}
		if !isPeer || ctx.Err() != nil || e.rest(ctx, o, pause) != nil {
			return nil, o.unreachable(addr, isPeer, err)
		}
		pause = min(2*pause, maxPause)
	}
}
