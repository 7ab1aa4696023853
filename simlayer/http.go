package simlayer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// callProxy takes calls of HTTP from a listener to the node and back.
type callProxy struct {
	layer *Layer
	proxy *httputil.ReverseProxy
}

func newCallProxy(l *Layer) *callProxy {
	p := &callProxy{layer: l}
	p.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      p,
		ModifyResponse: p.modify,
		ErrorHandler:   p.refuse,
		BufferPool:     &bufferPool{},
		ErrorLog:       slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	return p
}

// rewrite undoes what ReverseProxy changes and a caller of the node without a
// layer would not see.
func rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values := in.Header[name]; values != nil {
			out.Header[name] = values
		}
	}
	out.URL.RawQuery = in.URL.RawQuery
	out.Trailer = in.Trailer // filled while the body is read
	// A path that is not in Go's own form goes on in the caller's.
	path, _, _ := strings.Cut(in.RequestURI, "?")
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") && path != out.URL.EscapedPath() {
		out.URL.Opaque = path
	}
	toNode(out)
}

// toNode addresses a request to the backend that its transport dials.
func toNode(r *http.Request) { r.URL.Scheme, r.URL.Host = "http", "node" }

// streamLong makes ReverseProxy flush every piece of a long response; it does so
// for those of unknown length by itself, and what is short goes out in one piece.
func streamLong(resp *http.Response) error {
	if resp.ContentLength >= streamFrom {
		resp.ContentLength = -1
	}
	return nil
}

// modify changes how a response is passed on.
func (p *callProxy) modify(resp *http.Response) error {
	if c := callOf(resp.Request.Context()); c.plain && !c.stay && p.layer.gate.isOpen() && resp.StatusCode != http.StatusSwitchingProtocols {
		// The caller needs no simulation any more: its next connection is
		// relayed.
		resp.Header.Set("Connection", "close")
	} else if !c.http2 && c.body.lingers() {
		resp.Header.Set("Connection", "close")
	}
	return streamLong(resp)
}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, copyBuffer)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }

// call is one call of HTTP on its way.
type call struct {
	listener *listener
	parent   context.Context // ends with the caller's connection
	cut      context.CancelCauseFunc
	patience patience
	ticket   *ticket // while it is at the node
	version  bundle.Version
	native   bundle.Version
	via      bundle.Version // whose object process it goes to, or 0
	plain    bool           // it could be relayed
	hidden   *observer      // which does not see what it comes to at the node, or nil
	body     *callerBody
	// unsafe: a request that must not be sent twice may have reached the node.
	unsafe  atomic.Bool
	outcome outcome
	began   time.Time
	counted *counters // where it counts as open
	http2   bool
	hops    int  // behind it: see so.Hop
	stay    bool // see handed
}

type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// serve answers one call.
func (p *callProxy) serve(w http.ResponseWriter, r *http.Request, f *listener) {
	if !p.layer.tasks.begin() {
		panic(http.ErrAbortHandler)
	}
	defer p.layer.tasks.end()
	ctx, cut := context.WithCancelCause(r.Context())
	defer cut(nil)
	c := &call{
		listener: f, parent: r.Context(), cut: cut, version: f.label, outcome: failed,
		began: time.Now(), http2: r.ProtoMajor == 2, hops: so.Hops(r.Header),
	}
	if h := handedOf(ctx); h != nil {
		c.stay = h.stay
		if waited := h.waited.Swap(nil); waited != nil {
			c.patience = *waited
		}
	}
	defer p.end(c)
	r = r.WithContext(context.WithValue(ctx, callKey{}, c))
	var err error
	if c.body, err = takeBody(w, r, p.layer.cfg.Limits.Replay); err == nil && r.Method == http.MethodConnect {
		err = so.Fail(http.StatusNotImplemented, nil, "CONNECT is for proxies; this is a service of a node")
	}
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	defer c.body.end()
	c.outcome = answered
	finished := false
	defer func() {
		// ReverseProxy panics where a response ends in the middle.
		if !finished {
			c.outcome = failed
		}
	}()
	w.Header()["Content-Type"] = nil // else the server would guess one where the node names none
	p.proxy.ServeHTTP(w, r)
	finished = true
}

// end lets a call out of the gate and counts it.
func (p *callProxy) end(c *call) {
	if c.ticket != nil {
		p.leave(c)
	}
	if c.outcome == failed && c.parent.Err() != nil {
		c.outcome = canceled
	}
	if c.version == 0 {
		c.version = p.layer.externalVersion(c.listener.service, p.layer.gate.current())
	}
	c.counted.done()
	c.listener.service.tally.of(c.version).ended(c.outcome, c.patience.spent, c.began)
}

// leave takes a call out of the gate. The last connections of a routing that is
// no longer in force go with its calls.
func (p *callProxy) leave(c *call) {
	t := c.ticket
	c.ticket = nil
	if c.hidden != nil {
		c.hidden.show()
		c.hidden = nil
	}
	if !p.layer.gate.leave(t) {
		t.route.release(p.layer.gate.current())
	}
}

// RoundTrip gets a call through the gate to the node. It implements
// http.RoundTripper for the ReverseProxy.
func (p *callProxy) RoundTrip(r *http.Request) (*http.Response, error) {
	c := callOf(r.Context())
	gate := p.layer.gate
	pause := minPause
	for tries := 1; ; tries++ {
		t, err := gate.enter(r.Context(), &c.patience, func() { c.cut(errCut) })
		if err != nil {
			return nil, p.held(c, err, nil)
		}
		c.ticket = t
		resp, err := p.attempt(c, t.route, r)
		if err == nil {
			return resp, nil
		}
		if !c.again(r, err, tries) {
			return nil, explain(c.unsafe.Load(), err)
		}
		p.leave(c)
		if over := gate.rest(r.Context(), &c.patience, t.route, pause); over != nil {
			return nil, p.held(c, over, err)
		}
		pause = min(2*pause, maxPause)
	}
}

// attempt makes one try under one routing.
func (p *callProxy) attempt(c *call, route *route, r *http.Request) (*http.Response, error) {
	version := c.listener.label
	if version == 0 {
		version = p.layer.externalVersion(c.listener.service, route)
	}
	c.version, c.native = version, route.native
	path, backend, err := route.path(version, c.listener.service.name)
	if err != nil {
		return nil, err
	}
	c.via, c.plain = path.via, route.relays(path, c.listener.service)
	if c.counted == nil {
		if err := c.listener.room(route, path, version); err != nil {
			return nil, err
		}
	}
	c.counted = c.listener.service.tally.begun(version, c.counted)
	out := r.WithContext(r.Context())
	c.body.renew(out)
	sees, err := c.observed(r.Context(), route)
	if err != nil {
		return nil, err
	}
	resp, err := path.chain.Answer(out, nodeTrip{c, backend, sees})
	if err != nil {
		return nil, route.sign(err)
	}
	if path.via != 0 {
		c.outcome = refusedBy(resp.Header.Get(so.RefusalHeader))
	}
	return resp, nil
}

// refusedBy is the outcome of a call that an object process has answered, by its
// so.RefusalHeader.
func refusedBy(header string) outcome {
	switch header {
	case so.RefusalDenied:
		return denied
	case so.RefusalError:
		return failed
	}
	return answered
}

// versionUnder is the version of the listener's callers.
func (f *listener) versionUnder(r *route) bundle.Version {
	if f.label != 0 {
		return f.label
	}
	return f.layer.externalVersion(f.service, r)
}

// externalVersion is the version of callers of a public address.
func (l *Layer) externalVersion(s *service, r *route) bundle.Version {
	if s.External != 0 {
		return s.External
	}
	return r.external
}

// nodeTrip is the end of a chain: it sends requests to the node.
type nodeTrip struct {
	call    *call
	backend *backend
	sees    *observer // of what goes to the node, or nil
}

func (n nodeTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "http" || r.URL.Host != "node" {
		u := *r.URL
		r = r.WithContext(r.Context())
		r.URL = &u
		toNode(r)
	}
	if n.call.via != 0 {
		var err error
		if r, err = so.Hop(r, n.call.hops); err != nil {
			return nil, err
		}
	}
	var seen *seeing
	if n.sees != nil {
		seen, r = n.sees.see(n.call.listener.service.name, r)
	}
	resp, err := n.backend.transport(n.call.http2).RoundTrip(r)
	if !safe(r.Method) && !isDialError(err) {
		n.call.unsafe.Store(true)
	}
	if seen != nil {
		return seen.answered(resp, err)
	}
	return resp, err
}

// safe reports whether a method may be sent again when nobody knows whether it
// was carried out (RFC 9110, 9.2.1).
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// again reports whether a failed call may be tried again.
func (c *call) again(r *http.Request, err error, tries int) bool {
	var refusal *so.Refusal
	if errors.As(err, &refusal) || r.Context().Err() != nil || c.unsafe.Load() || !c.body.whole() {
		return false
	}
	return isDialError(err) || tries < maxTries
}

// held makes the end of a wait a refusal. last is why the call did not get
// through when it was let in, or nil.
func (p *callProxy) held(c *call, err, last error) error {
	return p.layer.heldRefusal(err, last, c.via, c.patience.limit)
}

// heldRefusal makes the end of a wait a refusal. last is why the call did not get
// through when it was let in, or nil; via is the version whose object process it
// then called, or 0.
func (l *Layer) heldRefusal(err, last error, via bundle.Version, limit time.Duration) error {
	var refusal *so.Refusal
	switch {
	case errors.Is(err, errHeldTooLong) && last != nil && via != 0:
		refusal = so.Fail(http.StatusServiceUnavailable, last, "the simulation object for version %d is not running: it did not take calls for %v; try again later: %v", via, limit, last)
	case errors.Is(err, errHeldTooLong) && last != nil:
		refusal = so.Fail(http.StatusServiceUnavailable, last, "the node did not take calls for %v; try again later: %v", limit, last)
	case errors.Is(err, errHeldTooLong):
		refusal = so.Fail(http.StatusServiceUnavailable, nil, "the node is down for longer than calls are held, which is %v; try again later", limit)
	case errors.Is(err, errHeldTooMany):
		refusal = so.Fail(http.StatusServiceUnavailable, nil, "the node is down, and %d calls wait for it already; try again later", l.cfg.Limits.Held)
	case errors.Is(err, ErrClosed):
		refusal = so.Fail(http.StatusServiceUnavailable, nil, "the agent of this node ends; try again later")
	default:
		return err
	}
	refusal.RetryAfter = retryAfter
	return refusal
}

// refuse answers a call that got no response. It is ReverseProxy's ErrorHandler.
func (p *callProxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	c.outcome = failed
	if c.parent.Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	refusal := *so.AsRefusal(err)
	if !c.http2 && c.body.lingers() {
		w.Header().Set("Connection", "close")
	}
	if errors.Is(context.Cause(r.Context()), errCut) {
		refusal = *cutRefusal(err)
		w.Header().Set("Connection", "close")
	}
	if refusal.Denied {
		c.outcome = denied
	}
	if refusal.From == 0 {
		refusal.From, refusal.To = c.version, c.native
	}
	p.layer.log.Debug("call refused", "service", c.listener.service.name, "from", refusal.From, "to", refusal.To, "status", refusal.Status, "denied", refusal.Denied, "error", &refusal)
	refusal.WriteTo(w, r)
}

// callerBody is a caller's body. A short one is read before the call is let in:
// then a slow caller delays no drain, and the call can be tried again.
type callerBody struct {
	data []byte // if short
	in   io.Reader

	mu     sync.Mutex
	used   bool // something was read from in
	closed bool
	ended  bool // all has been read from in
}

// takeBody reads a short body of r, up to limit, or takes over a long one.
func takeBody(w http.ResponseWriter, r *http.Request, limit int) (*callerBody, error) {
	b := &callerBody{}
	switch {
	case r.ContentLength == 0 || r.Body == nil:
	case r.ContentLength > 0 && r.ContentLength <= int64(limit):
		b.data = make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, b.data); err != nil {
			return b, so.Fail(http.StatusBadRequest, err, "the body of the call cannot be read: %v", err)
		}
		r.Header.Del("Expect") // it was answered by reading
	default:
		b.in = r.Body
		// The answer may begin before the body has ended. HTTP/2 needs no asking.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	return b, nil
}

// renew gives a try of the call its body.
func (b *callerBody) renew(r *http.Request) {
	switch {
	case b.data != nil:
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.data)), nil }
		r.Body, _ = r.GetBody()
	case b.in != nil:
		r.Body = io.NopCloser(b)
	}
}

// whole reports whether the body can be sent from its start.
func (b *callerBody) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.used
}

// Read implements io.Reader for a long body. The lock is not held while it waits
// for the caller: a transport may go on reading for an instant after a call has
// ended, and must then not hinder end.
func (b *callerBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.used = true
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return 0, errors.New("the call has ended")
	}
	n, err := b.in.Read(p)
	if err == io.EOF {
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
	}
	return n, err
}

// lingers reports whether the caller still sends the body. Then its answer must be
// the last of a connection of HTTP/1.1: net/http would throw the rest away with
// nobody to stop what begins to watch the caller at its end, and break the agent
// when that gets in the way of the next call.
func (b *callerBody) lingers() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.in != nil && !b.ended
}

// end lets nothing more be read.
func (b *callerBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}
