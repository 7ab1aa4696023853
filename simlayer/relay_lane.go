package simlayer

import (
	"cmp"
	"errors"
	"net/http"
	"os"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/wire"
)

// A connection that has had some plain calls one after the other goes to a lane:
// a goroutine with a poller of its own that relays whole requests and whole
// answers of many connections, each by one read and one write. Go's own poller
// costs more: a read that finds nothing before each wait, a goroutine to be found
// and woken after it, and threads that are woken to look for others.
//
// Whatever else happens there (the end of either side, half a request, a closed
// gate, another routing, a node that takes its time to read) brings the connection
// back to run and down, which wait meanwhile, with what was read last. They do all
// as if there were no lanes.

// rest is a front's stay in a lane.
type rest struct {
	front        *front
	up           *upstream
	caller, node int   // descriptors, which are not in Go's poller
	seat         int32 // the lane's; noSeat once it has left

	calling bool          // an exchange is on; the lane's
	call    *lean         // what simulates it, once it has begun
	req     wire.Request  // of call
	work    *worker       // what runs call; nil: nothing does
	left    bool          // run has it back
	over    chan struct{} // closed where run has it back
	met     chan struct{} // closed where down has, too

	// What the lane did not do, for them.
	heard    *[]byte // of the caller, or of the node where an exchange is on
	have     int
	toNode   []byte // what is left of a request
	toCaller []byte // what is left of an answer
}

// heard is the next that u says: what a lane has read, or a new read. After a
// plain exchange it lets the connection go to a lane first.
func (f *front) heard(u *upstream, a *answer) (*[]byte, int, error) {
	r := f.askRest(u, a)
	if r == nil {
		return u.in.read(a.head, a.have)
	}
	<-r.met
	if r.toCaller != nil {
		err := f.writeLocked([][]byte{r.toCaller})
		closing := f.wrote()
		f.wmu.Unlock()
		if err != nil {
			return nil, 0, err
		}
		if closing {
			f.shut()
		}
	}
	if r.heard != nil {
		return r.heard, r.have, nil
	}
	return u.in.read(nil, 0)
}

// askRest asks run to take the connection to a lane, and returns what to wait for;
// nil where that is not due.
func (f *front) askRest(u *upstream, a *answer) *rest {
	if a.head != nil || a.inBody {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ex.respDone || u.last || f.ex.via != 0 || !f.ex.whole {
		return nil
	}
	if f.plain++; f.plain < f.laneDue() || f.downs > 1 || f.ex.on || f.up != u || f.taken || f.closing || f.hand || f.eof || f.gone || f.grace {
		return nil
	}
	f.plain = 0
	if !hasLanes() {
		return nil
	}
	f.rest = &rest{front: f, up: u, over: make(chan struct{}), met: make(chan struct{})}
	_ = f.conn.SetReadDeadline(time.Unix(1, 0))
	return f.rest
}

// laneDue is how many plain calls make a connection go to a lane. mu is held.
func (f *front) laneDue() int {
	if f.enough == 0 {
		f.enough = cmp.Or(f.layer.laneAfter, laneAfter)
	}
	return f.enough
}

// stir lets down go on where it waits for run. mu is held.
func (f *front) stir() {
	if f.rest != nil {
		close(f.rest.met)
		f.rest = nil
		_ = f.conn.SetReadDeadline(time.Time{})
	}
}

// resting returns what down has asked for, if that is why a read from the caller
// failed.
func (f *front) resting(err error) *rest {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rest
	if r == nil || f.hand || f.closing {
		return nil
	}
	f.rest = nil
	_ = f.conn.SetReadDeadline(time.Time{})
	return r
}

// goLane has a lane serve the connection until something comes that is none of
// its business. down waits.
func (f *front) goLane(r *rest) {
	defer func() {
		if r.toCaller != nil {
			f.wmu.Lock() // for down
		}
		close(r.met)
		if r.toNode != nil {
			_, _ = r.up.conn.Write(r.toNode) // as send
		}
	}()
	caller, ok := f.conn.(*sock)
	node, also := r.up.conn.(*sock)
	if !ok || !also {
		return
	}
	if r.caller, ok = caller.unpoll(); !ok {
		return
	}
	if r.node, ok = node.unpoll(); ok {
		f.layer.lanes.serve(r)
		node.poll()
		f.mu.Lock()
		_ = r.up.in.reads(node.Conn, &f.layer.buffers)
		f.mu.Unlock()
		r.up.deadline = time.Time{} // it has none now
	}
	caller.poll()
	_ = f.in.reads(caller.Conn, &f.layer.buffers)
	r.left = true
	if r.heard != nil && !r.calling {
		f.buf, f.n, r.heard = r.heard, r.have, nil
	}
	f.mu.Lock()
	f.enough = min(2*f.enough, cmp.Or(f.layer.laneMost, laneAfterMost))
	f.mu.Unlock()
}

// fromCaller takes p, which the caller has said, as a request to the node. It
// reports whether it has: nothing of it is done else.
func (r *rest) fromCaller(p []byte) bool {
	f, gate := r.front, r.front.layer.gate
	req, ok := f.plainRequest(p)
	if !ok {
		return false
	}
	ex := &f.ex
	f.mu.Lock()
	*ex = exchange{on: true, method: req.Method, whole: true, reqDone: true, began: time.Now(), outcome: answered}
	if proxy.Safe(req.Method) && !r.up.lean {
		f.kept = append(f.kept[:0], p...)
		ex.request = f.kept
	}
	f.mu.Unlock()
	if gate.tryEnter(&ex.ticket, f.cutFunc) {
		f.setInside(true)
		if r.up.lean && r.simulates(req, p) || !r.up.lean && f.stays(r.up) {
			r.calling = true
			return true
		}
		f.leave()
	}
	f.mu.Lock()
	ex.on, ex.request = false, nil
	f.mu.Unlock()
	return false
}

// plainRequest reports whether p is one whole request, and nothing more.
func (f *front) plainRequest(p []byte) (req wire.Request, ok bool) {
	end := wire.HeadEnd(p, 0)
	if end < 0 {
		return req, false
	}
	req, ok = wire.ParseRequest(p[:end])
	switch {
	case !ok || req.Method == http.MethodConnect || req.Expect || req.Close:
		return req, false
	case req.Body == wire.Sized && req.Length <= int64(f.layer.cfg.Limits.Replay):
		return req, len(p)-end == int(req.Length)
	}
	return req, req.Body == wire.NoBody && len(p) == end
}

// stays is admitted for an exchange that can go to u; false: it cannot.
func (f *front) stays(u *upstream) bool {
	ex := &f.ex
	route, l := ex.ticket.route, f.listener
	version := l.versionUnder(route)
	p, b, err := route.path(version, l.service.name)
	if err != nil || p.via != 0 || b != u.backend || !route.relays(p, l.service) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up != u || u.last {
		return false
	}
	ex.up, ex.version, ex.native = u, version, route.native
	ex.counted = l.service.tally.begun(version, nil)
	return true
}

// fromNode takes p, which the node has said, as the answer of the exchange, which
// has then ended. Nothing is done where it is no whole one, or where the caller is
// to be told more.
func (r *rest) fromNode(p []byte) bool {
	f := r.front
	end := wire.HeadEnd(p, 0)
	if end < 0 {
		return false
	}
	resp, ok := wire.ParseResponse(p[:end], f.ex.method, nil)
	if !ok || resp.Close || resp.Interim() || resp.Switched() || resp.Body == wire.UntilClose {
		return false
	}
	body := wire.NewBody(resp.Body, resp.Length)
	n, ok := body.Feed(p[end:])
	if !ok || end+n < len(p) || !body.Done() || f.layer.gate.leaving.Load() || f.listener.leads() {
		return false
	}
	r.calling = false
	f.mu.Lock()
	f.ex.begun, f.ex.respDone = true, true
	f.mu.Unlock()
	f.finish(answered)
	return true
}
