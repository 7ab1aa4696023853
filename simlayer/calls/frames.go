package calls

import (
	"net"
	"sync"
	"sync/atomic"
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

// framed is a caller's connection of HTTP/2 without TLS whose frames pass
// unchanged to a connection of its own to the node. It is at the node while a
// stream is open. The node cannot be replaced under it, since both its ends
// remember headers of earlier calls: it is ended by GOAWAY, and the caller makes
// another one.
//
// Where the node takes no calls when a connection begins, the callProxy has it:
// it can hold each call.
type framed struct {
	front   *front
	backend *routes.Backend
	conn    net.Conn      // to the node
	in      stream.Reader // of conn; of down
	version bundle.Version

	// says is held while something is written to the caller. It comes before mu.
	says sync.Mutex

	// cut does not take mu.
	mu      sync.Mutex
	streams *wire.Streams
	began   map[uint32]time.Time // the calls that are open
	ticket  ticket
	inside  bool // the gate
	greeted bool // something of the node has passed
	end     farewell
	gone    bool // the node has ended it
	broken  tally.Outcome
	// contentType is that of the first call: gRPC has connections of its own.
	contentType string

	native, via bundle.Version
	refusals    *refusals2 // mu; of an object process
	wasCut      atomic.Bool

	// What lasts looks at, as the gate must not take mu.
	newest     atomic.Int64 // when the newest call began, in Unix nanoseconds
	unanswered atomic.Int64
}

// farewell is how far the end of a connection is.
type farewell uint8

const (
	noFarewell  farewell = iota
	warningDue           // the caller is to be asked to call by another connection
	warningSent          // it was; what calls it makes nevertheless are taken
	goAwayDue            // a GOAWAY is to be sent: no more calls are taken
	goAwaySent           // it was
	callerEnded          // the connection was ended towards the caller
)

// frames takes a connection that begins with the preface of HTTP/2.
func (f *front) frames() bool {
	for f.n < len(wire.Preface) {
		_, n, err := f.in.Read(f.buf, f.n)
		f.n += n
		if err != nil {
			return false
		}
	}
	h := &framed{front: f, streams: wire.NewStreams(), began: map[uint32]time.Time{}, broken: tally.Failed}
	h.ticket.Of = h
	if string((*f.buf)[:len(wire.Preface)]) != wire.Preface || !h.connect() {
		f.setHand()
		return false
	}
	f.mu.Lock()
	f.core.SpeaksFrames()
	f.http2 = h
	f.mu.Unlock()
	var down sync.WaitGroup
	down.Go(h.down)
	if f.calls.Gate.Leaving() || f.port.retired.Load() {
		h.Drain()
	}
	if !h.run() {
		down.Wait() // it has said farewell, and the caller reads that
		f.discardRest()
	}
	h.Close()
	f.conn.Close()
	down.Wait()
	h.endCalls()
	return false
}

// connect dials the node; false: it takes no calls now, or they need simulation.
func (h *framed) connect() bool {
	f, g := h.front, h.front.calls.Gate
	// Nothing is lost where this is cut: the caller is not told of it.
	var t ticket
	if !g.TryEnter(&t, func() {}) {
		return false
	}
	defer g.Leave(&t)
	route := t.Route
	h.version = f.port.VersionUnder(route)
	p, b, err := route.Path(h.version, f.port.Name)
	if err != nil || !route.Relays(p, f.port.Protocol) || f.port.room(route, p, h.version) != nil {
		return false
	}
	conn, err := b.Dial(f.calls.Ctx)
	if err != nil {
		return false
	}
	h.conn, h.backend, h.native, h.via = conn, b, route.Native, p.Via
	if h.via != 0 {
		h.refusals = newRefusals2()
		h.streams.CollectBlocks()
	}
	if h.in.Start(conn, &f.calls.buffers) != nil || !b.KeepRelay(h) {
		conn.Close()
		return false
	}
	return true
}

// cut ends all calls, which down then answers. The gate calls it.
func (h *framed) cut() {
	h.wasCut.Store(true)
	_ = h.front.conn.SetWriteDeadline(time.Now().Add(linger))
	stream.CloseRead(h.conn)
}

// Lasts implements gate.Call: all calls of the connection have answers that go on. How
// long they are is in headers that nobody reads.
func (h *framed) Lasts(time.Time) (from time.Time, how relay.Lasting) {
	if h.unanswered.Load() != 0 {
		return from, relay.Ends
	}
	return time.Unix(0, h.newest.Load()).Add(h.front.calls.LastingAfter), relay.Streams
}

// Yield implements gate.Call.
func (h *framed) Yield(entered, by time.Time) gate.Yielding {
	if from, how := h.Lasts(entered); how == relay.Ends || from.After(by) {
		return gate.GoesOn
	}
	h.cut()
	return gate.EndsNow
}

// noteAnswers has lasts know how many calls are without an answer. mu is held.
func (h *framed) noteAnswers() {
	n := int64(h.streams.Unanswered())
	if h.unanswered.Swap(n) != 0 && n == 0 {
		h.front.calls.Gate.Stir()
	}
}

// Close implements routes.Relayed.
func (h *framed) Close() {
	h.backend.ForgetRelay(h)
	h.conn.Close()
}

// Release implements routes.Relayed.
func (h *framed) Release() { h.Drain() }

// Warn implements routes.Relayed. Clients (gRPC's) make a call that was dropped once more, not
// twice: while the node takes calls, none is dropped, as RFC 9113, 6.8 has it.
func (h *framed) Warn() {
	h.mu.Lock()
	h.end = max(h.end, warningDue)
	h.mu.Unlock()
	h.polite()
}

// due says that a GOAWAY is to be sent: streams that come now are dropped. mu is held.
func (h *framed) due() {
	h.end = max(h.end, goAwayDue)
	h.streams.Shut()
}

// Drain implements routes.Relayed: streams that come now are dropped, and the caller is
// told to make their calls again on another connection.
func (h *framed) Drain() {
	h.mu.Lock()
	h.due()
	h.mu.Unlock()
	h.polite()
}

// endCalls counts the calls that did not end, once nothing passes any more.
func (h *framed) endCalls() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.began {
		h.count(id, h.broken)
	}
	if h.inside {
		h.inside = false
		h.front.calls.Gate.Leave(&h.ticket)
	}
}

// count counts a call that has ended. mu is held.
func (h *framed) count(id uint32, o tally.Outcome) {
	began, ok := h.began[id]
	if !ok {
		return
	}
	delete(h.began, id)
	if refused := h.refusals.of(id); o == tally.Answered {
		o = refused
	}
	calls := h.front.port.Tally.Of(h.version)
	calls.Done()
	h.front.port.Ended(h.version, h.native, o, 0, began)
}

// polite does what the end of a call, or a GOAWAY, makes due. Where something is
// being written to the caller just now, down does it afterwards.
func (h *framed) polite() {
	h.mu.Lock()
	h.leave()
	due := h.end == warningDue || h.end == goAwayDue || h.end == goAwaySent
	h.mu.Unlock()
	if !due || !h.says.TryLock() {
		return
	}
	defer h.says.Unlock()
	h.mu.Lock()
	tell := h.tell()
	over := h.end == goAwaySent && h.streams.Open() == 0 && h.streams.Between()
	if over {
		h.end = callerEnded
	}
	h.mu.Unlock()
	if tell != nil {
		_, _ = h.front.conn.Write(tell) // down notices where that fails
	}
	if over {
		h.sayFarewell()
	}
}

// sayFarewell ends the connection towards the caller, who has been told; says
// is held. Who has not called yet has time to end it: clients (Go's) take a connection
// that ends before its first call for a server that cannot be reached, and do not make
// the call by another one, as they do after a GOAWAY.
func (h *framed) sayFarewell() {
	h.mu.Lock()
	called := h.streams.Last() > 0
	h.mu.Unlock()
	if called {
		stream.CloseWrite(h.front.conn)
	}
	_ = h.front.conn.SetReadDeadline(time.Now().Add(linger))
}

// leave leaves the gate where no call is open. mu is held.
func (h *framed) leave() {
	if h.inside && h.streams.Open() == 0 && h.streams.Between() {
		h.inside = false
		h.front.calls.Gate.Leave(&h.ticket)
	}
}

// tell returns the GOAWAY if it is to be sent here and now. mu is held, and so is
// says.
func (h *framed) tell() []byte {
	if !h.greeted || !h.streams.Between() {
		return nil
	}
	switch h.end {
	case warningDue:
		h.end = warningSent
		return wire.GoAway(wire.LastStream)
	case goAwayDue:
		h.end = goAwaySent
		return wire.GoAway(h.streams.Last())
	}
	return nil
}

// lastWords is what the caller is told when the node's connection has ended, for
// err: calls without an answer get a refusal, and later ones were not taken. says
// is held.
func (h *framed) lastWords(err error) (last []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	if !h.streams.Between() {
		return nil // within a frame
	}
	if !h.greeted {
		last = wire.Settings()
	}
	refusal := so.AsRefusal(explain(true, err))
	if h.wasCut.Load() {
		refusal = cutRefusal(err)
	}
	refusal.From, refusal.To = h.version, h.native
	block, body := encodeRefusal(refusal, h.contentType)
	for _, id := range h.streams.Waiting() {
		last = append(last, wire.Answer(id, block, body)...)
	}
	if h.end < goAwaySent {
		h.end = goAwaySent
		h.streams.Shut()
		last = append(last, wire.GoAway(h.streams.Last())...)
	}
	return last
}
