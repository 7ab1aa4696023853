package simlayer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"moult/simlayer/calls"
	"moult/simlayer/routes"
	"moult/simlayer/sockets"
	"moult/simlayer/stream"
)

// Finish waits until the calls that are at the node now have ended, while those that
// come are let in as before. It is for before a Drain, which then has short calls to wait
// for only, and returns at once where calls are held already. Calls that are not meant to
// end (events, long polls, connections that have changed their protocol) are not waited
// for, and answers of unknown length only until ctx ends: they are the next Drain's. Where
// all this takes longer than a Drain would wait, so may the calls that came meanwhile, and
// they are waited for too. If ctx ends first, those that remain of the calls that were
// there at its beginning, and are meant to end, are cut, as Drain cuts calls; n is how
// many, and err then says so.
//
// At last it leads to the layer whoever has come past it. Where that was anybody, it
// returns a second later, and not before the calls that are there then have an answer, as
// far as the kernel tells; for these it waits until ctx ends, and no longer than a Drain
// would. Where ctx was cancelled, which is no deadline, the software runs on without the
// layer, and who comes past it goes on doing so.
func (l *Layer) Finish(ctx context.Context) (n int, err error) {
	l.draining.Lock()
	defer l.draining.Unlock()
	if n = l.gate.Finish(ctx, max(l.lastCalls(), l.calls.LastingAfter), func() { l.callAnew(routes.Relayed.Warn) }); n > 0 {
		err = fmt.Errorf("drain: %d calls had not ended and were cut: %w", n, context.Cause(ctx))
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		l.endDirect(ctx)
	}
	return n, err
}

// endDirect leads new connections to the layer, which lets them in, and gives the calls
// that have come past it time to end: a second, as those of a raw protocol have, since
// no call's end is seen for certain; and then those of which the kernel tells that they
// have no answer as long as a Drain would. What remains is the software's to end when it
// is told to stop; there is software that drops the calls that it has then. It comes
// last, since nobody else takes the callers if the agent dies meanwhile.
func (l *Layer) endDirect(ctx context.Context) {
	past := l.leadAll()
	if len(past) == 0 {
		return
	}
	last, cancel := context.WithTimeout(ctx, l.lastCalls())
	defer cancel()
	gone := last.Done()
	timer := time.NewTimer(calls.RawGrace)
	defer timer.Stop()
	var waiting map[sockets.Ends]bool // nil while the second goes on
	for pause := lookPause; ; pause = min(2*pause, maxLookPause) {
		select {
		case <-timer.C:
			waiting = l.unanswered(past, waiting)
		case <-l.ctx.Done():
			return
		case <-gone:
			gone = nil
			if errors.Is(ctx.Err(), context.Canceled) {
				l.leadBack()
				return
			}
		}
		switch {
		case waiting == nil: // the deadline was before the end of the second
			continue
		case len(waiting) > 0 && gone == nil:
			l.log.Warn("connections past the layer may have calls without an answer, which are the software's to end", "connections", len(waiting))
			return
		case len(waiting) == 0:
			return
		}
		timer.Reset(pause)
	}
}

// unanswered returns the connections past the layer by which something has come that has
// no answer yet, and where before is not nil those of it alone. It is never nil.
func (l *Layer) unanswered(past []netip.AddrPort, before map[sockets.Ends]bool) map[sockets.Ends]bool {
	still := map[sockets.Ends]bool{}
	conns, err := sockets.Others(past)
	if err != nil {
		l.log.Warn("whether calls past the layer have their answers is not known", "err", err)
	}
	for _, c := range conns {
		if c.Unanswered && (before == nil || before[c.Ends]) {
			still[c.Ends] = true
		}
	}
	return still
}

// leadBack undoes leadAll.
func (l *Layer) leadBack() {
	l.apply.Lock()
	defer l.apply.Unlock()
	if !l.closed {
		l.aim(l.gate.Routing())
	}
}

// leadAll leads new connections to the layer and returns where they went past it.
func (l *Layer) leadAll() (past []netip.AddrPort) {
	l.apply.Lock()
	defer l.apply.Unlock()
	if l.closed {
		return nil
	}
	for _, f := range l.listeners() {
		if f.packets != nil || !f.Direct() {
			continue
		}
		if _, err := l.aimOne(f, nil, false); err != nil {
			l.fell(f, err)
		}
		f.Lead(false)
		if at, ok := stream.AddrPort(f.Addr()); ok {
			past = append(past, at)
		}
	}
	return past
}

// lastCalls is how long a drain waits for calls while it holds others.
func (l *Layer) lastCalls() time.Duration {
	return max(l.gate.Routing().Hold/lastCalls, calls.RawGrace)
}

// Drain holds calls from now on and waits until all those at the node have
// ended, whichever routing let them in. Those that may never end do so now, as the
// node would end them: answers of unknown length that have gone on for 5 seconds,
// events, connections that have changed their protocol. Long polls, calls that may be
// made again and have had no answer for so long, are held with the new ones. If ctx
// ends first, or a third of the hold timeout is over, it cuts the rest: calls
// of HTTP that have no answer yet get 503 with Connection: close, or are held where they
// may be made again; all others lose their connection. inFlight is how many it cut, and
// err then says so. Calls are held until an Apply that is not Down.
//
// Where a call of a raw protocol ends nobody can see, and its connections may last
// for ever: each has a second from its beginning, and those that remain are the
// software's to end when it is told to stop, as without the layer. Whether a datagram
// is answered yet cannot be known either: callers by UDP that wait for an answer get a
// short time for it.
func (l *Layer) Drain(ctx context.Context) (inFlight int, err error) {
	l.draining.Lock()
	defer l.draining.Unlock()
	l.gate.Hold()
	l.apply.Lock()
	direct := l.directPackets()
	if !l.closed {
		l.aim(nil)
	}
	l.apply.Unlock()
	l.callAnew(routes.Relayed.Drain)
	defer l.leaveBackends()
	defer l.tellAll()
	limit := l.lastCalls()
	last, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("new ones are held for %v at most before the software is stopped", limit))
	defer cancel()
	done := l.gate.Drained(last)
	if n := l.gate.EndedEarly(); n > 0 {
		l.log.Warn("answers whose length nothing tells had not ended and were ended", "calls", n)
	}
	if done {
		l.awaitPackets(ctx, direct)
		return 0, nil
	}
	if inFlight = l.gate.Cut(); inFlight > 0 {
		err = fmt.Errorf("drain: %d calls had not ended and were cut: %w", inFlight, context.Cause(last))
	}
	grace, cancel := context.WithTimeout(l.ctx, cutGrace)
	defer cancel()
	if !l.gate.Drained(grace) {
		err = errors.Join(err, fmt.Errorf("calls that were cut go on after %v", cutGrace))
	}
	return inFlight, err
}

// callAnew has callers, where their protocol can say so, make further calls by other
// connections than those that the node has calls of.
func (l *Layer) callAnew(say func(routes.Relayed)) {
	for b := range l.gate.Routing().All() {
		for _, r := range b.Relaying() {
			say(r)
		}
	}
}

// leaveBackends closes the connections to software that has been drained.
func (l *Layer) leaveBackends() {
	for b := range l.gate.Routing().All() {
		b.Leave()
	}
}
