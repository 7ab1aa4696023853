package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// answerer answers the calls that reach the object host.
type answerer struct {
	server *server
	proxy  *httputil.ReverseProxy
	log    *slog.Logger

	mu   sync.Mutex
	hops map[hopKey]*http.Transport // mu
}

// hopKey is an address to call, and how.
type hopKey struct {
	addr string
	h2c  bool
}

// call is one call on its way.
type call struct {
	at    listener
	h2c   bool   // the caller speaks HTTP/2
	setup *setup // that it began with
	held  []*object
	body  *replayed
	hops  int // behind it: see so.Hop
	// failure is why there was no response, err how the call ended.
	failure, err error
	// unsafe: a request that must not be sent twice may have reached next.
	unsafe atomic.Bool
}

type callKey struct{}

type atKey struct{}

func newAnswerer(s *server) *answerer {
	a := &answerer{server: s, log: s.log, hops: map[hopKey]*http.Transport{}}
	a.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      a,
		ErrorHandler:   a.refuse,
		ModifyResponse: so.PassAtOnce,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return a
}

// withLabel is http.Server.ConnContext.
func withLabel(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(labelledConn); ok {
		return context.WithValue(ctx, atKey{}, l.at)
	}
	return ctx
}

// ServeHTTP implements http.Handler.
func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at, _ := r.Context().Value(atKey{}).(listener)
	c := &call{at: at, h2c: r.ProtoMajor == 2, hops: so.Hops(r.Header)}
	defer c.release(a.log, 0)
	c.setup = a.hold(c, at.Version)
	obj := c.setup.objects[at.Version]
	if obj == nil {
		w.Header().Set("Connection", "close")
		writeRefusal(down(at.Version, 0, "it is not needed here any more"), w, r)
		return
	}
	if obj.Observe != "" && r.URL.Path == obj.Observe {
		a.observed(w, r, c, obj)
		return
	}
	id := obj.tally.begin()
	c.err = errBroken // ReverseProxy panics where a response ends in the middle
	defer func() { obj.tally.end(id, c.err) }()
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	var err error
	if c.body, err = takeBody(w, r); err != nil {
		a.refuse(w, r, err)
		return
	}
	w.Header()["Content-Type"] = nil // else the server would guess one
	a.proxy.ServeHTTP(w, r)
	c.err = c.failure
}

var errBroken = errors.New("the answer broke off")

// rewrite undoes what ReverseProxy changes and a caller without it would not see.
func rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values := in.Header[name]; values != nil {
			out.Header[name] = values
		}
	}
	out.URL.RawQuery = in.URL.RawQuery
	out.Trailer = in.Trailer // filled while the body is read
	path, _, _ := strings.Cut(in.RequestURI, "?")
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") && path != out.URL.EscapedPath() {
		out.URL.Opaque = path
	}
	out.URL.Scheme, out.URL.Host = "http", "next"
}

// RoundTrip runs the objects of a call; ReverseProxy calls it.
func (a *answerer) RoundTrip(r *http.Request) (*http.Response, error) {
	c := r.Context().Value(callKey{}).(*call)
	for tries := 1; ; tries++ {
		c.body.renew(r)
		resp, err := a.answer(c.setup, c.at.Version, c, r)
		if err == nil || !c.again(r, err) || tries == maxTries {
			return resp, err
		}
	}
}

// answer answers a call of version v by one setup, from its object on. The call
// holds the setup's objects.
func (a *answerer) answer(s *setup, v bundle.Version, c *call, r *http.Request) (*http.Response, error) {
	chain := s.chains[v]
	if chain == nil {
		return nil, so.Fail(http.StatusNotImplemented, nil, "version %d: more than %d simulation objects in a row", v, so.MaxChain)
	}
	return chain.Answer(r, &hop{a: a, setup: s, version: chain.Native(), call: c})
}

// hold takes the setup in force, with the objects that calls of version v go
// through: they are not closed before the call has ended.
func (a *answerer) hold(c *call, v bundle.Version) *setup {
	for {
		s := a.server.now.Load()
		held := len(c.held)
		o := s.objects[v]
		for ; o != nil && o.acquire(); o = s.objects[o.To] {
			c.held = append(c.held, o)
		}
		if o == nil {
			return s
		}
		// It was closed: another setup is in force by now.
		c.release(a.log, held)
	}
}

// release lets go of the objects that c holds, but for the first ones.
func (c *call) release(log *slog.Logger, first int) {
	for _, o := range c.held[first:] {
		o.release(log)
	}
	c.held = c.held[:first]
}

// hop is the end of the objects in this process: it calls version, wherever that
// is answered.
type hop struct {
	a       *answerer
	setup   *setup
	version bundle.Version
	call    *call
}

// RoundTrip sends a request to next. While that does not accept, it tries again,
// and follows the orders that come meanwhile.
func (h *hop) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	setup := h.setup
	body := holdBody(r)
	defer body.settle()
	for pause := minDial; ; pause = min(2*pause, maxDial) {
		addr := setup.ends[h.version][h.call.at.Service]
		var err error
		if addr != "" {
			out := toNext(r)
			if out, err = h.counted(out, setup); err != nil {
				return nil, err
			}
			var resp *http.Response
			resp, err = h.a.hop(hopKey{addr, h.call.h2c}).RoundTrip(out)
			if !isDialError(err) {
				if !safe(r.Method) {
					h.call.unsafe.Store(true)
				}
				return resp, err
			}
		}
		if left := setup.hold - time.Since(began); left < pause {
			return nil, h.gone(err, setup.hold)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.Context().Done():
			timer.Stop()
			return nil, r.Context().Err()
		}
		if h.a.server.now.Load() != setup {
			setup = h.a.hold(h.call, h.version)
			if setup.chains[h.version] != nil {
				// The version that was native here has an object by now.
				return h.a.answer(setup, h.version, h.call, r)
			}
			if setup.ends[h.version] == nil {
				return nil, down(h.version, 0, "nobody answers that version any more")
			}
		}
	}
}

func (h *hop) gone(err error, hold time.Duration) error {
	r := so.Fail(http.StatusServiceUnavailable, err, "version %d, which is next, did not take calls for %v; try again later", h.version, hold)
	r.RetryAfter = retryAfter
	return r
}

// counted returns a request as it goes to next: with its number of hops where that
// is another process of an object's, without where it is the node.
func (h *hop) counted(r *http.Request, s *setup) (*http.Request, error) {
	if h.version != s.native {
		return so.Hop(r, h.call.hops)
	}
	if r.Header[so.HopsHeader] != nil {
		r.Header = r.Header.Clone() // r is toNext's, its headers are not
		r.Header.Del(so.HopsHeader)
	}
	return r, nil
}

// toNext addresses a request to whatever the transport dials.
func toNext(r *http.Request) *http.Request {
	u := *r.URL
	u.Scheme, u.Host = "http", "next"
	r = r.WithContext(r.Context())
	r.URL = &u
	return r
}

// dialError is a failure to connect: nothing of a call was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

// hop returns the transport to an address.
func (a *answerer) hop(key hopKey) *http.Transport {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.hops[key]; t != nil {
		return t
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!key.h2c)
	protocols.SetUnencryptedHTTP2(key.h2c)
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dial(ctx, key.addr)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        idleNext,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHead,
	}
	a.hops[key] = t
	return t
}

// forgetBut lets go of the transports that a setup does not use. Calls that use
// them end undisturbed.
func (a *answerer) forgetBut(s *setup) {
	used := map[string]bool{}
	for _, services := range s.ends {
		for _, addr := range services {
			used[addr] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, t := range a.hops {
		if !used[key.addr] {
			t.CloseIdleConnections()
			delete(a.hops, key)
		}
	}
}

func (a *answerer) close() {
	a.forgetBut(&setup{})
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
func (c *call) again(r *http.Request, err error) bool {
	var refusal *so.Refusal
	return !errors.As(err, &refusal) && r.Context().Err() == nil && !c.unsafe.Load() && c.body.whole()
}

// refuse answers a call that got no response. It is ReverseProxy's ErrorHandler.
func (a *answerer) refuse(w http.ResponseWriter, r *http.Request, err error) {
	c := r.Context().Value(callKey{}).(*call)
	c.err, c.failure = err, err
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	refusal := *so.AsRefusal(err)
	if c.unsafe.Load() && refusal.Status == http.StatusBadGateway && !refusal.Denied {
		refusal.Reason = fmt.Sprintf("next went away before it answered; whether it has carried out the call is not known: %v", err)
	}
	if refusal.From == 0 {
		refusal.From = c.at.Version
		if o := c.setup.objects[c.at.Version]; o != nil {
			refusal.To = o.To
		}
	}
	writeRefusal(&refusal, w, r)
}

// replayed is a caller's body: a short one is read at once, so that its call can
// be sent again.
type replayed struct {
	data []byte
	in   io.ReadCloser // instead, for a long one
	used atomic.Bool   // something of in may have been read
}

func takeBody(w http.ResponseWriter, r *http.Request) (*replayed, error) {
	b := &replayed{}
	switch {
	case r.ContentLength == 0 || r.Body == nil:
	case r.ContentLength > 0 && r.ContentLength <= replay:
		b.data = make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, b.data); err != nil {
			return nil, so.Fail(http.StatusBadRequest, err, "the body of the call cannot be read: %v", err)
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
func (b *replayed) renew(r *http.Request) {
	switch {
	case b.data != nil:
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.data)), nil }
		r.Body, _ = r.GetBody()
	case b.in != nil:
		r.Body = &readOnce{in: b.in, used: &b.used}
	}
}

func (b *replayed) whole() bool { return !b.used.Load() }

// readOnce notes that it was read.
type readOnce struct {
	in   io.ReadCloser
	used *atomic.Bool
}

func (b *readOnce) Read(p []byte) (int, error) { b.used.Store(true); return b.in.Read(p) }
func (b *readOnce) Close() error               { return nil } // the server closes it

// heldBody is a request's body that a transport closes before it was read when it
// cannot dial: it stays open until it is settled that no other will be tried.
type heldBody struct {
	io.ReadCloser
	mu              sync.Mutex
	settled, closed bool
}

func holdBody(r *http.Request) *heldBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &heldBody{ReadCloser: r.Body}
	r.Body = b
	return b
}

func (b *heldBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.settled {
		return b.ReadCloser.Close()
	}
	return nil
}

func (b *heldBody) settle() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
	if b.closed {
		b.ReadCloser.Close()
	}
}
