package simlayer

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func upRoute() *route { return &route{native: 1, hold: time.Minute} }

func TestGateHoldsUntilOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(10)
		var p patience
		in := make(chan error)
		go func() {
			_, err := g.enter(t.Context(), &p, nil)
			in <- err
		}()
		synctest.Wait()
		if s := g.stats(); s.held != 1 || s.in != 0 {
			t.Fatalf("before the first routing: %+v, want one call held", s)
		}
		time.Sleep(7 * time.Second)
		g.set(upRoute())
		if err := <-in; err != nil {
			t.Fatal(err)
		}
		if s := g.stats(); s.held != 0 || s.in != 1 || s.longest != 7*time.Second || p.spent != 7*time.Second {
			t.Fatalf("%+v and %v, want one call at the node that was held for 7 s", s, p.spent)
		}
	})
}

func TestGateBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		first := make(chan error)
		go func() {
			_, err := g.enter(t.Context(), &patience{}, nil)
			first <- err
		}()
		synctest.Wait()
		if _, err := g.enter(t.Context(), &patience{}, nil); !errors.Is(err, errHeldTooMany) {
			t.Errorf("the second held call: %v, want %v", err, errHeldTooMany)
		}
		if err := <-first; !errors.Is(err, errHeldTooLong) {
			t.Errorf("the first: %v, want %v", err, errHeldTooLong)
		}
		if s := g.stats(); s.longest != DefaultHoldTimeout {
			t.Errorf("held for %v, want %v", s.longest, DefaultHoldTimeout)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if _, err := g.enter(ctx, &patience{}, nil); !errors.Is(err, gone) {
			t.Errorf("a caller that went away: %v, want %v", err, gone)
		}
		g.close()
		if _, err := g.enter(t.Context(), &patience{}, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

// All waits of one call together are bounded, not each.
func TestGatePatienceIsOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(10)
		r := upRoute()
		g.set(r)
		var p patience
		began := time.Now()
		for {
			tk, err := g.enter(t.Context(), &p, nil)
			if err != nil {
				t.Fatal(err)
			}
			g.leave(tk)
			if err = g.pause(t.Context(), &p, r, 7*time.Second); errors.Is(err, errHeldTooLong) {
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

// rest returns at once when another routing has come already, and as soon as one
// comes.
func TestGateRestEndsWithTheRouting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(10)
		failed := upRoute()
		g.set(failed)
		done := make(chan error)
		go func() { done <- g.pause(t.Context(), &patience{}, failed, time.Second) }()
		synctest.Wait()
		began := time.Now()
		g.set(upRoute())
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := g.pause(t.Context(), &patience{}, failed, time.Second); err != nil {
			t.Error(err)
		}
		if time.Since(began) != 0 {
			t.Errorf("rested for %v with a new routing in force", time.Since(began))
		}
	})
}

func TestGateDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(10)
		g.set(upRoute())
		var cuts atomic.Int32
		a, err := g.enter(t.Context(), &patience{}, func() { cuts.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		g.hold()
		drained := make(chan bool, 1)
		go func() { drained <- g.until(t.Context(), g.ending) }()
		synctest.Wait()
		if len(drained) > 0 {
			t.Fatal("drained with a call at the node")
		}
		if g.cut(); g.cut() != 1 || cuts.Load() != 1 {
			t.Errorf("%d calls of cut, want 1", cuts.Load())
		}
		g.leave(a)
		if !<-drained || !g.until(t.Context(), g.ending) {
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
	g := newGate(100)
	routes := [2]*route{{native: 1, hold: time.Minute}, {native: 2, hold: time.Minute}}
	var stopped [2]atomic.Bool
	var bad, calls atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	stopped[1].Store(true)
	g.set(routes[0])
	for range 8 {
		wg.Go(func() {
			for {
				tk, err := g.enter(ctx, &patience{}, nil)
				if err != nil || ctx.Err() != nil {
					return
				}
				runtime.Gosched()
				if stopped[tk.route.native-1].Load() {
					bad.Add(1)
				}
				calls.Add(1)
				g.leave(tk)
			}
		})
	}
	for n := range swaps {
		for seen := calls.Load(); calls.Load() == seen; {
			runtime.Gosched()
		}
		old, next := n%2, 1-n%2
		if drain {
			g.hold()
			g.until(t.Context(), g.ending)
		}
		stopped[old].Store(true)
		runtime.Gosched()
		stopped[next].Store(false)
		g.set(routes[next])
	}
	stop()
	g.close()
	wg.Wait()
	return bad.Load()
}
