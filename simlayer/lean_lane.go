package simlayer

import (
	"iter"

	"moult/simlayer/wire"
)

// Simulated calls pass by lanes, too. An object blocks where it calls its next, so
// each call runs in a coroutine: it gives way where it waits for the node, and its
// lane resumes it once the node has said something. Whatever else happens, it
// leaves the lane in the midst of the call: its connection goes back to run, which
// resumes the call, and that goes on as if there were no lanes.

// restLean lets a connection whose calls are simulated go to a lane, where that is
// due, until something comes that is none of its business. false: no request
// follows.
func (f *front) restLean() bool {
	f.mu.Lock()
	u := f.up
	due := u != nil && u.lean && f.lanePlain >= f.laneDue() && !u.last && f.downs == 0 && !f.ex.on &&
		!f.answering && !f.taken && !f.closing && !f.hand && !f.eof && !f.gone && !f.grace
	f.mu.Unlock()
	if !due {
		return true
	}
	f.lanePlain = 0
	if !hasLanes() {
		return true
	}
	r := &rest{front: f, up: u, over: make(chan struct{}), met: make(chan struct{})}
	f.goLane(r)
	f.lanePlain = 0
	w := r.work
	if w == nil {
		return true
	}
	// A call that is on goes on here.
	w.resume()
	w.stop()
	return w.follows
}

// simulates takes p, a request that has been let in, as one to be simulated. It
// reports whether it has: nothing is done else.
func (r *rest) simulates(req wire.Request, p []byte) bool {
	f, u := r.front, r.up
	ex := &f.ex
	route, l := ex.ticket.route, f.listener
	version := l.versionUnder(route)
	way, b, err := route.path(version, l.service.name)
	if err != nil || b != u.backend || route.relays(way, l.service) || l.room(route, way, version) != nil {
		return false
	}
	ex.path, ex.backend = way, b
	// What lies in the lane's own memory is gone by the time the call goes on.
	f.buf = f.layer.buffers.get()
	f.n = copy(*f.buf, p)
	c := f.lean(req, (*f.buf)[:f.n])
	f.mu.Lock()
	ok := c != nil && f.up == u && !u.last
	if ok {
		ex.version, ex.native, ex.via = version, route.native, way.via
		ex.counted = l.service.tally.begun(version, nil)
	}
	f.mu.Unlock()
	if ok {
		c.lane, r.call, r.req = r, c, req
		return true
	}
	if c != nil {
		f.layer.buffers.leans.put(c)
	}
	f.consume(f.n)
	return false
}

// A call gives way because of one of these.
type pause int

const (
	pauseNode  pause = iota // the node has to say something
	pauseWrite              // it has something to write
	pauseLeave              // it has to leave the lane
	pauseOver               // it has ended
)

// worker is a coroutine that makes one call after the other. It is used by one
// goroutine at a time.
type worker struct {
	next  func() (pause, bool)
	stop  func() // between two calls
	yield func(pause) bool

	call    *lean
	req     wire.Request
	follows bool // another request may follow the last call
}

func newWorker() *worker {
	w := &worker{}
	w.next, w.stop = iter.Pull(w.run)
	return w
}

func (w *worker) run(yield func(pause) bool) {
	w.yield = yield
	for more := true; more; more = yield(pauseOver) {
		f := w.call.front
		w.follows = f.carry(w.call, w.req, f.n)
		w.call = nil
	}
}

// resume has the call go on until it gives way.
func (w *worker) resume() pause {
	why, _ := w.next()
	return why
}

// pause gives way.
func (c *lean) pause(why pause) {
	r := c.lane
	r.work.yield(why)
	if r.left {
		c.lane = nil
	}
}

// ground takes the call out of its lane, if it is in one.
func (c *lean) ground() {
	if c.lane != nil {
		c.pause(pauseLeave)
	}
}
