package simlayer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/observe"
)

// gate lets calls in to the node, or holds them. It owns the routing in force, so
// that a call is let in under one routing and none is let in between two.
type gate struct {
	maxHeld int
	// leaving: the node goes down, and calls that go on should be the last of
	// their connections.
	leaving atomic.Bool

	mu      sync.Mutex
	route   *route
	open    bool
	shut    bool          // for good
	changed chan struct{} // closed and replaced with every change of the three above
	inside  ticket        // the ring of the calls at the node; itself none of them
	in      int           // how many
	loose   ticket        // the ring of raw connections that nobody waits for any more
	empty   chan struct{} // if not nil: closed once nobody is inside
	held    int           // calls that wait
	peaks   struct{ in, held int }
	longest time.Duration
}

// ticket is a call's stay at the node, under one routing. Once it has left it may
// be used again.
type ticket struct {
	route      *route
	cut        func() // gate.mu; nil once called
	prev, next *ticket
	raw        bool // a connection of a raw protocol; set before it enters
	loose      bool // gate.mu; it is in the ring of those
}

// patience is how long one call has waited and still may, over all its waits.
type patience struct {
	limit time.Duration
	until time.Time // zero before the first wait
	spent time.Duration
}

func (p *patience) start(limit time.Duration) {
	if p.until.IsZero() {
		p.limit = limit
		p.until = time.Now().Add(limit)
	}
}

func newGate(maxHeld int) *gate {
	g := &gate{
		maxHeld: maxHeld,
		route:   &route{down: true, hold: DefaultHoldTimeout},
		changed: make(chan struct{}),
	}
	g.inside.prev, g.inside.next = &g.inside, &g.inside
	g.loose.prev, g.loose.next = &g.loose, &g.loose
	return g
}

// announce wakes all who wait for a change. Callers hold mu.
func (g *gate) announce() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// set puts a routing in force and returns the one before.
func (g *gate) set(r *route) (old *route) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old = g.route
	g.route, g.open = r, !r.down
	if g.open {
		g.leaving.Store(false)
	}
	g.announce()
	return old
}

// current returns the routing in force.
func (g *gate) current() *route {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.route
}

// enter lets a call in, waiting until the gate is open. cut must make the call
// end soon; it is called at most once, and only before leave, with the gate
// locked: it must not call the gate, nor wait for who does. Errors are
// errHeldTooLong, errHeldTooMany, ErrClosed and those of ctx.
func (g *gate) enter(ctx context.Context, p *patience, cut func()) (*ticket, error) {
	t := &ticket{}
	return t, g.enterAs(ctx, p, t, cut)
}

// enterAs is enter with a ticket of the caller's.
func (g *gate) enterAs(ctx context.Context, p *patience, t *ticket, cut func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.shut && !g.open {
		if err := g.wait(ctx, p, 0); err != nil {
			return err
		}
	}
	if g.shut {
		return ErrClosed
	}
	g.longest = max(g.longest, p.spent)
	g.let(t, cut)
	return nil
}

// tryEnter lets a call in if the gate is open.
func (g *gate) tryEnter(t *ticket, cut func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return false
	}
	g.let(t, cut)
	return true
}

// isOpen reports whether calls are let in.
func (g *gate) isOpen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// let puts a call inside. Callers hold mu.
func (g *gate) let(t *ticket, cut func()) {
	t.route, t.cut = g.route, cut
	t.prev, t.next = g.inside.prev, &g.inside
	t.prev.next, t.next.prev = t, t
	g.in++
	g.peaks.in = max(g.peaks.in, g.in)
}

// leave ends a call's stay. It reports whether the routing is still in force.
func (g *gate) leave(t *ticket) (inForce bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.prev.next, t.next.prev = t.next, t.prev
	t.prev, t.next, t.cut = nil, nil, nil
	if t.loose {
		t.loose = false
	} else {
		g.out()
	}
	return g.route == t.route
}

// out counts one call less. Callers hold mu.
func (g *gate) out() {
	g.in--
	if g.in == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// loosen has nobody wait any more for the connections of raw protocols that are
// inside: the software must end them.
func (g *gate) loosen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := g.inside.next; t != &g.inside; {
		next := t.next
		if t.raw {
			t.prev.next, t.next.prev = t.next, t.prev
			t.prev, t.next, t.loose = g.loose.prev, &g.loose, true
			t.prev.next, t.next.prev = t, t
			g.out()
		}
		t = next
	}
}

// pause lets a call that failed under a routing wait for another one, or for a
// pause to end, before it enters again. Errors are those of enter.
func (g *gate) pause(ctx context.Context, p *patience, failed *route, most time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.start(g.route.hold)
	if g.route != failed {
		return nil
	}
	return g.wait(ctx, p, most)
}

// wait waits for a change, or for a pause if there is one. It is called with mu
// held, which it gives up meanwhile.
func (g *gate) wait(ctx context.Context, p *patience, pause time.Duration) error {
	if g.shut {
		return ErrClosed
	}
	if g.held >= g.maxHeld {
		return errHeldTooMany
	}
	p.start(g.route.hold)
	g.held++
	g.peaks.held = max(g.peaks.held, g.held)
	changed := g.changed
	g.mu.Unlock()

	began := time.Now()
	left := p.until.Sub(began)
	last := pause == 0 || left <= pause
	if !last {
		left = pause
	}
	timer := time.NewTimer(left)
	var err error
	select {
	case <-changed:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		if last {
			err = errHeldTooLong
		}
	}
	timer.Stop()
	p.spent += time.Since(began)

	g.mu.Lock()
	g.held--
	if err != nil {
		g.longest = max(g.longest, p.spent)
	}
	return err
}

// hold closes the gate for new calls.
func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = false
	g.leaving.Store(true)
}

// drained returns a channel that is closed once nobody is inside.
func (g *gate) drained() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	return g.empty
}

// cut ends all calls that are inside, and returns how many.
func (g *gate) cut() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside.cutAll()
	return g.in
}

// cutAll cuts a whole ring. Callers hold the gate's mu.
func (ring *ticket) cutAll() {
	for t := ring.next; t != ring; t = t.next {
		if cut := t.cut; cut != nil {
			t.cut = nil
			cut()
		}
	}
}

// close shuts the gate for good: who waits gets ErrClosed, who is inside is cut.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.shut = false, true
	g.announce()
	g.inside.cutAll()
	g.loose.cutAll()
}

// gateStats is what the gate knows of the calls.
type gateStats struct {
	in, held         int
	peakIn, peakHeld int
	longest          time.Duration
}

func (g *gate) stats() gateStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return gateStats{in: g.in, held: g.held, peakIn: g.peaks.in, peakHeld: g.peaks.held, longest: g.longest}
}

// look returns what is in force, and a channel that is closed when it may no longer
// be.
func (g *gate) look() (r *route, open, shut bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.route, g.open, g.shut, g.changed
}

// seenBy reports whether all calls of HTTP that are at the node were let in under
// routings with this observer.
func (g *gate) seenBy(o *observe.Observer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := g.inside.next; t != &g.inside; t = t.next {
		if !t.raw && t.route.observer != o {
			return false
		}
	}
	return true
}
