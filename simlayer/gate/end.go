package gate

import (
	"context"
	"time"

	"moult/simlayer/relay"
)

// part tells the calls that are at the node from those that come, and reports whether
// any may come.
func (g *Gate[R]) part() (open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for t := range g.inside.all {
		g.inside.remove(t)
		g.before.add(t)
	}
	return g.open
}

// Finish waits for the calls that are at the node, then for those that came meanwhile if
// that took longer than soon, and so on. each is called whenever they are told apart. If ctx
// ends first, it cuts what was there at the beginning and does not last, and returns how
// many.
func (g *Gate[R]) Finish(ctx context.Context, soon time.Duration, each func()) (cut int) {
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
func (g *Gate[R]) until(ctx context.Context, look func(now time.Time) (n int, next time.Time)) bool {
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
func (g *Gate[R]) passing(now time.Time) (n int, next time.Time) {
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
func (g *Gate[R]) ending(now time.Time) (n int, next time.Time) {
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
			if how == EndsNow || how == WaitsNow {
				next = sooner(next, now.Add(yieldGrace))
			}
			if how == EndsNow && what == relay.Streams {
				g.ended++
			}
		}
	}
	return g.in(), next
}

// yield has a call give way that lasts by then. Callers hold mu.
func (g *Gate[R]) yield(t *Ticket[R], now, by time.Time) Yielding {
	how := t.Of.Yield(t.entered, by)
	switch how {
	case GoesOn:
		return how
	case GoesLoose:
		t.ring.remove(t)
		g.loose.add(t)
	}
	t.yielded = now
	return how
}

// sooner returns the sooner of two times, of which the first may be zero.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Hold closes the gate for new calls.
func (g *Gate[R]) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.ended = false, 0
	g.leaving.Store(true)
}

// Drained waits until no call is at the node, and has those end that last; false: ctx
// has ended before.
func (g *Gate[R]) Drained(ctx context.Context) bool { return g.until(ctx, g.ending) }

// EndedEarly is how many answers of unknown length have been made to end.
func (g *Gate[R]) EndedEarly() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// Cut ends all calls that are at the node and were not made to give way, and returns
// how many. Those that can be made again wait for the next software instead.
func (g *Gate[R]) Cut() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for t := range g.everybody {
		if !t.yielded.IsZero() {
			continue
		}
		how := GoesOn
		if from, what := t.lasts(); what != relay.Ends {
			how = g.yield(t, now, from)
		}
		switch how {
		case GoesOn:
			t.cutNow()
			n++
		case EndsNow:
			n++
		}
	}
	return n
}

// cutBefore ends those that were let in by then and do not last, and returns how many.
func (g *Gate[R]) cutBefore(then time.Time) (n int) {
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
