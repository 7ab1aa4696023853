package calls

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// plainCall begins the simulation of a whole request, if the call is plain; nil: it is
// not.
func (f *front) plainCall(req wire.Request, text []byte) *simulation {
	p := f.call.path
	if f.calls.ByProxy || f.call.ticket.Route.Observer != nil || !so.Bounded(p.Chain) {
		return nil
	}
	c := f.simulation()
	c.path, c.backend, c.via = p, f.call.backend, p.Via
	end := len(text) - int(req.Length)
	if !c.request.read(req, text[:end], text[end:]) {
		c.done()
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
	c.done()
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
		f.buf = f.calls.buffers.Get() // nothing else of the caller was here
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
	c.done()
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
			f.calls.Log.Error("a call broke its simulation object", "service", f.port.Name, "from", f.call.version, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp, err = nil, errBroke
		}
	}()
	return c.path.Chain.Answer(c.request.made(c.ctx), c)
}
