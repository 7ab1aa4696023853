package simlayer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/observe"
	"moult/simlayer/relay"
)

// gate lets calls in to the node, or holds them. It owns the routing in force, so
// that a call is let in under one routing and none is let in between two.
type gate struct {
	maxHeld int
	// leaving: the node goes down, and calls that go on should be the last of
	// their connections.
	leaving atomic.Bool
	// stirred wakes whoever waits for calls to end: one has, or never will.
	stirred chan struct{}

	mu      sync.Mutex
	route   *route
	open    bool
	shut    bool          // for good
	changed chan struct{} // closed and replaced with every change of the three above
	inside  ring          // the calls at the node
	before  ring          // those of them that were there when the others were told apart
	loose   ring          // raw connections that nobody waits for any more
	held    int           // calls that wait
	ended   int           // answers of unknown length, since calls were held, before their end
	peaks   struct{ in, held int }
	longest time.Duration
}

// ticket is a call's stay at the node, under one routing. Once it has left it may
// be used again.
type ticket struct {
	route      *route
	cut        func()  // gate.mu; nil once called
	of         lasting // nil: it ends; set before it enters
	ring       *ring   // gate.mu, as all that follows
	prev, next *ticket
	entered    time.Time
	yielded    time.Time // when it was made to; zero: it was not
}

// lasting is a call that may go on for ever. It is called with the gate locked, and
// must not call the gate, nor wait for who does.
type lasting interface {
	// lasts is whether the call, as it is now, may go on for ever, and from when on it is
	// taken for one that does. entered is when it was let in.
	lasts(entered time.Time) (from time.Time, how relay.Lasting)
	// yield has a call leave soon that is taken for such a one by then, and says how. By
	// now it may be none: it goes on, and whoever made it another stirs the gate. It is
	// not called again for one that does not.
	yield(entered, by time.Time) yielding
}

// yielding is how a call that may go on for ever gives way.
type yielding uint8

const (
	endsNow   yielding = iota // as its software would end it
	waitsNow                  // it waits for the next software, and is made again
	goesLoose                 // it does not: the software ends it when it is told to stop
	goesOn                    // it does nothing: it ends by itself, or is not old enough
)

// ring is some of the tickets.
type ring struct {
	head ticket // none of them
	n    int
}

func (r *ring) add(t *ticket) {
	if r.head.next == nil {
		r.head.prev, r.head.next = &r.head, &r.head
	}
	t.ring, t.prev, t.next = r, r.head.prev, &r.head
	t.prev.next, t.next.prev = t, t
	r.n++
}

func (r *ring) remove(t *ticket) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.ring, t.prev, t.next = nil, nil, nil
	r.n--
}

// all yields the tickets; the one that is being looked at may be removed.
func (r *ring) all(yield func(*ticket) bool) {
	for t := r.head.next; t != nil && t != &r.head; {
		next := t.next
		if !yield(t) {
			return
		}
		t = next
	}
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
		stirred: make(chan struct{}, 1),
	}
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
	t.route, t.cut, t.entered, t.yielded = g.route, cut, time.Now(), time.Time{}
	g.inside.add(t)
	g.peaks.in = max(g.peaks.in, g.in())
}

// leave ends a call's stay. It reports whether the routing is still in force.
func (g *gate) leave(t *ticket) (inForce bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.ring.remove(t)
	t.cut = nil
	g.stir()
	return g.route == t.route
}

// in is how many calls are at the node. Callers hold mu.
func (g *gate) in() int { return g.inside.n + g.before.n }

// stir says that a call has ended, or has become one that lasts. mu need not be held.
func (g *gate) stir() {
	select {
	case g.stirred <- struct{}{}:
	default: // whoever waits is to look anyway
	}
}

// part tells the calls that are at the node from those that come, and reports whether
// any may come.
func (g *gate) part() (open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := range g.inside.all {
		g.inside.remove(t)
		g.before.add(t)
	}
	return g.open
}

// finish waits for the calls that are at the node, then for those that came meanwhile if
// that took longer than soon, and so on. each is called whenever they are told apart. If ctx
// ends first, it cuts what was there at the beginning and does not last, and returns how
// many.
func (g *gate) finish(ctx context.Context, soon time.Duration, each func()) (cut int) {
	began := time.Now()
	for g.part() {
		from := time.Now()
		each()
		if !g.until(ctx, g.passing) {
			return g.cutBefore(began)
		}
		if time.Since(from) <= soon {
			break
		}
	}
	return 0
}

// until waits until look finds no more calls to wait for; false: ctx has ended. next is
// when there is something to look for even where nothing happens, or zero.
func (g *gate) until(ctx context.Context, look func(now time.Time) (n int, next time.Time)) bool {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		n, next := look(time.Now())
		if n == 0 {
			return true
		}
		var late <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			late = timer.C
		}
		select {
		case <-g.stirred:
		case <-late:
		case <-ctx.Done():
			return false
		}
	}
}

// passing returns how many calls that were there before the others were told apart
// are waited for, since they end or may well; next is when one of them will not be any more, or
// zero.
func (g *gate) passing(now time.Time) (n int, next time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := range g.before.all {
		switch from, how := t.lasts(); {
		case how == relay.Ends || how == relay.Streams: // which may well be a download
			n++
		case from.After(now):
			n++
			next = sooner(next, from)
		}
	}
	return n, next
}

// ending returns how many calls are at the node, and has those end that last by now;
// next is when there is another to end, or zero.
func (g *gate) ending(now time.Time) (n int, next time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := range g.everybody {
		if !t.yielded.IsZero() {
			next = sooner(next, t.cutLate(now))
			continue
		}
		switch from, what := t.lasts(); {
		case what == relay.Ends:
		case from.After(now):
			next = sooner(next, from)
		default:
			how := g.yield(t, now, now)
			if how == endsNow || how == waitsNow {
				next = sooner(next, now.Add(yieldGrace))
			}
			if how == endsNow && what == relay.Streams {
				g.ended++
			}
		}
	}
	return g.in(), next
}

// yield has a call give way that lasts by then. Callers hold mu.
func (g *gate) yield(t *ticket, now, by time.Time) yielding {
	how := t.of.yield(t.entered, by)
	switch how {
	case goesOn:
		return how
	case goesLoose:
		t.ring.remove(t)
		g.loose.add(t)
	}
	t.yielded = now
	return how
}

// everybody yields the calls at the node. Callers hold mu.
func (g *gate) everybody(yield func(*ticket) bool) {
	for _, r := range []*ring{&g.before, &g.inside} {
		for t := range r.all {
			if !yield(t) {
				return
			}
		}
	}
}

// lasts is that of the ticket's call.
func (t *ticket) lasts() (from time.Time, how relay.Lasting) {
	if t.of == nil {
		return from, relay.Ends
	}
	return t.of.lasts(t.entered)
}

// cutLate cuts a call that has yielded and not ended in its time, and returns when that
// is over; zero: it is.
func (t *ticket) cutLate(now time.Time) (over time.Time) {
	if over = t.yielded.Add(yieldGrace); over.After(now) {
		return over
	}
	t.cutNow()
	return time.Time{}
}

// cutNow cuts a call, if nobody has.
func (t *ticket) cutNow() {
	if cut := t.cut; cut != nil {
		t.cut = nil
		cut()
	}
}

// sooner returns the sooner of two times, of which the first may be zero.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
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
	g.open, g.ended = false, 0
	g.leaving.Store(true)
}

// early is how many answers of unknown length have been made to end.
func (g *gate) early() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// cut ends all calls that are at the node and were not made to give way, and returns
// how many. Those that can be made again wait for the next software instead.
func (g *gate) cut() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for t := range g.everybody {
		if !t.yielded.IsZero() {
			continue
		}
		how := goesOn
		if from, what := t.lasts(); what != relay.Ends {
			how = g.yield(t, now, from)
		}
		switch how {
		case goesOn:
			t.cutNow()
			n++
		case endsNow:
			n++
		}
	}
	return n
}

// cutBefore ends those that were let in by then and do not last, and returns how many.
func (g *gate) cutBefore(then time.Time) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := range g.before.all {
		if _, how := t.lasts(); how == relay.Ends && !t.entered.After(then) {
			t.cutNow()
			n++
		}
	}
	return n
}

// close shuts the gate for good: who waits gets ErrClosed, who is inside is cut.
func (g *gate) close() {
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

// gateStats is what the gate knows of the calls.
type gateStats struct {
	in, held         int
	peakIn, peakHeld int
	longest          time.Duration
}

func (g *gate) stats() gateStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return gateStats{in: g.in(), held: g.held, peakIn: g.peaks.in, peakHeld: g.peaks.held, longest: g.longest}
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
	for t := range g.everybody {
		if _, raw := t.of.(*relaying); !raw && t.route.observer != o {
			return false
		}
	}
	return true
}
