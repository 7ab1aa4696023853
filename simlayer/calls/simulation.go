package calls

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
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

// simulation returns memory for a simulated call.
func (f *front) simulation() *simulation {
	c, ok := f.calls.simulations.Get().(*simulation)
	if !ok {
		c = &simulation{budget: so.NewBudget()}
		c.request.base = (&http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(c.budget.Within(f.calls.Ctx))
		c.request.header = http.Header{}
		c.answer.header = http.Header{}
	}
	c.front, c.ctx = f, c.request.base.Context()
	c.budget.Reset()
	return c
}

// done gives c back. Nothing of the call is left in it.
func (c *simulation) done() {
	all := c.front.calls
	for _, buf := range c.bufs {
		all.buffers.Put(buf)
	}
	clear(c.bufs)
	c.request.clear()
	c.answer.clear()
	out, values := c.out[:0], c.bufs[:0]
	if cap(out) > stream.BufferSize {
		out = nil
	}
	*c = simulation{budget: c.budget, request: c.request, answer: c.answer, out: out, bufs: values}
	all.simulations.Put(c)
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

// over is why no call may go out any more. front.mu is held.
func (c *simulation) over() error {
	switch {
	case c.front.core.WasCut():
		return errCut
	case c.front.core.TakenBack():
		return errBack
	}
	if _, gone := c.front.core.Left(); gone {
		return errGone
	}
	return nil
}

func (c *simulation) wasCut() bool {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	return c.front.core.WasCut()
}

// refuse answers by a refusal.
func (c *simulation) refuse(err error) {
	c.unwatch()
	c.front.refuse(err)
}

// lose breaks an answer off.
func (c *simulation) lose(o tally.Outcome) {
	c.unwatch()
	f := c.front
	f.mu.Lock()
	if _, gone := f.core.Left(); gone {
		o = tally.Canceled
	}
	f.mu.Unlock()
	f.lose(o)
}
