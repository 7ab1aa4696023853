package simlayer

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

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
// Two goroutines serve it: run takes requests from the caller, down answers from
// the node. While nothing passes, neither holds a buffer.
//
// The gate is never called with mu held: it calls cut with itself locked.
type front struct {
	layer    *Layer
	listener *listener
	conn     net.Conn
	cutFunc  func()
	wg       sync.WaitGroup // down

	// Those of run.
	in    reader
	buf   *[]byte // nil while n is 0
	n     int     // bytes of the caller that have not passed on
	later bool    // not the first request

	// wmu is held while something is written to conn. It comes before mu.
	wmu sync.Mutex

	mu      sync.Mutex
	up      *upstream // where requests go; nil: none
	ex      exchange
	kept    []byte // memory for exchange.request
	taken   bool   // a request is being read
	eof     bool   // the caller has said all
	gone    bool   // the caller has gone
	closing bool   // what was sent last is the last
	hand    bool   // run must hand the connection over
	grace   bool   // the read deadline is that of idleGrace
	stay    bool   // where it is handed over, it stays there
	// answering: an exchange has ended, and its answer is being written.
	answering bool
	http2     *relay2
}

// exchange is one request and its answer.
type exchange struct {
	on      bool
	ending  bool
	inside  bool // the gate
	ticket  ticket
	up      *upstream // where it is; nil: nowhere yet
	method  string
	whole   bool   // all of the request was here before it was let in
	request []byte // the same, to be sent again; nil: it must not be
	late    bool   // request is all that is left of it
	opaque  bool   // no exchange at all, just bytes both ways
	last    bool   // the caller wants no other
	began   time.Time
	tries   int

	reqDone, respDone bool
	begun             bool // something of the answer has passed
	toEnd             bool // the answer goes on until the node closes
	closeAfter        bool // the caller was told that it is the last
	stuck             bool // the node takes no more of the request
	cut               bool

	version, native, via bundle.Version
	path                 *path // what simulates it
	backend              *backend
	outcome              tally.Outcome
	patience             patience
	counted              *tally.Counter // where it counts as open

	// Only for one that has to wait.
	ctx    context.Context
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed once it is at the node, or has failed
	ended  chan struct{} // closed at its end, or when it turns opaque; nil: nobody waits
}

// upstream is a connection of a front to the node, or to an object process.
type upstream struct {
	front   *front
	backend *backend
	conn    net.Conn
	in      reader
	last    bool // front.mu: the node closes it, or should not be called by it again

	// Of a lean call's, whose answers that one takes.
	lean     bool
	used     time.Time // front.mu; about when
	deadline time.Time // of reading
}

// close closes u, and lets its backend forget it.
func (u *upstream) close() {
	u.backend.forgetRelay(u)
	u.conn.Close()
}

// release implements relayed.
func (u *upstream) release() { u.front.dropIdle(u) }

// drain implements relayed. Nothing is to be done: the next request waits.
func (u *upstream) drain() {}

// front takes over a connection that was accepted. The layer's tasks count it.
func (f *listener) front(conn net.Conn) {
	c := &front{layer: f.layer, listener: f, conn: conn}
	c.cutFunc = c.cut
	if !f.addFront(c) {
		c.end()
		return
	}
	if err := c.in.reads(conn, &f.layer.buffers); err != nil {
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
	hand := f.hand
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
	u, cancel, gone := f.up, f.ex.cancel, f.gone
	f.up, f.gone = nil, true
	f.mu.Unlock()
	if cancel != nil {
		cancel(errGone)
	}
	if !gone {
		// What is being written is still for the caller.
		f.wmu.Lock()
		f.conn.Close()
		f.wmu.Unlock()
	}
	f.conn.Close()
	if u != nil {
		u.close()
	}
	f.wg.Wait()
	f.finish(tally.Canceled)
	f.layer.buffers.put(f.buf)
	f.listener.removeFront(f)
	f.layer.conns.Leave()
}

var errGone = errors.New("the caller has gone")

// turn takes one request on its way; false: none follows.
func (f *front) turn() bool {
	if f.n == 0 && !f.await() {
		return false
	}
	switch f.settle() {
	case settleOpaque:
		f.passOn()
		return false
	case settleOver:
		f.discard()
		return false
	case settleHand:
		return false
	}
	req, size, how := f.collect()
	f.later = true
	switch how {
	case takeGone:
		return false
	case takeHTTP2:
		return f.relay2()
	case takeHand:
		f.setHand()
		return false
	}
	return f.begin(req, size, how)
}

// await waits for the next bytes of the caller; false: none come.
func (f *front) await() bool {
	for {
		buf, n, err := f.in.read(nil, 0)
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
	open := f.layer.gate.isOpen()
	f.mu.Lock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		defer f.mu.Unlock()
		if f.closing || f.hand {
			return false
		}
		if f.grace {
			f.grace = false
			if !f.ex.on && f.up == nil && open {
				return false
			}
		}
		_ = f.conn.SetReadDeadline(time.Time{})
		return true
	}
	f.eof = true
	f.gone = f.gone || !errors.Is(err, io.EOF)
	u, on := f.up, f.ex.on
	if cancel := f.ex.cancel; cancel != nil && (f.gone || !f.ex.inside) {
		cancel(errGone)
	}
	var ended chan struct{}
	if on {
		ended = f.waitEnd()
	}
	gone := f.gone
	f.mu.Unlock()
	if u != nil && on {
		if gone {
			u.conn.Close()
		} else {
			stream.CloseWrite(u.conn)
		}
	}
	if ended != nil {
		<-ended
		if f.settle() == settleOpaque {
			f.wg.Wait() // the node has not said all
		}
	}
	return false
}

// waitEnd returns what is closed at the end of the exchange. mu is held.
func (f *front) waitEnd() chan struct{} {
	if f.ex.ended == nil {
		f.ex.ended = make(chan struct{})
		if f.ex.opaque {
			close(f.ex.ended)
		}
	}
	return f.ex.ended
}

type settled int

const (
	settleIdle   settled = iota
	settleOpaque         // there are no exchanges any more
	settleOver           // the connection is about to be closed
	settleHand           // the connection is to be handed over
)

// settle waits until no exchange is on.
func (f *front) settle() settled {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = true
	if f.grace {
		f.grace = false
		_ = f.conn.SetReadDeadline(time.Time{})
	}
	for f.ex.on && !f.ex.opaque && !f.hand {
		ended := f.waitEnd()
		f.mu.Unlock()
		<-ended
		f.mu.Lock()
	}
	switch {
	case f.hand:
		return settleHand
	case f.closing:
		return settleOver
	case f.ex.on:
		return settleOpaque
	}
	return settleIdle
}

// discard waits for the caller to close a connection that was ended towards it.
func (f *front) discard() {
	f.wmu.Lock()
	stream.CloseWrite(f.conn)
	f.wmu.Unlock()
	f.discardRest()
}

// discardRest is discard where the caller has been told already.
func (f *front) discardRest() {
	_ = f.conn.SetReadDeadline(time.Now().Add(linger))
	buf := f.buf
	if buf == nil {
		buf = f.layer.buffers.get()
	}
	f.buf, f.n = nil, 0
	for {
		if _, _, err := f.in.read(buf, 0); err != nil {
			f.layer.buffers.put(buf)
			return
		}
	}
}

// shut ends the connection towards the caller, who then closes it, or has its
// time taken.
func (f *front) shut() {
	stream.CloseWrite(f.conn)
	_ = f.conn.SetReadDeadline(time.Now().Add(linger))
}

func (f *front) setHand() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hand = true
}

// How a request is taken.
type taking int

const (
	takeWhole  taking = iota // all of it is here
	takeStream               // its head is
	takeOdd                  // it is no request that can be followed
	takeHTTP2                // it is the preface of HTTP/2
	takeHand                 // net/http must answer it
	takeGone                 // the caller gave up
)

// collect reads the next request: its head, and a short body. size is how many
// of the bytes that are here belong to it.
func (f *front) collect() (req wire.Request, size int, how taking) {
	end, how := f.collectHead()
	if how != takeWhole {
		return req, f.n, how
	}
	head := (*f.buf)[:end]
	if !f.later && string(head) == wire.Preface[:min(end, len(wire.Preface))] {
		return req, 0, takeHTTP2
	}
	req, ok := wire.ParseRequest(head)
	switch {
	case !ok:
		return req, f.n, takeOdd
	case req.Method == "CONNECT":
		return req, end, takeHand
	case req.Body == wire.NoBody:
		return req, end, takeWhole
	case req.Body != wire.Sized || req.Expect || req.Length > int64(f.layer.cfg.Limits.Replay):
		return req, end, takeStream
	}
	size = end + int(req.Length)
	if size > len(*f.buf) {
		long := make([]byte, size)
		copy(long, (*f.buf)[:f.n])
		f.layer.buffers.put(f.buf)
		f.buf = &long
	}
	for f.n < size {
		_, n, err := f.in.read(f.buf, f.n)
		f.n += n
		if err != nil && !f.spurious(err) {
			return req, 0, takeHand
		}
	}
	return req, size, takeWhole
}

// collectHead reads on until a whole head is here.
func (f *front) collectHead() (end int, how taking) {
	timed := false
	defer func() {
		if timed {
			_ = f.conn.SetReadDeadline(time.Time{})
		}
	}()
	for seen := 0; ; {
		if end = wire.HeadEnd((*f.buf)[:f.n], seen); end >= 0 {
			return end, takeWhole
		}
		if c := (*f.buf)[0] | 0x20; c < 'a' || c > 'z' {
			return 0, takeOdd // such as a greeting of TLS
		}
		if f.n == len(*f.buf) {
			f.stay = true // so will the next ones be
			return 0, takeHand
		}
		if !timed {
			timed = true
			_ = f.conn.SetReadDeadline(time.Now().Add(headerTimeout))
		}
		seen = f.n
		_, n, err := f.in.read(f.buf, f.n)
		f.n += n
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return 0, takeHand
		default:
			return 0, takeGone
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
	f.layer.buffers.put(f.buf)
	f.buf = nil
}

// refusalOf is what a caller gets for an error.
func (f *front) refusalOf(err error, cut bool) *so.Refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	refusal := *so.AsRefusal(err)
	if cut {
		refusal = *cutRefusal(err)
	}
	if refusal.From == 0 {
		refusal.From, refusal.To = f.ex.version, f.ex.native
	}
	return &refusal
}
