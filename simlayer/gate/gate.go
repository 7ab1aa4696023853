package gate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Gate lets calls in to a node, or holds them. It owns the routing in force, so
// that a call is let in under one routing and none is let in between two.
type Gate[R comparable] struct {
	leaving atomic.Bool // the node goes down
	// stirred wakes whoever waits for calls to end: one has, or never will.
	stirred chan struct{}

	mu       sync.Mutex
	route    R
	patience time.Duration // of calls that are held under route
	open     bool
	shut     bool          // for good
	changed  chan struct{} // closed and replaced with every change of the four above
	inside   ring[R]       // the calls at the node
	before   ring[R]       // those of them that were there when the others were told apart
	loose    ring[R]       // raw connections that nobody waits for any more
	waiting  waiting
	ended    int // answers of unknown length, since calls were held, before their end
	peaks    struct{ in, held int }
	longest  time.Duration
}

// New returns a gate that is closed, under a routing of which calls may wait for
// patience. At most maxHeld calls wait at once, and who calls most gives way.
func New[R comparable](r R, patience time.Duration, maxHeld int) *Gate[R] {
	return &Gate[R]{
		waiting:  waiting{most: maxHeld},
		route:    r,
		patience: patience,
		changed:  make(chan struct{}),
		stirred:  make(chan struct{}, 1),
	}
}

// announce wakes all who wait for a change. Callers hold mu.
func (g *Gate[R]) announce() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Set puts a routing in force, under which calls are let in, or held for patience at
// most. It returns the one before.
func (g *Gate[R]) Set(r R, open bool, patience time.Duration) (old R) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old = g.route
	g.route, g.open, g.patience = r, open, patience
	if g.open {
		g.leaving.Store(false)
	}
	g.announce()
	return old
}

// Routing returns the routing in force.
func (g *Gate[R]) Routing() R {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.route
}

// Enter lets a call in, waiting until the gate is open. cut must make the call
// end soon; it is called at most once, and only before Leave, with the gate
// locked: it must not call the gate, nor wait for who does. Errors are
// ErrHeldTooLong, ErrHeldTooMany, ErrClosed and those of ctx.
func (g *Gate[R]) Enter(ctx context.Context, p *Patience, t *Ticket[R], cut func()) error {
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

// TryEnter lets a call in if the gate is open.
func (g *Gate[R]) TryEnter(t *Ticket[R], cut func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return false
	}
	g.let(t, cut)
	return true
}

// IsOpen reports whether calls are let in.
func (g *Gate[R]) IsOpen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// Leaving reports whether the node goes down: calls that go on should be the last of
// their connections.
func (g *Gate[R]) Leaving() bool { return g.leaving.Load() }

// let puts a call inside. Callers hold mu.
func (g *Gate[R]) let(t *Ticket[R], cut func()) {
	t.Route, t.cut, t.entered, t.yielded = g.route, cut, time.Now(), time.Time{}
	g.inside.add(t)
	g.peaks.in = max(g.peaks.in, g.in())
}

// Leave ends a call's stay. It reports whether the routing is still in force.
func (g *Gate[R]) Leave(t *Ticket[R]) (inForce bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.ring.remove(t)
	t.cut = nil
	g.Stir()
	return g.route == t.Route
}

// in is how many calls are at the node. Callers hold mu.
func (g *Gate[R]) in() int { return g.inside.n + g.before.n }

// Stir says that a call has ended, or has become one that lasts. mu need not be held.
func (g *Gate[R]) Stir() {
	select {
	case g.stirred <- struct{}{}:
	default: // whoever waits is to look anyway
	}
}

// Pause lets a call that failed under a routing wait for another one, or for a
// pause to end, before it enters again. Errors are those of enter.
func (g *Gate[R]) Pause(ctx context.Context, p *Patience, failed R, most time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.start(g.patience)
	if g.route != failed {
		return nil
	}
	return g.wait(ctx, p, most)
}

// wait waits for a change, or for a pause if there is one. It is called with mu
// held, which it gives up meanwhile.
func (g *Gate[R]) wait(ctx context.Context, p *Patience, pause time.Duration) error {
	if g.shut {
		return ErrClosed
	}
	one := g.waiting.enter(p.From)
	if one == nil {
		return ErrHeldTooMany
	}
	p.start(g.patience)
	g.peaks.held = max(g.peaks.held, g.waiting.n)
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
	case <-one.shed:
		err = ErrHeldTooMany
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		if last {
			err = ErrHeldTooLong
		}
	}
	timer.Stop()
	p.spent += time.Since(began)

	g.mu.Lock()
	g.waiting.leave(one)
	if err != nil {
		g.longest = max(g.longest, p.spent)
	}
	return err
}

// Close shuts the gate for good: who waits gets ErrClosed, who is inside is cut.
func (g *Gate[R]) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.shut = false, true
	g.announce()
	for t := range g.everybody {
		t.cutNow()
	}
	for t := range g.loose.all {
		t.cutNow()
	}
}

// Stats is what the gate knows of the calls.
type Stats struct {
	In, Held         int // at the node, and waiting
	PeakIn, PeakHeld int
	Longest          time.Duration // that one has waited
	Before           int           // those of In that were there when calls were told apart
	Stirred          bool          // whoever waits for calls to end has something to look at
}

// Stats returns that.
func (g *Gate[R]) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{
		In: g.in(), Held: g.waiting.n, PeakIn: g.peaks.in, PeakHeld: g.peaks.held,
		Longest: g.longest, Before: g.before.n, Stirred: len(g.stirred) > 0,
	}
}

// Look returns what is in force, and a channel that is closed when it may no longer
// be.
func (g *Gate[R]) Look() (r R, open, shut bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.route, g.open, g.shut, g.changed
}

// Every reports whether is holds for all calls that are at the node, each with the
// routing that it was let in under. It must not call the gate.
func (g *Gate[R]) Every(is func(r R, of Call) bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := range g.everybody {
		if !is(t.Route, t.Of) {
			return false
		}
	}
	return true
}
