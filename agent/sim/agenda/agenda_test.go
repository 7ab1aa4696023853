package agenda

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestOrder: the earliest comes first, and of two at one time the one that was asked for first.
func TestOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var a Agenda
	var want []time.Duration
	for range 500 {
		at := time.Duration(rng.IntN(50))
		a.Push(at, nil)
		want = append(want, at)
	}
	slices.Sort(want)
	last := Event{At: -1}
	for i, at := range want {
		e := a.Pop()
		if e.At != at || !last.before(e) {
			t.Fatalf("%d: %v after %v, want it at %v", i, e, last, at)
		}
		last = e
	}
	if a.Len() != 0 {
		t.Errorf("%d are left", a.Len())
	}
}
