package gate

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"moult/simlayer/relay"
)

// stay is a call for the gate alone.
type stay struct {
	g     *Gate[*routing]
	t     *Ticket[*routing]
	after time.Duration // since it was let in it is taken for endless; 0: never
	deaf  bool          // it does not end when it is to
	how   Yielding
	cuts  *atomic.Int64
}

func enterStay(t *testing.T, g *Gate[*routing], s stay) *stay {
	s.g, s.t, s.cuts = g, &Ticket[*routing]{}, new(atomic.Int64)
	s.t.Of = &s
	if err := g.Enter(t.Context(), &Patience{}, s.t, func() { s.cuts.Add(1); go g.Leave(s.t) }); err != nil {
		t.Fatal(err)
	}
	return &s
}

func (s *stay) Lasts(entered time.Time) (time.Time, relay.Lasting) {
	if s.after == 0 {
		return entered, relay.Ends
	}
	return entered.Add(s.after), relay.Endless
}

func (s *stay) Yield(entered, by time.Time) Yielding {
	if !s.deaf && s.how != GoesLoose && s.how != GoesOn {
		go s.g.Leave(s.t)
	}
	return s.how
}

// Before calls are held those that end are waited for, and no others; then the others go,
// first those that may never end. One that does not is cut.
func TestGateTellsCallsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 10)
		up(g, &routing{1})
		began := time.Now()
		short, stream := enterStay(t, g, stay{}), enterStay(t, g, stay{after: 5 * time.Second, deaf: true})
		raw := enterStay(t, g, stay{after: time.Second, how: GoesLoose})
		if !g.part() {
			t.Error("the gate is not open")
		}
		later := enterStay(t, g, stay{after: time.Hour})
		go func() {
			time.Sleep(2 * time.Second)
			g.Leave(short.t)
		}()
		if !g.until(t.Context(), g.passing) || time.Since(began) != 5*time.Second {
			t.Errorf("the calls that end were waited for %v, want 5 s: until the stream was known for one", time.Since(began))
		}
		g.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if g.Drained(ctx) {
			t.Error("nobody waited for the later call")
		}
		if stream.cuts.Load() != 1 || raw.cuts.Load() != 0 || later.cuts.Load() != 0 || g.loose.n != 1 {
			t.Errorf("cuts %d %d %d, %d left to the software; want the stream's and none", stream.cuts.Load(), raw.cuts.Load(), later.cuts.Load(), g.loose.n)
		}
		if n := g.Cut(); n != 1 || !g.Drained(t.Context()) || later.cuts.Load() != 0 {
			t.Errorf("%d cut, want the later call, which ends by itself when it must", n)
		}
	})
}

// Where calls take long, those that came while older ones were waited for are waited for
// too, while others are let in: to be held for them, a drain would have no time. If there is
// none here either, only those are cut that were there at first.
func TestFinishWaitsForLaterCalls(t *testing.T) {
	for _, c := range []struct {
		soon, limit, took time.Duration
		cuts              int
	}{
		{10 * time.Second, time.Hour, 50 * time.Second, 0},
		{time.Minute, time.Hour, 30 * time.Second, 0}, // they are the drain's
		{10 * time.Second, 20 * time.Second, 20 * time.Second, 1},
		{10 * time.Second, 40 * time.Second, 40 * time.Second, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := New(&routing{}, hold, 10)
			up(g, &routing{1})
			ends := func(after time.Duration) *stay {
				s := enterStay(t, g, stay{})
				time.AfterFunc(after, func() {
					if s.cuts.Load() == 0 {
						g.Leave(s.t)
					}
				})
				return s
			}
			began := time.Now()
			first := ends(30 * time.Second)
			later := make(chan *stay, 1)
			time.AfterFunc(10*time.Second, func() { later <- ends(40 * time.Second) })
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			parts := 0
			n := g.Finish(ctx, c.soon, func() { parts++ })
			if took := time.Since(began); took != c.took || n != c.cuts || int(first.cuts.Load()) != c.cuts || (<-later).cuts.Load() != 0 {
				t.Errorf("%+v: took %v in %d parts, %d cut, want only those that were there at first", c, took, parts, n)
			}
			time.Sleep(time.Hour)
		})
	}
}

// A call that has become one that ends, since it was looked at, is not cut.
func TestGateLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 10)
		up(g, &routing{1})
		call, other := enterStay(t, g, stay{after: time.Second, how: GoesOn}), enterStay(t, g, stay{})
		g.Hold()
		go func() {
			time.Sleep(time.Second + 2*yieldGrace)
			g.Leave(other.t) // it is looked at once more
		}()
		go func() {
			time.Sleep(time.Minute)
			g.Leave(call.t)
		}()
		if !g.Drained(t.Context()) || call.cuts.Load() != 0 {
			t.Errorf("%d cuts of a call that ends by itself", call.cuts.Load())
		}
	})
}
