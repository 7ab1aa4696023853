package simlayer

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

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
	if f.layer.gate.Leaving() || f.listener.retired.Load() {
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
	f, g := h.front, h.front.layer.gate
	// Nothing is lost where this is cut: the caller is not told of it.
	var t ticket
	if !g.TryEnter(&t, func() {}) {
		return false
	}
	defer g.Leave(&t)
	route := t.Route
	h.version = f.listener.versionUnder(route)
	p, b, err := route.Path(h.version, f.listener.service.name)
	if err != nil || !route.Relays(p, f.listener.service.Protocol) || f.listener.room(route, p, h.version) != nil {
		return false
	}
	conn, err := b.Dial(f.layer.ctx)
	if err != nil {
		return false
	}
	h.conn, h.backend, h.native, h.via = conn, b, route.Native, p.Via
	if h.via != 0 {
		h.refusals = newRefusals2()
		h.streams.CollectBlocks()
	}
	if h.in.Start(conn, &f.layer.buffers) != nil || !b.KeepRelay(h) {
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
	return time.Unix(0, h.newest.Load()).Add(h.front.layer.lastingAfter), relay.Streams
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
		h.front.layer.gate.Stir()
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
		h.front.layer.gate.Leave(&h.ticket)
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
	calls := h.front.listener.service.tally.Of(h.version)
	calls.Done()
	h.front.listener.ended(h.version, h.native, o, 0, began)
}

// run passes on what the caller says until it ends; false: the node takes no more.
func (h *framed) run() bool {
	f := h.front
	for {
		if over, err := h.fromCaller(); err != nil {
			return false
		} else if over {
			return true
		}
		// What is left is a piece of a frame's header: no reason to keep a buffer.
		var piece [16]byte
		have := 0
		if f.n > 0 {
			have = copy(piece[:], (*f.buf)[:f.n])
			f.consume(f.n)
		}
		buf, n, err := f.in.Read(nil, 0)
		if err != nil {
			h.lost()
			return true
		}
		if have > 0 {
			long := make([]byte, have+n)
			copy(long[copy(long, piece[:have]):], (*buf)[:n])
			f.layer.buffers.Put(buf)
			buf, n = &long, have+n
		}
		f.buf, f.n = buf, n
	}
}

// lost says that it is the caller who ended the connection, if nobody else has.
func (h *framed) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.wasCut.Load() && !h.gone {
		h.broken = tally.Canceled
	}
}

// fromCaller passes on the frames that are here. It reports over where they break
// the rules, and an error where the node takes them no more.
func (h *framed) fromCaller() (over bool, err error) {
	f := h.front
	p := (*f.buf)[:f.n]
	start, off := 0, 0 // from start to off nothing has passed yet
	h.mu.Lock()
	for off < len(p) {
		n, drop, e := h.streams.FromClient(p[off:])
		h.noteAnswers()
		switch e {
		case wire.Opening:
			if h.admit() {
				if h.streams.Last() == 0 {
					h.contentType = contentTypeOf(wire.Block(p[off:]))
				}
				h.streams.Admit(p[off:])
				now := time.Now()
				h.began[h.streams.Stream()] = now
				h.newest.Store(now.UnixNano())
				h.front.listener.service.tally.Begin(h.version, nil)
			} else {
				h.due()
			}
			continue
		case wire.Violated:
			h.mu.Unlock()
			return true, nil
		case wire.Closed:
			h.count(h.streams.Stream(), tally.Answered)
		case wire.Reset:
			h.count(h.streams.Stream(), tally.Canceled)
		}
		if n == 0 {
			break
		}
		if drop && off > start {
			h.mu.Unlock()
			if _, err := h.conn.Write(p[start:off]); err != nil {
				return false, err
			}
			h.mu.Lock()
		}
		off += n
		if drop {
			start = off
		}
	}
	h.mu.Unlock()
	if off > start {
		if _, err := h.conn.Write(p[start:off]); err != nil {
			return false, err
		}
	}
	f.consume(off)
	h.polite()
	return false, nil
}

// admit reports whether a call may begin. mu is held.
func (h *framed) admit() bool {
	g := h.front.layer.gate
	if h.end >= goAwayDue || h.inside {
		return h.end < goAwayDue
	}
	if !g.TryEnter(&h.ticket, h.cut) {
		return false
	}
	l, route := h.front.listener, h.ticket.Route
	version := l.versionUnder(route)
	p, b, err := route.Path(version, l.service.name)
	if err != nil || !route.Relays(p, l.service.Protocol) || b != h.backend || l.room(route, p, version) != nil {
		g.Leave(&h.ticket)
		return false
	}
	h.inside = true
	return true
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
		h.front.layer.gate.Leave(&h.ticket)
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
// err: calls without an answer get a refusal, and later ones were not taken. The
// front's wmu is held.
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

// contentTypeOf reads the header block of the first call on a connection.
func contentTypeOf(block []byte) string {
	d := hpack.NewDecoder(4096, nil)
	d.SetMaxStringLength(stream.BufferSize)
	fields, err := d.DecodeFull(block)
	if err != nil {
		return ""
	}
	for _, f := range fields {
		if f.Name == "content-type" {
			return f.Value
		}
	}
	return ""
}

// encodeRefusal writes a refusal for a caller of HTTP/2. Its fields do not touch
// the table of headers, which is the node's.
func encodeRefusal(r *so.Refusal, contentType string) (block, body []byte) {
	resp := r.Response(&http.Request{Header: http.Header{"Content-Type": {contentType}}})
	var out bytes.Buffer
	enc := hpack.NewEncoder(&out)
	add := func(name, value string) {
		_ = enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}) // to memory
	}
	add(":status", strconv.Itoa(resp.StatusCode))
	for name, values := range resp.Header {
		for _, value := range values {
			add(strings.ToLower(name), value)
		}
	}
	body, _ = io.ReadAll(resp.Body) // from memory
	return out.Bytes(), body
}

// down passes on what the node says until it ends.
func (h *framed) down() {
	f := h.front
	var piece []byte // of a frame's header
	for {
		buf, n, err := h.in.Read(nil, 0)
		if err != nil {
			h.says.Lock()
			if last := h.lastWords(err); last != nil {
				_, _ = f.conn.Write(last)
			}
			h.sayFarewell() // the caller has no use for half a connection
			h.says.Unlock()
			h.endCalls()
			return
		}
		p := (*buf)[:n]
		if len(piece) > 0 {
			p = append(piece, p...)
		}
		short, err := h.fromNode(p)
		piece = append([]byte(nil), short...)
		f.layer.buffers.Put(buf)
		if err != nil {
			h.lost()
			f.conn.Close()
			h.conn.Close()
			return
		}
		h.polite()
	}
}

// fromNode passes on frames of the node, and returns what is too short to tell.
func (h *framed) fromNode(p []byte) (short []byte, err error) {
	f := h.front
	h.says.Lock()
	defer h.says.Unlock()
	var tell []byte
	off, at := 0, 0
	h.mu.Lock()
	for off < len(p) {
		n, e := h.streams.FromServer(p[off:])
		h.noteAnswers()
		if n == 0 {
			break
		}
		h.heard(e)
		off += n
		h.greeted = true
		if tell == nil {
			tell, at = h.tell(), off
		}
	}
	h.mu.Unlock()
	if tell == nil {
		_, err = f.conn.Write(p[:off])
		return p[off:], err
	}
	parts := net.Buffers{p[:at], tell, p[at:off]}
	_, err = parts.WriteTo(f.conn)
	return p[off:], err
}
