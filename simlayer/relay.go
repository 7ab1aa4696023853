package simlayer

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
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
	layer    *Layer
	listener *listener
	conn     net.Conn
	cutFunc  func()
	wg       sync.WaitGroup // down

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
	http2   *framed

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

// front takes over a connection that was accepted. The layer's tasks count it.
func (f *listener) front(conn net.Conn) {
	c := &front{layer: f.layer, listener: f, conn: conn}
	c.cutFunc = c.cut
	if !f.addFront(c) {
		c.end()
		return
	}
	if err := c.in.Start(conn, &f.layer.buffers); err != nil {
		c.setHand()
		c.handOver()
		return
	}
	c.run()
}

// run takes one request after the other from the caller.
func (f *front) run() {
	for f.turn() {
	}
	f.mu.Lock()
	hand := f.core.Phase() == relay.Handing
	f.mu.Unlock()
	if hand {
		f.handOver()
		return
	}
	f.end()
}

// end closes everything, and returns when all has ended.
func (f *front) end() {
	f.mu.Lock()
	u, cancel := f.up, f.cancel
	f.up = nil
	f.mu.Unlock()
	if cancel != nil {
		cancel(errGone)
	}
	f.conn.Close()
	if u != nil {
		u.Close()
	}
	f.wg.Wait()
	f.mu.Lock()
	f.do(f.core.Finish())
	f.layer.buffers.Put(f.buf)
	f.listener.removeFront(f)
	f.layer.conns.Leave()
}

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
		inForce = f.layer.gate.Leave(&call.ticket)
	}
	if call.version == 0 {
		call.version = f.listener.versionUnder(f.layer.gate.Routing())
	}
	f.listener.ended(call.version, native, d.Outcome, call.patience.Spent(), call.began)
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
		call.ticket.Route.Release(f.layer.gate.Routing())
	}
}

// turn takes one request on its way; false: none follows.
func (f *front) turn() bool {
	if f.n == 0 && !f.await() {
		return false
	}
	switch f.settle() {
	case relay.Pass:
		f.passOn()
		return false
	case relay.Discard:
		f.discard()
		return false
	case relay.Hand:
		return false
	}
	req, size, how := f.collect()
	switch how {
	case relay.More:
		return false
	case relay.HTTP2:
		return f.frames()
	case relay.Foreign, relay.TooLong:
		f.stay = how == relay.TooLong // so will the next ones be
		f.setHand()
		return false
	}
	return f.begin(req, size, how)
}

// await waits for the next bytes of the caller; false: none come.
func (f *front) await() bool {
	for {
		buf, n, err := f.in.Read(nil, 0)
		if err == nil {
			f.buf, f.n = buf, n
			return true
		}
		if !f.callerStops(err) {
			return false
		}
	}
}

// callerStops deals with a read from the caller that failed; true: go on.
func (f *front) callerStops(err error) bool {
	parting := f.parting()
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if late && !parting {
		open := f.layer.gate.IsOpen()
		f.mu.Lock()
		d := f.core.Late(open)
		f.do(d)
		return d.Next != relay.Stop
	}
	f.mu.Lock()
	f.do(f.core.CallerEnded(!late && !errors.Is(err, io.EOF)))
	if f.settle() == relay.Pass {
		f.wg.Wait() // the node has not said all
	}
	if parting {
		f.part()
	}
	return false
}

// parting reports whether nothing more is heard of the caller: what is just bytes gives
// way to the next software.
func (f *front) parting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.core.Parting()
}

// part ends such a connection, once the node has said its last.
func (f *front) part() {
	f.mu.Lock()
	f.do(f.core.Finish())
	f.discard()
}

// settle waits until the caller's next bytes need not wait.
func (f *front) settle() relay.Turn {
	for {
		f.mu.Lock()
		turn, d := f.core.Ready()
		var settled chan struct{}
		if turn == relay.Wait {
			if f.settled == nil {
				f.settled = make(chan struct{})
			}
			settled = f.settled
		}
		f.do(d)
		if settled == nil {
			return turn
		}
		<-settled
	}
}

// discard waits for the caller to close a connection that was ended towards it.
func (f *front) discard() {
	stream.CloseWrite(f.conn)
	f.discardRest()
}

// discardRest is discard where the caller has been told already.
func (f *front) discardRest() {
	_ = f.conn.SetReadDeadline(time.Now().Add(linger))
	buf := f.buf
	if buf == nil {
		buf = f.layer.buffers.Get()
	}
	f.buf, f.n = nil, 0
	for {
		if _, _, err := f.in.Read(buf, 0); err != nil {
			f.layer.buffers.Put(buf)
			return
		}
	}
}

func (f *front) setHand() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.core.HandOver()
}

// collect reads the next request: its head, and a short body. size is how many of the
// bytes that are here belong to it. More: the caller gave up.
func (f *front) collect() (req wire.Request, size int, how relay.How) {
	timed := false
	defer func() {
		if timed {
			_ = f.conn.SetReadDeadline(time.Time{})
		}
	}()
	for {
		f.mu.Lock()
		req, size, how = f.core.Request((*f.buf)[:f.n], len(*f.buf), f.layer.cfg.Limits.Replay)
		f.mu.Unlock()
		if how != relay.More {
			return req, size, how
		}
		if size == 0 && !timed {
			timed = true
			t, _ := deadline(relay.Head)
			_ = f.conn.SetReadDeadline(t)
		}
		if size > len(*f.buf) {
			long := make([]byte, size)
			copy(long, (*f.buf)[:f.n])
			f.layer.buffers.Put(f.buf)
			f.buf = &long
		}
		_, n, err := f.in.Read(f.buf, f.n)
		f.n += n
		switch {
		case err == nil || size > 0 && f.spurious(err):
		case size > 0 || errors.Is(err, io.EOF):
			return req, 0, relay.Foreign
		default:
			return req, 0, relay.More
		}
	}
}

// spurious reports whether a read failed for a deadline that was not meant for
// it.
func (f *front) spurious(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || f.layer.ctx.Err() != nil {
		return false
	}
	return f.conn.SetReadDeadline(time.Time{}) == nil
}

// consume drops the first n bytes of the caller's: they have passed.
func (f *front) consume(n int) {
	if f.n -= n; f.n > 0 {
		copy(*f.buf, (*f.buf)[n:n+f.n])
		return
	}
	f.layer.buffers.Put(f.buf)
	f.buf = nil
}

// refusalOf is what a caller gets for an error.
func (f *front) refusalOf(err error, cut bool) *so.Refusal {
	route := f.layer.gate.Routing() // which locks; cut takes f.mu with the gate locked
	f.mu.Lock()
	defer f.mu.Unlock()
	refusal := *so.AsRefusal(err)
	if cut {
		refusal = *cutRefusal(err)
	}
	if refusal.From == 0 {
		refusal.From, refusal.To = f.call.version, f.call.native
	}
	route.Shape(f.listener.versionUnder(route), &refusal)
	return &refusal
}
