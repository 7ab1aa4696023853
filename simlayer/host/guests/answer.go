package guests

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/host/control"
	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// answerer answers the calls that reach the object host.
type answerer struct {
	server *server
	proxy  *proxy.Proxy
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
	proxy.Call
	at    control.Listener
	setup *setup // that it began with
	held  []*object
	// failure is why there was no response, err how the call ended.
	failure, err error
}

type atKey struct{}

func newAnswerer(s *server) *answerer {
	a := &answerer{server: s, log: s.log, hops: map[hopKey]*http.Transport{}}
	a.proxy = proxy.New(proxy.Config{Host: theNext, Transport: a, Refuse: a.refuse, Log: s.log})
	return a
}

// theNext is what requests are addressed to that go to next.
const theNext = "next"

// withLabel is http.Server.ConnContext.
func withLabel(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(labelledConn); ok {
		return context.WithValue(ctx, atKey{}, l.at)
	}
	return ctx
}

// ServeHTTP implements http.Handler.
func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at, _ := r.Context().Value(atKey{}).(control.Listener)
	c := &call{at: at}
	c.Begin(r)
	defer c.release(a.log, 0)
	c.setup = a.hold(c, at.Version)
	obj := c.setup.objects[at.Version]
	if obj == nil {
		w.Header().Set("Connection", "close")
		control.Down(at.Version, 0, "it is not needed here any more").WriteTo(w, r)
		return
	}
	if obj.Observe != "" && r.URL.Path == obj.Observe {
		a.observed(w, r, c, obj)
		return
	}
	id := obj.tally.begin()
	c.err = errBroken // the proxy panics where a response ends in the middle
	defer func() { obj.tally.end(id, c.err) }()
	a.proxy.Serve(w, r, c, replay)
	c.err = c.failure
}

var errBroken = errors.New("the answer broke off")

// RoundTrip runs the objects of a call. It implements http.RoundTripper for the
// proxy.
func (a *answerer) RoundTrip(r *http.Request) (*http.Response, error) {
	c := proxy.Of[*call](r.Context())
	for tries := 1; ; tries++ {
		c.Renew(r)
		resp, err := a.answer(c.setup, c.at.Version, c, r)
		switch {
		case err == nil:
			return resp, nil
		case tries == maxTries || !c.Again(r.Context(), err):
			return nil, c.Explain("next", err)
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
			var out *http.Request
			if out, err = h.counted(proxy.To(r, theNext), setup); err != nil {
				return nil, err
			}
			var resp *http.Response
			resp, err = h.a.hop(hopKey{addr, h.call.HTTP2}).RoundTrip(out)
			h.call.Sent(r.Method, err)
			if !proxy.IsDialError(err) {
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
				return nil, control.Down(h.version, 0, "nobody answers that version any more")
			}
		}
	}
}

func (h *hop) gone(err error, hold time.Duration) error {
	r := so.Fail(http.StatusServiceUnavailable, err, "version %d, which is next, did not take calls for %v; try again later", h.version, hold)
	r.RetryAfter = control.RetryAfter
	return r
}

// counted returns a request as it goes to next: with its number of hops where that
// is another process of an object's, without where it is the node.
func (h *hop) counted(r *http.Request, s *setup) (*http.Request, error) {
	if h.version != s.native {
		return so.Hop(r, h.call.Hops)
	}
	if r.Header[so.HopsHeader] != nil {
		r = r.WithContext(r.Context())
		r.Header = r.Header.Clone()
		r.Header.Del(so.HopsHeader)
	}
	return r, nil
}

// hop returns the transport to an address.
func (a *answerer) hop(key hopKey) *http.Transport {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.hops[key]; t != nil {
		return t
	}
	t := proxy.NewTransport(func(ctx context.Context) (net.Conn, error) {
		c, err := attach.Dial(ctx, key.addr)
		if err != nil {
			return nil, &proxy.DialError{Err: err}
		}
		return c, nil
	}, key.h2c, idleNext)
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

// refuse says with what a call is answered that got no response.
func (a *answerer) refuse(_ http.Header, r *http.Request, err error) *so.Refusal {
	c := proxy.Of[*call](r.Context())
	c.err, c.failure = err, err
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	refusal := *so.AsRefusal(err)
	if refusal.From == 0 {
		refusal.From = c.at.Version
		if o := c.setup.objects[c.at.Version]; o != nil {
			refusal.To = o.To
		}
	}
	return &refusal
}

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
