package tally

import (
	"testing"
	"testing/synctest"
	"time"
)

// A call that is tried again under another routing is open once, where it is now.
func TestOpenOnce(t *testing.T) {
	var calls ByVersion
	c := calls.Begin(1, nil)
	c = calls.Begin(2, c)
	c = calls.Begin(2, c)
	if one, two := calls.Snapshot()[1].Open, calls.Snapshot()[2].Open; one != 0 || two != 1 {
		t.Errorf("open: %d of version 1, %d of version 2, want 0 and 1", one, two)
	}
	c.Done()
	if two := calls.Snapshot()[2].Open; two != 0 {
		t.Errorf("open after its end: %d", two)
	}
}

// A call is in the bucket of the first bound that it does not exceed, under its own outcome,
// and in what is summed up; one of which nobody knows how long it took is in no bucket.
func TestHistogram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Counter
		ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
		c.Ended(Answered, 0, ago(0))
		c.Ended(Answered, 0, ago(bounds[0]))
		c.Ended(Answered, 0, ago(bounds[0]+1))
		c.Ended(Failed, 2*time.Second, ago(time.Hour))
		c.End(Denied, time.Second)
		h := c.Histograms()
		if got := h[Answered]; got.Buckets[0] != 2 || got.Buckets[1] != 1 || got.Count() != 3 || got.Total != 2*bounds[0]+1 {
			t.Errorf("answered: %+v", got)
		}
		if got := h[Failed]; got.Buckets[len(bounds)] != 1 || got.Count() != 1 {
			t.Errorf("failed: %+v", got)
		}
		if h[Denied].Count() != 0 {
			t.Errorf("denied: %+v", h[Denied])
		}
		got := c.Load()
		want := Calls{Calls: 5, Errors: 1, Denied: 1, Held: 2, LongestHold: 2 * time.Second, Waited: 3 * time.Second, Total: time.Hour + 2*bounds[0] + 1, Last: time.Now().Round(0)}
		if !got.Last.Equal(want.Last) {
			t.Errorf("last: %v, want %v", got.Last, want.Last)
		}
		if got.Last = want.Last; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// BenchmarkEnded is what counting costs a call.
func BenchmarkEnded(b *testing.B) {
	var c Counter
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		began := time.Now()
		for pb.Next() {
			c.Ended(Answered, 0, began)
		}
	})
}
