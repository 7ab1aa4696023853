package simlayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
	"moult/store/bundle"
)

// simulation is one plain call of HTTP/1.1 that is simulated in this process without
// net/http: the front that has read it runs its chain, whose calls go by the
// front's own connection, and writes the answer. What is not plain is the
// callProxy's, which does the same in every other respect.
//
// It is used by one goroutine: run, where the call could begin at once, or the one
// that waited for the gate (front.late). run watches the caller while that one works;
// where run works itself, a watcher begins once the node takes long.
type simulation struct {
	front   *front
	path    *routes.Path
	backend *routes.Backend
	via     bundle.Version
	ctx     context.Context
	budget  *so.Budget
	alone   bool // run works: nobody watches the caller
	more    bool // another request of the caller is here already

	request plainRequest
	out     []byte // what is written, to the node and then to the caller
	bufs    []*[]byte
	answer  plainResponse
	second  bool // the answer's memory is in use
	// unsafe: a request that must not be sent twice may have reached the node.
	unsafe bool

	watching chan struct{} // closed once the watcher has ended; nil: none
	seen     []byte        // what the watcher has read
}

// simulations are the memory of simulated calls.
type simulations struct{ pool sync.Pool }

func (l *simulations) get(f *front) *simulation {
	c, ok := l.pool.Get().(*simulation)
	if !ok {
		c = &simulation{budget: so.NewBudget()}
		c.request.base = (&http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(c.budget.Within(f.layer.ctx))
		c.request.header = http.Header{}
		c.answer.header = http.Header{}
	}
	c.front, c.ctx = f, c.request.base.Context()
	c.budget.Reset()
	return c
}

// put takes c back. Nothing of the call is left in it.
func (l *simulations) put(c *simulation) {
	for _, buf := range c.bufs {
		c.front.layer.buffers.Put(buf)
	}
	clear(c.bufs)
	c.request.clear()
	c.answer.clear()
	out, values := c.out[:0], c.bufs[:0]
	if cap(out) > stream.BufferSize {
		out = nil
	}
	*c = simulation{budget: c.budget, request: c.request, answer: c.answer, out: out, bufs: values}
	l.pool.Put(c)
}

// plainCall begins the simulation of a whole request, if the call is plain; nil: it is
// not.
func (f *front) plainCall(req wire.Request, text []byte) *simulation {
	p := f.call.path
	if f.layer.cfg.byProxy || f.call.ticket.Route.Observer != nil || !so.Bounded(p.Chain) {
		return nil
	}
	c := f.layer.simulations.get(f)
	c.path, c.backend, c.via = p, f.call.backend, p.Via
	end := len(text) - int(req.Length)
	if !c.request.read(req, text[:end], text[end:]) {
		f.layer.simulations.put(c)
		return nil
	}
	return c
}

// simulate answers a request of which size bytes are here, by run.
func (f *front) simulate(req wire.Request, size int, how relay.How) bool {
	var c *simulation
	if how == relay.Whole {
		c = f.plainCall(req, (*f.buf)[:size])
	}
	if c == nil {
		f.handBack()
		return false
	}
	c.more = f.n > size
	c.alone = true
	err := c.run()
	c.unwatch()
	seen, unsafe := c.seen, c.unsafe
	again := err != nil && f.simulateAgain(err, unsafe)
	f.layer.simulations.put(c)
	follows := true
	if again {
		follows = f.beginLate(size, true, err)
	} else {
		f.consume(size)
		if err != nil {
			f.refuse(explain(unsafe, err))
		}
	}
	if len(seen) > 0 {
		f.buf = f.layer.buffers.Get() // nothing else of the caller was here
		f.n = copy(*f.buf, seen)
	}
	return follows
}

// simulateLate answers a request that had to wait. An error is why it must wait
// again.
func (f *front) simulateLate() error {
	call := &f.call
	var c *simulation
	if end := wire.HeadEnd(call.request, 0); end > 0 {
		if req, ok := wire.ParseRequest(call.request[:end]); ok {
			c = f.plainCall(req, call.request)
		}
	}
	if c == nil {
		f.handBack()
		return nil
	}
	c.ctx = c.budget.Within(call.ctx)
	err := c.run()
	unsafe := c.unsafe
	f.layer.simulations.put(c)
	if err != nil && !f.simulateAgain(err, unsafe) {
		f.refuse(explain(unsafe, err))
		return nil
	}
	return err
}

// simulateAgain reports whether a failed call may be tried again: as call.again does.
func (f *front) simulateAgain(err error, unsafe bool) bool {
	var refusal *so.Refusal
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.As(err, &refusal) || unsafe || f.core.WasCut() {
		return false
	}
	if ended, _ := f.core.Left(); ended {
		return false
	}
	return proxy.IsDialError(err) || f.core.TakenBack() || f.core.TryAgain()
}

// run makes the call and answers it. An error is why there is no answer.
func (c *simulation) run() error {
	f := c.front
	resp, err := c.call()
	switch {
	case errors.Is(err, errBroke):
		c.unwatch()
		f.lose(tally.Failed)
		return nil
	case err != nil:
		return f.call.ticket.Route.Sign(err)
	}
	c.respond(resp)
	return nil
}

// errBroke says that a simulation object panicked.
var errBroke = errors.New("the simulation object broke")

// call runs the chain. What breaks in it fails this call only.
func (c *simulation) call() (resp *http.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			f := c.front
			f.layer.log.Error("a call broke its simulation object", "service", f.listener.service.name, "from", f.call.version, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp, err = nil, errBroke
		}
	}()
	return c.path.Chain.Answer(c.request.made(c.ctx), c)
}

// watch begins to watch the caller, where nobody does: one that goes away ends
// the call.
func (c *simulation) watch() {
	if !c.alone || c.watching != nil || c.more {
		return
	}
	c.watching = make(chan struct{})
	go func() {
		defer close(c.watching)
		// A byte of another request says no less than all of it.
		one := make([]byte, 1)
		_, n, err := c.front.in.Read(&one, 0)
		switch {
		case n > 0:
			c.seen = one
		case errors.Is(err, io.EOF):
			c.front.callerLeft(false)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.front.callerLeft(true)
		}
	}()
}

// unwatch ends the watcher.
func (c *simulation) unwatch() {
	if c.watching == nil {
		return
	}
	_ = c.front.conn.SetReadDeadline(time.Unix(1, 0))
	<-c.watching
	c.watching = nil
	c.alone = false
	_ = c.front.conn.SetReadDeadline(time.Time{})
}

// callerLeft passes on that the caller has said all, or has gone.
func (f *front) callerLeft(gone bool) {
	f.mu.Lock()
	if f.up != nil {
		f.up.last = true
	}
	f.do(f.core.CallerEnded(gone))
}
