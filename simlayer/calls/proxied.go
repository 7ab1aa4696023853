package calls

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"moult/simlayer/gate"
	"moult/simlayer/observe"
	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
	"moult/store/bundle"
)

// callProxy takes calls of HTTP from a port to the node and back, by net/http.
type callProxy struct {
	calls *Calls
	proxy *proxy.Proxy
}

func newCallProxy(c *Calls) *callProxy {
	p := &callProxy{calls: c}
	p.proxy = proxy.New(proxy.Config{Host: theNode, Transport: p, Modify: p.modify, Refuse: p.refuse, Log: c.Log})
	return p
}

// theNode is what requests are addressed to that go to a backend.
const theNode = "node"

// modify tells a caller that needs no simulation any more, or whose address is given up: its
// next connection is relayed, or is another's.
func (p *callProxy) modify(resp *http.Response) error {
	c := proxy.Of[*call](resp.Request.Context())
	anew := c.plain && !c.stay && p.calls.Gate.IsOpen() || c.port.retired.Load()
	if anew && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Header.Set("Connection", "close")
	}
	return nil
}

// call is one call of HTTP on its way.
type call struct {
	proxy.Call
	port     *Port
	parent   context.Context // ends with the caller's connection
	cut      context.CancelCauseFunc
	patience gate.Patience
	ticket   *ticket // while it is at the node
	version  bundle.Version
	native   bundle.Version
	via      bundle.Version    // whose object process it goes to, or 0
	plain    bool              // it could be relayed
	hidden   *observe.Observer // which does not see what it comes to at the node, or nil
	outcome  tally.Outcome
	began    time.Time
	counted  *tally.Counter // where it counts as open
	stay     bool           // see handed

	polls   bool                    // it may be made again; set before it enters, as back
	back    context.CancelCauseFunc // ends the try that is under way
	streams atomic.Int64            // one of the below, or since when its answer goes on, in Unix nanoseconds
}

// What call.streams may say. All but the first stay until the next try.
const (
	notAnswered = 0
	answerEnds  = -1
	takenBack   = -2 // it has no answer, and is made again
	notAgain    = -3 // the same, and one of its calls must not be made again
	endless     = 1
)

// answered notes an answer to the call; false: it has been taken back.
func (c *call) answered(resp *http.Response) bool {
	at := int64(answerEnds)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols || wire.Events([]byte(resp.Header.Get("Content-Type"))):
		at = endless
	case resp.ContentLength < 0:
		at = time.Now().UnixNano()
	}
	if !c.streams.CompareAndSwap(notAnswered, at) && !c.streams.CompareAndSwap(notAgain, at) {
		return false
	}
	c.port.calls.Gate.Stir()
	return true
}

// risks notes that one of its calls must not be made again; false: it has been taken back.
func (c *call) risks() bool {
	return c.streams.CompareAndSwap(notAnswered, notAgain) || c.streams.Load() != takenBack
}

// Lasts implements gate.Call.
func (c *call) Lasts(entered time.Time) (from time.Time, how relay.Lasting) {
	after := c.port.calls.LastingAfter
	switch at := c.streams.Load(); {
	case at == endless:
		return from, relay.Endless
	case at > 0:
		return time.Unix(0, at).Add(after), relay.Streams
	case at == notAnswered && c.polls:
		return entered.Add(after), relay.Polls
	}
	return from, relay.Ends
}

// Yield implements gate.Call.
func (c *call) Yield(entered, by time.Time) gate.Yielding {
	switch from, how := c.Lasts(entered); {
	case how == relay.Ends || from.After(by):
		return gate.GoesOn
	case c.streams.Load() > 0:
		c.cut(errCut)
		return gate.EndsNow
	case c.streams.CompareAndSwap(notAnswered, takenBack):
		c.back(errBack)
		return gate.WaitsNow
	}
	return gate.GoesOn
}

// serve answers one call.
func (p *callProxy) serve(w http.ResponseWriter, r *http.Request, f *Port) {
	if !p.calls.Tasks.Begin() {
		panic(http.ErrAbortHandler)
	}
	defer p.calls.Tasks.End()
	ctx, cut := context.WithCancelCause(r.Context())
	defer cut(nil)
	c := &call{
		port: f, parent: r.Context(), cut: cut, version: f.Label, outcome: tally.Failed, began: time.Now(),
	}
	c.Begin(r)
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.patience.From = stream.Source(at)
	}
	if r.ProtoMajor == 1 && r.ContentLength < 0 && r.Trailer == nil {
		r.Trailer = http.Header{} // for a trailer that is not announced
	}
	if h := handedOf(ctx); h != nil {
		c.stay = h.stay
		if waited := h.waited.Swap(nil); waited != nil {
			c.patience = *waited
		}
	}
	defer p.end(c)
	c.outcome = tally.Answered
	finished := false
	defer func() {
		// The proxy panics where a response ends in the middle.
		if !finished {
			c.outcome = tally.Failed
		}
	}()
	p.proxy.Serve(w, r.WithContext(ctx), c, p.calls.Replay)
	finished = true
}

// end lets a call out of the gate and counts it.
func (p *callProxy) end(c *call) {
	if c.ticket != nil {
		p.leave(c)
	}
	if c.outcome == tally.Failed && c.parent.Err() != nil {
		c.outcome = tally.Canceled
	}
	if c.version == 0 {
		c.version = c.port.VersionUnder(p.calls.Gate.Routing())
	}
	native := c.native
	if c.counted == nil {
		native = 0 // it came to none
	}
	c.counted.Done()
	c.port.Ended(c.version, native, c.outcome, c.patience.Spent(), c.began)
}

// leave takes a call out of the gate. The last connections of a routing that is
// no longer in force go with its calls.
func (p *callProxy) leave(c *call) {
	t := c.ticket
	c.ticket = nil
	if c.hidden != nil {
		c.hidden.Show()
		c.hidden = nil
	}
	if !p.calls.Gate.Leave(t) {
		t.Route.Release(p.calls.Gate.Routing())
	}
}

// RoundTrip gets a call through the gate to the node. It implements
// http.RoundTripper for the proxy.
func (p *callProxy) RoundTrip(r *http.Request) (*http.Response, error) {
	c := proxy.Of[*call](r.Context())
	g := p.calls.Gate
	pause := minPause
	for tries := 1; ; tries++ {
		ctx, back := context.WithCancelCause(r.Context())
		c.polls, c.back = proxy.Safe(r.Method) && c.Again(r.Context(), nil), back
		c.streams.Store(notAnswered)
		t := &ticket{Of: c}
		if err := g.Enter(r.Context(), &c.patience, t, func() { c.cut(errCut) }); err != nil {
			back(nil)
			return nil, p.held(c, err, nil)
		}
		c.ticket = t
		resp, err := p.attempt(c, t.Route, r.WithContext(ctx))
		if err == nil {
			if c.answered(resp) {
				return resp, nil
			}
			resp.Body.Close()
			err = errBack
		}
		back(nil)
		if !c.again(r, err, tries) {
			return nil, c.Explain("the node", err)
		}
		p.leave(c)
		if over := g.Pause(r.Context(), &c.patience, t.Route, pause); over != nil {
			return nil, p.held(c, over, err)
		}
		pause = min(2*pause, maxPause)
	}
}

// attempt makes one try under one routing.
func (p *callProxy) attempt(c *call, route *routes.Route, r *http.Request) (*http.Response, error) {
	version := c.port.VersionUnder(route)
	c.version, c.native = version, route.Native
	path, backend, err := route.Path(version, c.port.Name)
	if err != nil {
		return nil, err
	}
	c.via, c.plain = path.Via, route.Relays(path, c.port.Protocol)
	if c.counted == nil {
		if err := c.port.room(route, path, version); err != nil {
			return nil, err
		}
	}
	c.counted = c.port.Tally.Begin(version, c.counted)
	out := r.WithContext(r.Context())
	c.Renew(out)
	sees, err := c.observed(r.Context(), route)
	if err != nil {
		return nil, err
	}
	resp, err := path.Chain.Answer(out, nodeTrip{c, backend, sees})
	if err != nil {
		return nil, route.Sign(err)
	}
	if path.Via != 0 {
		c.outcome = relay.RefusedBy(resp.Header.Get(so.RefusalHeader))
	}
	return resp, nil
}

// nodeTrip is the end of a chain: it sends requests to the node.
type nodeTrip struct {
	call    *call
	backend *routes.Backend
	sees    *observe.Observer // of what goes to the node, or nil
}

func (n nodeTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	r = proxy.To(r, theNode)
	if n.call.via != 0 {
		var err error
		if r, err = so.Hop(r, n.call.Hops); err != nil {
			return nil, err
		}
	}
	if !proxy.Safe(r.Method) && !n.call.risks() {
		return nil, errBack
	}
	var seen *observe.Seeing
	if n.sees != nil {
		seen, r = n.sees.See(n.call.port.Name, r)
	}
	if !n.call.HTTP2 {
		r = allAgents(r)
	}
	resp, err := n.backend.Transport(n.call.HTTP2).RoundTrip(r)
	n.call.Sent(r.Method, err)
	if err == nil {
		if err = NamesFit(resp.Header); err != nil {
			resp.Body.Close()
			resp = nil
		}
	}
	if seen != nil {
		return seen.Answered(resp, err)
	}
	return resp, err
}

// NamesFit refuses an answer that has a field which net/http reads and does not write: it
// would be lost.
func NamesFit(h http.Header) error {
	for name := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("the node's answer has a field of the name %q: %w", name, errField)
		}
	}
	return nil
}

// allAgents has net/http send all fields User-Agent of a request: of those by that name it
// sends one.
func allAgents(r *http.Request) *http.Request {
	agents := r.Header["User-Agent"]
	if len(agents) < 2 {
		return r
	}
	r = r.WithContext(r.Context())
	r.Header = maps.Clone(r.Header)
	r.Header["User-Agent"], r.Header["user-agent"] = []string{""}, agents
	return r
}

// again reports whether a failed call may be tried again.
func (c *call) again(r *http.Request, err error, tries int) bool {
	return c.Again(r.Context(), err) && (proxy.IsDialError(err) || tries < maxTries)
}

// held makes the end of a wait a refusal. last is why the call did not get
// through when it was let in, or nil.
func (p *callProxy) held(c *call, err, last error) error {
	return p.calls.heldRefusal(err, last, c.via, c.patience.Limit())
}

// refuse says with what a call is answered that got no response.
func (p *callProxy) refuse(h http.Header, r *http.Request, err error) *so.Refusal {
	c := proxy.Of[*call](r.Context())
	c.outcome = tally.Failed
	if c.parent.Err() != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	refusal := *so.AsRefusal(err)
	if errors.Is(context.Cause(r.Context()), errCut) {
		refusal = *cutRefusal(err)
		h.Set("Connection", "close")
	}
	if refusal.Denied {
		c.outcome = tally.Denied
	}
	if refusal.From == 0 {
		refusal.From, refusal.To = c.version, c.native
	}
	route := p.calls.Gate.Routing()
	route.Shape(c.port.VersionUnder(route), &refusal)
	p.calls.Log.Debug("call refused", "service", c.port.Name, "from", refusal.From, "to", refusal.To, "status", refusal.Status, "denied", refusal.Denied, "err", &refusal)
	return &refusal
}

// observed does what a call under a route has to do with the one who observes: one
// of the observing object waits until that knows all that was before. sees is who
// sees what comes of the call at the node, if anybody.
func (c *call) observed(ctx context.Context, r *routes.Route) (sees *observe.Observer, err error) {
	o := r.Observer
	switch {
	case o == nil:
		return nil, nil
	case c.version > r.Native:
		return nil, o.Current(ctx)
	case c.via != 0:
		c.hidden = o
		o.Hide(c.version)
		return nil, nil
	}
	return o, nil
}
