package calls

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// front is one caller's connection to an HTTP service. As long as its calls need
// no simulation in this process, their bytes pass unchanged to a connection of
// its own to the node (or to an object process), and only the framing is
// followed: so the gate knows each call, and the node may be replaced between
// two. Where it does need simulation, the connection goes over to the callProxy.
//
// What is to be done with what comes is decided by its core; the front drives it. Two
// goroutines serve it: run takes requests from the caller, down answers from the node.
// While nothing passes, neither holds a buffer.
//
// The gate is never called with mu held: it calls cut with itself locked.
type front struct {
	calls   *Calls
	port    *Port
	conn    net.Conn
	from    netip.Prefix // of its caller
	cutFunc func()
	wg      sync.WaitGroup // down

	// Those of run.
	in   stream.Reader
	buf  *[]byte // nil while n is 0
	n    int     // bytes of the caller that have not passed on
	stay bool    // where it is handed over, it stays there

	mu      sync.Mutex
	core    relay.Conn
	up      *upstream               // where requests go; nil: none
	cancel  context.CancelCauseFunc // of a call that has to wait
	settled chan struct{}           // closed once the caller's next bytes need not wait; nil: nobody does
	http2   routes.Relayed          // where frames are passed

	call frontCall // of whoever serves the call; begun and cut with mu
	kept []byte    // memory for call.request
}

// frontCall is the call that is on.
type frontCall struct {
	ticket  ticket
	began   time.Time
	request []byte    // all of it; nil: it is not kept
	late    bool      // request is all that is left of it
	streams time.Time // mu; since when its answer goes on, if nothing tells its length

	version, native, via bundle.Version
	path                 *routes.Path // what simulates it
	backend              *routes.Backend
	patience             gate.Patience
	counted              *tally.Counter // where it counts as open

	// Only for one that has to wait.
	ctx   context.Context
	ready chan struct{} // closed once it is at the node, or has failed
}

// upstream is a connection of a front to the node, or to an object process.
type upstream struct {
	front   *front
	backend *routes.Backend
	conn    net.Conn
	in      stream.Reader

	// Of a simulated call's, which takes its answers itself.
	simulated bool
	last      bool      // front.mu: it should not be called by it again
	used      time.Time // front.mu; about when
	deadline  time.Time // of reading
}

// Close closes u, and lets its backend forget it.
func (u *upstream) Close() {
	u.backend.ForgetRelay(u)
	u.conn.Close()
}

// Release implements routes.Relayed.
func (u *upstream) Release() { u.front.dropIdle(u) }

// Warn and Drain implement routes.Relayed. Nothing is to be done: the next request waits.
func (u *upstream) Warn()  {}
func (u *upstream) Drain() {}

var errGone = errors.New("the caller has gone")

// do does what the core says. It is called with mu held, and gives it up.
func (f *front) do(d relay.Do) {
	u, cancel := f.up, f.cancel
	if t, set := deadline(d.Timer); set {
		_ = f.conn.SetReadDeadline(t)
	}
	if f.settled != nil && !f.core.Waits() {
		close(f.settled)
		f.settled = nil
	}
	f.mu.Unlock()
	if d.Cancel && cancel != nil {
		cancel(errGone)
	}
	if u != nil {
		switch d.Node {
		case relay.Half:
			stream.CloseWrite(u.conn)
		case relay.Hush:
			stream.CloseRead(u.conn)
		case relay.End:
			u.conn.Close()
		}
	}
	if d.Ended {
		f.ended(d)
	}
	switch d.Caller {
	case relay.Half, relay.Shut:
		stream.CloseWrite(f.conn)
	case relay.Hush:
		_ = f.conn.SetReadDeadline(time.Unix(1, 0))
	case relay.End:
		f.conn.Close()
	case relay.Break:
		stream.Reset(f.conn)
	}
}

// deadline is until when a caller is waited for.
func deadline(t relay.Timer) (at time.Time, set bool) {
	switch t {
	case relay.None:
		return time.Time{}, true
	case relay.Head:
		return time.Now().Add(headerTimeout), true
	case relay.Grace:
		return time.Now().Add(idleGrace), true
	case relay.Linger:
		return time.Now().Add(linger), true
	}
	return time.Time{}, false
}

// ended lets the call out of the gate, if it is in, and counts it.
func (f *front) ended(d relay.Do) {
	call, native := &f.call, bundle.Version(0)
	if call.counted != nil {
		native = call.native // else it came to none
	}
	call.counted.Done()
	call.counted, call.request = nil, nil
	inForce := true
	if d.Leave {
		inForce = f.calls.Gate.Leave(&call.ticket)
	}
	if call.version == 0 {
		call.version = f.port.VersionUnder(f.calls.Gate.Routing())
	}
	f.port.Ended(call.version, native, d.Outcome, call.patience.Spent(), call.began)
	call.patience = gate.Patience{}
	if cap(f.kept) > maxKeptRequest {
		f.kept = nil
	}
	if call.ctx != nil {
		f.mu.Lock()
		f.cancel(nil)
		f.cancel = nil
		f.mu.Unlock()
	}
	if !inForce {
		call.ticket.Route.Release(f.calls.Gate.Routing())
	}
}

// consume drops the first n bytes of the caller's: they have passed.
func (f *front) consume(n int) {
	if f.n -= n; f.n > 0 {
		copy(*f.buf, (*f.buf)[n:n+f.n])
		return
	}
	f.calls.buffers.Put(f.buf)
	f.buf = nil
}

// refusalOf is what a caller gets for an error.
func (f *front) refusalOf(err error, cut bool) *so.Refusal {
	route := f.calls.Gate.Routing() // which locks; cut takes f.mu with the gate locked
	f.mu.Lock()
	defer f.mu.Unlock()
	refusal := *so.AsRefusal(err)
	if cut {
		refusal = *cutRefusal(err)
	}
	if refusal.From == 0 {
		refusal.From, refusal.To = f.call.version, f.call.native
	}
	route.Shape(f.port.VersionUnder(route), &refusal)
	return &refusal
}

// upNow returns the connection to the node.
func (f *front) upNow() *upstream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up
}

// stirIf has whoever waits for calls to end look at this one, which lasts now.
func (f *front) stirIf(lasts bool) {
	if lasts {
		f.calls.Gate.Stir()
	}
}

func (f *front) dial(ctx context.Context, b *routes.Backend) (*upstream, error) {
	conn, err := b.Dial(ctx)
	if err != nil {
		return nil, err
	}
	u := &upstream{front: f, backend: b, conn: conn}
	if err := u.in.Start(conn, &f.calls.buffers); err != nil {
		conn.Close()
		return nil, err
	}
	if !b.KeepRelay(u) {
		return nil, &proxy.DialError{Err: errors.Join(routes.ErrLeft, conn.Close())}
	}
	return u, nil
}

// refuse answers a call that got no answer.
func (f *front) refuse(err error) {
	f.mu.Lock()
	cut, last, method := f.core.WasCut(), f.core.LastRefusal(), f.core.Method()
	f.mu.Unlock()
	refusal := f.refusalOf(err, cut)
	f.calls.Log.Debug("call refused", "service", f.port.Name, "from", refusal.From, "to", refusal.To, "status", refusal.Status, "denied", refusal.Denied, "err", refusal)
	o := tally.Failed
	if refusal.Denied {
		o = tally.Denied
	}
	resp := refusal.Response(&http.Request{Method: method})
	resp.Close = last
	var out bytes.Buffer
	_ = resp.Write(&out) // to memory
	f.mu.Lock()
	answer, d := f.core.Refused(o, f.calls.Ctx.Err() != nil && errors.Is(err, context.Canceled))
	f.do(d)
	if answer {
		_, _ = f.conn.Write(out.Bytes()) // whoever has gone need not be told
		f.wrote()
	}
}

// wrote says that the last of an answer was written.
func (f *front) wrote() {
	f.mu.Lock()
	f.do(f.core.Wrote())
}

// lose ends the call, and the caller's connection so that it sees that it broke.
func (f *front) lose(o tally.Outcome) {
	f.mu.Lock()
	f.do(f.core.Lose(o))
}

// dropIdle closes u if no call is on.
func (f *front) dropIdle(u *upstream) {
	f.mu.Lock()
	if f.up != u || f.core.Calling() {
		f.mu.Unlock()
		return
	}
	f.up = nil
	f.core.NoNode()
	f.mu.Unlock()
	u.Close()
}
