package simlayer

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"syscall"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// errSimulated says that a call needs simulation in this process.
var errSimulated = errors.New("the call needs simulation")

// begin takes a request to the node; size bytes of it are here. false: no other
// follows on this connection.
func (f *front) begin(req wire.Request, size int, how taking) bool {
	f.mu.Lock()
	ex := &f.ex
	*ex = exchange{
		on: true, method: req.Method, whole: how == takeWhole, reqDone: how == takeWhole,
		opaque: how == takeOdd, last: req.Close, began: time.Now(), outcome: tally.Answered,
	}
	f.taken = false
	if ex.whole && proxy.Safe(ex.method) {
		f.keep(size)
	}
	f.mu.Unlock()
	var u *upstream
	err := error(errHeld)
	if f.layer.gate.tryEnter(&ex.ticket, f.cutFunc) {
		f.setInside(true)
		u, err = f.admitted(f.layer.ctx)
	}
	switch {
	case err == nil && ex.whole:
		f.send(u, (*f.buf)[:size])
		f.consume(size)
		return true
	case err == nil:
		return f.stream(u, req, size)
	case errors.Is(err, errSimulated):
		return f.simulate(req, size, how)
	case errors.Is(err, errHeld) || proxy.IsDialError(err):
		return f.beginLate(req, size, err)
	}
	f.consume(size)
	f.refuse(err)
	return true
}

// errHeld says that the gate was closed.
var errHeld = errors.New("the node is down")

// beginLate lets a request wait. A whole one does so beside run, which goes on
// to watch the caller.
func (f *front) beginLate(req wire.Request, size int, why error) bool {
	ex := &f.ex
	f.mu.Lock()
	ex.ctx, ex.cancel = context.WithCancelCause(f.layer.ctx)
	ready := make(chan struct{})
	ex.ready = ready
	if ex.whole {
		f.keep(size)
		ex.late = true
	}
	f.mu.Unlock()
	if ex.whole {
		f.consume(size)
	}
	if errors.Is(why, errHeld) {
		why = nil
	}
	f.wg.Go(func() {
		if u := f.late(why); u != nil {
			f.down(u)
		}
	})
	if ex.whole {
		return true
	}
	<-ready
	f.mu.Lock()
	u, on, hand := f.up, f.ex.on, f.hand
	f.mu.Unlock()
	switch {
	case hand:
		return false
	case on && u != nil:
		return f.stream(u, req, size)
	}
	return true // it was refused; the rest of it is thrown away
}

// late gets an exchange through the gate after it has failed to for last, or for
// a closed gate where that is nil. It returns a new connection whose answers the
// caller must take, or nil.
func (f *front) late(last error) *upstream {
	ex, gate := &f.ex, f.layer.gate
	f.mu.Lock()
	ready := ex.ready // by the end of late there may be another exchange
	ex.ready = nil
	f.mu.Unlock()
	if ready != nil {
		defer close(ready)
	}
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		var err error
		if last != nil {
			f.leave()
			err = gate.rest(ex.ctx, &ex.patience, ex.ticket.route, pause)
		}
		if err == nil {
			err = gate.enterAs(ex.ctx, &ex.patience, &ex.ticket, f.cutFunc)
		}
		if err != nil {
			f.refuse(f.layer.heldRefusal(err, last, ex.via, ex.patience.limit))
			return nil
		}
		f.setInside(true)
		had := f.upNow()
		u, err := f.admitted(ex.ctx)
		switch {
		case err == nil:
			if ex.whole {
				f.send(u, ex.request)
			}
			if u == had {
				return nil // its answers are taken already
			}
			return u
		case errors.Is(err, errSimulated):
			if err = f.simulateLate(); err == nil {
				return nil
			}
		case !proxy.IsDialError(err) || ex.ctx.Err() != nil:
			f.refuse(err)
			return nil
		}
		last = err
	}
}

// upNow returns the connection to the node.
func (f *front) upNow() *upstream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up
}

func (f *front) setInside(in bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ex.inside = in
}

// leave takes the exchange out of the gate, to enter again.
func (f *front) leave() {
	f.mu.Lock()
	inside := f.ex.inside
	f.ex.inside = false
	f.mu.Unlock()
	if inside {
		f.layer.gate.leave(&f.ex.ticket)
	}
}

// admitted finds, under the ticket's routing, the connection that the exchange
// goes to. A new one is given a goroutine that takes its answers, except where
// late calls, which is that goroutine.
func (f *front) admitted(ctx context.Context) (*upstream, error) {
	ex := &f.ex
	route, l := ex.ticket.route, f.listener
	version := l.versionUnder(route)
	p, b, err := route.path(version, l.service.name)
	if err == nil && ex.counted == nil {
		err = l.room(route, p, version)
	}
	f.mu.Lock()
	ex.version, ex.native, ex.via = version, route.native, 0
	if err == nil {
		ex.via = p.via
		ex.counted = l.service.tally.Begin(version, ex.counted)
	}
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !route.relays(p, l.service) {
		ex.path, ex.backend = p, b
		return nil, errSimulated
	}
	if u := f.current(b); u != nil {
		return u, nil
	}
	u, err := f.dial(ctx, b)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	cut := ex.cut
	if !cut {
		f.up, ex.up = u, u
	}
	f.mu.Unlock()
	if cut {
		u.close()
		return nil, errCut
	}
	if ex.ctx == nil {
		f.wg.Go(func() { f.down(u) })
	}
	return u, nil
}

// current returns the connection to b, if there is one; one to elsewhere is
// closed.
func (f *front) current(b *backend) *upstream {
	f.mu.Lock()
	u := f.up
	if u != nil && u.backend == b && !u.last && !u.lean {
		f.ex.up = u
		f.mu.Unlock()
		return u
	}
	f.up = nil
	f.mu.Unlock()
	if u != nil {
		u.close()
	}
	return nil
}

func (f *front) dial(ctx context.Context, b *backend) (*upstream, error) {
	conn, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	u := &upstream{front: f, backend: b, conn: conn}
	if err := u.in.reads(conn, &f.layer.buffers); err != nil {
		conn.Close()
		return nil, err
	}
	if !b.keepRelay(u) {
		return nil, &proxy.DialError{Err: errors.Join(errLeft, conn.Close())}
	}
	return u, nil
}

// keep remembers the first size bytes, so that they can be sent again. mu is held.
func (f *front) keep(size int) {
	f.kept = append(f.kept[:0], (*f.buf)[:size]...)
	f.ex.request = f.kept
}

// send writes a whole request. Where that fails, down finds it out too, and
// deals with it.
func (f *front) send(u *upstream, request []byte) { _, _ = u.conn.Write(request) }

// stream sends a request whose body goes on; size bytes of it are its head. An
// opaque one has no end.
func (f *front) stream(u *upstream, req wire.Request, size int) bool {
	if f.isOpaque() {
		f.passOn()
		return false
	}
	body := wire.NewBody(req.Body, req.Length)
	n, ok := body.Feed((*f.buf)[size:f.n])
	size += n
	for ok {
		if _, err := u.conn.Write((*f.buf)[:size]); err != nil {
			return f.stuck()
		}
		f.consume(size)
		if left := body.Left(); left >= spliceFrom && f.n == 0 && moves(u.conn) {
			moved, err := moveN(u.conn, f.conn, left)
			body.Skip(moved)
			switch {
			case errors.Is(err, syscall.EPIPE):
				return f.stuck()
			case err != nil:
				return f.callerStops(err)
			}
		}
		if body.Done() {
			return f.streamed()
		}
		if f.n == 0 && !f.await() {
			return false
		}
		size, ok = body.Feed((*f.buf)[:f.n])
	}
	f.turnOpaque()
	f.passOn()
	return false
}

// streamed ends the request of an exchange, whose answer may be there already.
func (f *front) streamed() bool {
	f.mu.Lock()
	f.ex.reqDone = true
	both, o := f.ex.respDone, f.ex.outcome
	f.mu.Unlock()
	if !both {
		return true
	}
	f.finish(o)
	f.mu.Lock()
	closing := f.closing
	f.mu.Unlock()
	if closing {
		f.discard()
	}
	return !closing
}

// stuck waits for the answer of a node that takes no more of the request.
func (f *front) stuck() bool {
	f.mu.Lock()
	f.ex.stuck = true
	f.mu.Unlock()
	switch f.settle() {
	case settleOpaque:
		f.wg.Wait()
	case settleOver:
		f.discard()
	}
	return false
}

// turnOpaque makes the exchange one without an end.
func (f *front) turnOpaque() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ex.opaque = true
	if f.ex.ended != nil {
		close(f.ex.ended)
		f.ex.ended = nil
	}
}

// passOn passes on all that the caller says, and waits until the node has said
// all too.
func (f *front) passOn() {
	u := f.upNow()
	if u == nil {
		return
	}
	err := error(nil)
	if f.n > 0 {
		_, err = u.conn.Write((*f.buf)[:f.n])
		f.consume(f.n)
	}
	if err == nil {
		err = pump(u.conn, f.conn, &f.in)
	}
	if err != nil {
		stream.Reset(u.conn)
		stream.Reset(f.conn)
	} else {
		stream.CloseWrite(u.conn)
	}
	f.wg.Wait()
	f.mu.Lock()
	cut := f.ex.cut
	f.mu.Unlock()
	o := tally.Answered
	if cut {
		o = tally.Failed
	}
	f.finish(o)
}

// handBack takes an exchange out of the gate that must be handed over, and wakes
// run for it.
func (f *front) handBack() {
	f.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hand = true
	f.ex.counted.Done()
	f.ex.counted = nil
	if f.ex.ended != nil {
		close(f.ex.ended)
		f.ex.ended = nil
	}
	_ = f.conn.SetReadDeadline(time.Unix(1, 0))
}

// finish ends the exchange: it leaves the gate and is counted. It reports false
// where there is none, or another goroutine is about to end it.
func (f *front) finish(o tally.Outcome) bool {
	ex := &f.ex
	f.mu.Lock()
	if !ex.on || ex.ending {
		f.mu.Unlock()
		return false
	}
	ex.ending = true
	inside := ex.inside
	ex.inside = false
	ex.counted.Done()
	ex.counted = nil
	f.mu.Unlock()
	inForce := true
	if inside {
		inForce = f.layer.gate.leave(&ex.ticket)
	}
	if ex.version == 0 {
		ex.version = f.listener.versionUnder(f.layer.gate.current())
	}
	f.listener.service.tally.Of(ex.version).Ended(o, ex.patience.spent, ex.began)
	route := ex.ticket.route
	f.mu.Lock()
	if ex.closeAfter || ex.stuck {
		f.closing = true
	}
	ex.on, ex.ending, ex.request = false, false, nil
	if cap(f.kept) > maxKeptRequest {
		f.kept = nil
	}
	if ex.ended != nil {
		close(ex.ended)
		ex.ended = nil
	}
	if ex.cancel != nil {
		ex.cancel(nil)
		ex.ctx, ex.cancel = nil, nil
	}
	f.mu.Unlock()
	if !inForce {
		route.release(f.layer.gate.current())
	}
	return true
}

// refuse answers an exchange that got no answer.
func (f *front) refuse(err error) {
	ex := &f.ex
	f.mu.Lock()
	cut, begun, gone := ex.cut, ex.begun, f.gone || f.eof || f.layer.ctx.Err() != nil && errors.Is(err, context.Canceled)
	f.mu.Unlock()
	refusal := f.refusalOf(err, cut)
	f.layer.log.Debug("call refused", "service", f.listener.service.name, "from", refusal.From, "to", refusal.To, "status", refusal.Status, "denied", refusal.Denied, "error", refusal)
	o := tally.Failed
	switch {
	case gone:
		o = tally.Canceled
	case refusal.Denied:
		o = tally.Denied
	}
	if gone || begun || ex.opaque {
		f.lose(o)
		return
	}
	resp := refusal.Response(&http.Request{Method: ex.method})
	resp.Close = cut || !ex.reqDone || ex.last
	var out bytes.Buffer
	_ = resp.Write(&out) // to memory
	f.wmu.Lock()
	f.mu.Lock()
	ex.closeAfter = resp.Close
	f.mu.Unlock()
	f.finish(o)
	_, _ = f.conn.Write(out.Bytes()) // whoever has gone need not be told
	f.wmu.Unlock()
	if resp.Close {
		f.shut()
	}
}

// cut ends the exchange soon. The gate calls it.
func (f *front) cut() {
	f.mu.Lock()
	f.ex.cut = true
	u, cancel, begun := f.up, f.ex.cancel, f.ex.begun
	f.mu.Unlock()
	if cancel != nil {
		cancel(errCut)
	}
	if u != nil {
		u.conn.Close()
	}
	if begun {
		stream.Reset(f.conn)
	}
}

// cutRefusal is for a call that was cut before it had an answer.
func cutRefusal(err error) *so.Refusal {
	refusal := so.Fail(http.StatusServiceUnavailable, err, "%v; whether it was carried out is not known", errCut)
	refusal.RetryAfter = retryAfter
	return refusal
}
