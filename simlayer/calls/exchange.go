package calls

import (
	"context"
	"errors"
	"syscall"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/stream"
	"moult/simlayer/wire"
)

// errSimulated says that a call needs simulation in this process.
var errSimulated = errors.New("the call needs simulation")

// begin takes a request to the node; size bytes of it are here. false: no other
// follows on this connection.
func (f *front) begin(req wire.Request, size int, how relay.How) bool {
	call, safe := &f.call, proxy.Safe(req.Method)
	f.mu.Lock()
	*call = frontCall{began: time.Now(), ticket: ticket{Of: f}, patience: gate.Patience{From: f.from}}
	f.core.Begin(req, how, safe)
	f.mu.Unlock()
	whole := how == relay.Whole
	if whole && safe {
		f.keep(size)
	}
	var u *upstream
	err := error(errHeld)
	if f.calls.Gate.TryEnter(&call.ticket, f.cutFunc) {
		u, err = f.admitted(f.calls.Ctx)
	}
	switch {
	case err == nil && whole:
		f.send(u, (*f.buf)[:size])
		f.consume(size)
		return true
	case err == nil:
		return f.stream(u, size)
	case errors.Is(err, errSimulated):
		return f.simulate(req, size, how)
	case errors.Is(err, errHeld) || proxy.IsDialError(err):
		return f.beginLate(size, whole, err)
	}
	f.consume(size)
	f.refuse(err)
	return true
}

// errHeld says that the gate was closed.
var errHeld = errors.New("the node is down")

// beginLate lets a request wait. A whole one does so beside run, which goes on
// to watch the caller.
func (f *front) beginLate(size int, whole bool, why error) bool {
	call := &f.call
	f.waits()
	ready := make(chan struct{})
	call.ready = ready
	if whole {
		f.keep(size)
		call.late = true
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
	if whole {
		return true
	}
	<-ready
	f.mu.Lock()
	u, on, hand := f.up, f.core.Calling(), f.core.Phase() == relay.Handing
	f.mu.Unlock()
	switch {
	case hand:
		return false
	case on && u != nil:
		return f.stream(u, size)
	}
	return true // it was refused; the rest of it is thrown away
}

// waits makes a call one that can be told to wait no more.
func (f *front) waits() {
	ctx, cancel := context.WithCancelCause(f.calls.Ctx)
	f.call.ctx = ctx
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancel = cancel
	if _, gone := f.core.Left(); gone {
		cancel(errGone)
	}
}

// late gets a call through the gate after it has failed to for last, or for a closed
// gate where that is nil. It returns a new connection whose answers the caller must
// take, or nil.
func (f *front) late(last error) *upstream {
	call, g := &f.call, f.calls.Gate
	if ready := call.ready; ready != nil {
		call.ready = nil // by the end of late there may be another call
		defer close(ready)
	}
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		var err error
		if last != nil {
			f.leave()
			err = g.Pause(call.ctx, &call.patience, call.ticket.Route, pause)
		}
		if err == nil {
			err = g.Enter(call.ctx, &call.patience, &call.ticket, f.cutFunc)
		}
		if err != nil {
			f.refuse(f.calls.heldRefusal(err, last, call.via, call.patience.Limit()))
			return nil
		}
		apart, request := call.late, call.request // of another call once this one was sent
		had := f.upNow()
		u, err := f.admitted(call.ctx)
		switch {
		case err == nil:
			if apart {
				f.send(u, request)
			}
			if u == had {
				return nil // its answers are taken already
			}
			return u
		case errors.Is(err, errSimulated):
			if err = f.simulateLate(); err == nil {
				return nil
			}
		case !proxy.IsDialError(err) || call.ctx.Err() != nil:
			f.refuse(err)
			return nil
		}
		last = err
	}
}

// leave takes the call out of the gate, to enter again.
func (f *front) leave() {
	f.mu.Lock()
	inside := f.core.Leave()
	f.mu.Unlock()
	if inside {
		f.calls.Gate.Leave(&f.call.ticket)
	}
}

// admitted finds, under the ticket's routing, the connection that the call goes to. A
// new one is given a goroutine that takes its answers, except where late calls, which
// is that goroutine.
func (f *front) admitted(ctx context.Context) (*upstream, error) {
	call := &f.call
	route, l := call.ticket.Route, f.port
	version := l.VersionUnder(route)
	p, b, err := route.Path(version, l.Name)
	if err == nil && call.counted == nil {
		err = l.room(route, p, version)
	}
	f.mu.Lock()
	f.core.Enter()
	call.version, call.native, call.via = version, route.Native, 0
	if err == nil {
		call.via = p.Via
		call.counted = l.Tally.Begin(version, call.counted)
	}
	old, relays := f.up, err == nil && route.Relays(p, l.Protocol)
	switch {
	case relays && old != nil && !old.simulated && old.backend == b && f.core.Usable():
		f.core.Sends(false, p.Via != 0)
		lasts := f.core.Lasting() != relay.Ends
		f.mu.Unlock()
		f.stirIf(lasts)
		return old, nil
	case old != nil && err == nil && (relays || !old.simulated):
		f.up = nil
		f.core.NoNode()
	default:
		old = nil // it stays
	}
	f.mu.Unlock()
	if old != nil {
		old.Close()
	}
	if !relays {
		call.path, call.backend = p, b
		if err == nil {
			err = errSimulated
		}
		return nil, err
	}
	u, err := f.dial(ctx, b)
	if err != nil {
		return nil, err
	}
	beside := call.ctx == nil
	f.mu.Lock()
	sends := f.core.Sends(true, p.Via != 0)
	if sends {
		f.up = u
	}
	lasts := f.core.Lasting() != relay.Ends
	f.mu.Unlock()
	f.stirIf(lasts)
	if !sends {
		u.Close()
		return nil, errCut
	}
	if beside {
		f.wg.Go(func() { f.down(u) })
	}
	return u, nil
}

// keep remembers the first size bytes, so that they can be sent again.
func (f *front) keep(size int) {
	f.kept = append(f.kept[:0], (*f.buf)[:size]...)
	f.call.request = f.kept
}

// send writes a whole request. Where that fails, down finds it out too, and
// deals with it.
func (f *front) send(u *upstream, request []byte) { _, _ = u.conn.Write(request) }

// stream sends a request whose body goes on; size bytes of it are its head. One that
// cannot be followed has no end.
func (f *front) stream(u *upstream, size int) bool {
	f.mu.Lock()
	if f.core.Phase() == relay.Opaque {
		f.mu.Unlock()
		f.passOn()
		return false
	}
	n, ok := f.core.Body((*f.buf)[size:f.n])
	size += n
	for ok {
		more, certain := f.core.BodyLeft()
		f.mu.Unlock()
		if _, err := u.conn.Write((*f.buf)[:size]); err != nil {
			return f.stuck()
		}
		f.consume(size)
		if certain >= stream.SpliceFrom && f.n == 0 && stream.Moves(u.conn) {
			moved, err := stream.Move(u.conn, f.conn, certain)
			f.mu.Lock()
			f.core.BodyMoved(moved)
			more, _ = f.core.BodyLeft()
			f.mu.Unlock()
			switch {
			case errors.Is(err, syscall.EPIPE):
				return f.stuck()
			case err != nil:
				return f.callerStops(err)
			}
		}
		if !more {
			return f.streamed()
		}
		if f.n == 0 && !f.await() {
			return false
		}
		f.mu.Lock()
		size, ok = f.core.Body((*f.buf)[:f.n])
	}
	f.core.Lost()
	f.do(relay.Do{})
	f.calls.Gate.Stir()
	f.passOn()
	return false
}

// streamed ends the request of a call, whose answer may be there already.
func (f *front) streamed() bool {
	f.mu.Lock()
	f.do(f.core.Passed())
	f.mu.Lock()
	closing := f.core.Phase() == relay.Closing
	f.mu.Unlock()
	if closing {
		f.discard()
	}
	return !closing
}

// stuck waits for the answer of a node that takes no more of the request.
func (f *front) stuck() bool {
	f.mu.Lock()
	f.core.Stuck()
	f.mu.Unlock()
	switch f.settle() {
	case relay.Pass:
		f.wg.Wait()
	case relay.Discard:
		f.discard()
	}
	return false
}

// handBack takes a call out of the gate that must be handed over, and wakes run for
// it.
func (f *front) handBack() {
	f.calls.Gate.Leave(&f.call.ticket)
	f.call.counted.Done()
	f.call.counted = nil
	f.mu.Lock()
	f.core.HandOver()
	_ = f.conn.SetReadDeadline(time.Unix(1, 0))
	f.do(relay.Do{})
}
