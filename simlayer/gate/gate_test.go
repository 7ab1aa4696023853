package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// routing is one that calls are let in under.
type routing struct{ native int }

// hold is how long calls are held in these tests.
const hold = time.Minute

func up(g *Gate[*routing], r *routing) { g.Set(r, true, hold) }

func enter(g *Gate[*routing], ctx context.Context, p *Patience, cut func()) (*Ticket[*routing], error) {
	t := &Ticket[*routing]{}
	return t, g.Enter(ctx, p, t, cut)
}

func TestGateHoldsUntilOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 10)
		var p Patience
		in := make(chan error)
		go func() {
			_, err := enter(g, t.Context(), &p, nil)
			in <- err
		}()
		synctest.Wait()
		if s := g.Stats(); s.Held != 1 || s.In != 0 {
			t.Fatalf("before the first routing: %+v, want one call held", s)
		}
		time.Sleep(7 * time.Second)
		up(g, &routing{1})
		if err := <-in; err != nil {
			t.Fatal(err)
		}
		if s := g.Stats(); s.Held != 0 || s.In != 1 || s.Longest != 7*time.Second || p.spent != 7*time.Second {
			t.Fatalf("%+v and %v, want one call at the node that was held for 7 s", s, p.spent)
		}
	})
}

func TestGateBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 1)
		first := make(chan error)
		go func() {
			_, err := enter(g, t.Context(), &Patience{}, nil)
			first <- err
		}()
		synctest.Wait()
		if _, err := enter(g, t.Context(), &Patience{}, nil); !errors.Is(err, ErrHeldTooMany) {
			t.Errorf("the second held call: %v, want %v", err, ErrHeldTooMany)
		}
		if err := <-first; !errors.Is(err, ErrHeldTooLong) {
			t.Errorf("the first: %v, want %v", err, ErrHeldTooLong)
		}
		if s := g.Stats(); s.Longest != hold {
			t.Errorf("held for %v, want %v", s.Longest, hold)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if _, err := enter(g, ctx, &Patience{}, nil); !errors.Is(err, gone) {
			t.Errorf("a caller that went away: %v, want %v", err, gone)
		}
		g.Close()
		if _, err := enter(g, t.Context(), &Patience{}, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

// Who holds most gives way to an address that has less, the last of its calls first; and
// nobody gives way to one that has about as many.
func TestGateSharesThePlacesToWait(t *testing.T) {
	for _, c := range []struct{ waiting, comes, goes string }{
		{"a a a a", "b", "a4"},
		{"a a a b", "b", "a3"},
		{"b a a a", "c", "a3"},
		{"a a b b", "c", "b2"}, // of equal ones who came last
		{"a a b b", "a", ""},
		{"a a b b", "b", ""},
		{"a a a b", "a", ""}, // not for itself
		{"a b c d", "e", ""},
		{"a b c d", "a", ""},
		{"a a b c", "d", "a2"},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := New(&routing{}, hold, 4)
			from := func(name string) netip.Prefix {
				return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, name[0]}), 32)
			}
			ended, in := make(chan string, 8), make(chan string, 8)
			call := func(name string, n int) {
				go func() {
					tk, err := enter(g, t.Context(), &Patience{From: from(name)}, nil)
					if errors.Is(err, ErrHeldTooMany) {
						ended <- fmt.Sprint(name, n)
						return
					}
					if err != nil {
						t.Errorf("%s%d: %v", name, n, err)
						return
					}
					g.Leave(tk)
					in <- fmt.Sprint(name, n)
				}()
				synctest.Wait()
			}
			count := map[string]int{}
			for name := range strings.FieldsSeq(c.waiting) {
				count[name]++
				call(name, count[name])
			}
			if s := g.Stats(); s.Held != 4 || len(ended) != 0 {
				t.Fatalf("%+v: %d wait, %d have ended", c, s.Held, len(ended))
			}
			call(c.comes, 9)
			want := c.goes
			if want == "" {
				want = c.comes + "9"
			}
			if len(ended) != 1 {
				t.Fatalf("%+v: %d calls have ended, want one", c, len(ended))
			}
			if got := <-ended; got != want {
				t.Errorf("%+v: %s has ended, want %s", c, got, want)
			}
			if s := g.Stats(); s.Held != 4 || s.PeakHeld != 4 {
				t.Errorf("%+v: %+v, want four that wait", c, s)
			}
			up(g, &routing{1})
			synctest.Wait()
			if s := g.Stats(); len(in) != 4 || s.Held != 0 || len(g.waiting.from) != 0 {
				t.Errorf("%+v: %d have come in, %d wait, of %d addresses", c, len(in), s.Held, len(g.waiting.from))
			}
			g.Close()
		})
	}
}

// All waits of one call together are bounded, not each.
func TestGatePatienceIsOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 10)
		r := &routing{1}
		up(g, r)
		var p Patience
		began := time.Now()
		for {
			tk, err := enter(g, t.Context(), &p, nil)
			if err != nil {
				t.Fatal(err)
			}
			g.Leave(tk)
			if err = g.Pause(t.Context(), &p, r, 7*time.Second); errors.Is(err, ErrHeldTooLong) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d != time.Minute {
			t.Errorf("gave up after %v, want %v", d, time.Minute)
		}
	})
}

// Pause returns at once when another routing has come already, and as soon as one
// comes.
func TestGateRestEndsWithTheRouting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 10)
		failed := &routing{1}
		up(g, failed)
		done := make(chan error)
		go func() { done <- g.Pause(t.Context(), &Patience{}, failed, time.Second) }()
		synctest.Wait()
		began := time.Now()
		up(g, &routing{1})
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := g.Pause(t.Context(), &Patience{}, failed, time.Second); err != nil {
			t.Error(err)
		}
		if time.Since(began) != 0 {
			t.Errorf("rested for %v with a new routing in force", time.Since(began))
		}
	})
}

func TestGateDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(&routing{}, hold, 10)
		up(g, &routing{1})
		var cuts atomic.Int32
		a, err := enter(g, t.Context(), &Patience{}, func() { cuts.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		g.Hold()
		drained := make(chan bool, 1)
		go func() { drained <- g.Drained(t.Context()) }()
		synctest.Wait()
		if len(drained) > 0 {
			t.Fatal("drained with a call at the node")
		}
		if g.Cut(); g.Cut() != 1 || cuts.Load() != 1 {
			t.Errorf("%d calls of cut, want 1", cuts.Load())
		}
		g.Leave(a)
		if !<-drained || !g.Drained(t.Context()) {
			t.Error("not drained without a call")
		}
	})
}

// No call may be at software that was stopped: the test swaps two programs under
// load, and counts calls that find theirs stopped. Without the drain it finds
// some, so it can fail.
func TestGateUnderLoad(t *testing.T) {
	if bad := gateUnderLoad(t, 300, true); bad != 0 {
		t.Errorf("%d calls at stopped software", bad)
	}
	if gateUnderLoad(t, 100, false) == 0 {
		t.Error("a swap without a drain was not noticed")
	}
}

func gateUnderLoad(t *testing.T, swaps int, drain bool) int64 {
	g := New(&routing{}, hold, 100)
	routes := [2]*routing{{1}, {2}}
	var stopped [2]atomic.Bool
	var bad, calls atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	stopped[1].Store(true)
	up(g, routes[0])
	for range 8 {
		wg.Go(func() {
			for {
				tk, err := enter(g, ctx, &Patience{}, nil)
				if err != nil || ctx.Err() != nil {
					return
				}
				runtime.Gosched()
				if stopped[tk.Route.native-1].Load() {
					bad.Add(1)
				}
				calls.Add(1)
				g.Leave(tk)
			}
		})
	}
	for n := range swaps {
		for seen := calls.Load(); calls.Load() == seen; {
			runtime.Gosched()
		}
		old, next := n%2, 1-n%2
		if drain {
			g.Hold()
			g.Drained(t.Context())
		}
		stopped[old].Store(true)
		runtime.Gosched()
		stopped[next].Store(false)
		up(g, routes[next])
	}
	stop()
	g.Close()
	wg.Wait()
	return bad.Load()
}
