package tally

import (
	"sync"
	"sync/atomic"
	"time"

	"moult/store/bundle"
)

// Calls counts calls.
type Calls struct {
	Calls    int64 `json:"calls"`    // that have ended
	Errors   int64 `json:"errors"`   // refused or cut by the layer, except denied
	Denied   int64 `json:"denied"`   // by the author of a simulation object
	Canceled int64 `json:"canceled"` // given up by the caller
	Open     int64 `json:"open"`     // that have been let in and have not ended
	Held     int64 `json:"held"`     // that have waited
	// LongestHold is the longest wait that ended.
	LongestHold time.Duration `json:"longest_hold"`
	// Waited is how long calls that have waited did so together.
	Waited time.Duration `json:"waited"`
	// Total is how long all calls together took, waits included, so that
	// Total/Calls is the mean.
	Total time.Duration `json:"total"`
	// Last is when the last call ended; zero where none has.
	Last time.Time `json:"last,omitzero"`
}

// Add returns the sum of both.
func (c Calls) Add(d Calls) Calls {
	c.Calls += d.Calls
	c.Errors += d.Errors
	c.Denied += d.Denied
	c.Canceled += d.Canceled
	c.Open += d.Open
	c.Held += d.Held
	c.LongestHold = max(c.LongestHold, d.LongestHold)
	c.Waited += d.Waited
	c.Total += d.Total
	if d.Last.After(c.Last) {
		c.Last = d.Last
	}
	return c
}

// Outcome is how a call ended.
type Outcome int

// String is what metrics call it.
func (o Outcome) String() string {
	return [outcomes]string{"answered", "failed", "denied", "canceled"}[o]
}

const (
	Answered Outcome = iota
	// Failed: refused or cut by the layer.
	Failed
	// Denied by the author of a simulation object.
	Denied
	// Canceled by the caller.
	Canceled

	outcomes = iota
)

// bounds are those of the buckets in which calls are counted by how long they took: what
// Prometheus' libraries take by themselves. The last bucket has no bound.
var bounds = [...]time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Bounds are the upper bounds of the buckets of a Histogram but the last, which has none.
func Bounds() []time.Duration { return bounds[:] }

// Histogram counts the calls of one outcome by how long they took, waits included.
type Histogram struct {
	Total   time.Duration // of all
	Buckets [len(bounds) + 1]int64
}

// Histograms has that of each Outcome.
type Histograms [outcomes]Histogram

// Count is how many calls were counted.
func (h Histogram) Count() (n int64) {
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// Counter is Calls in the making.
type Counter struct {
	open, held, waited, longest, last atomic.Int64
	timed                             [outcomes]struct {
		total   atomic.Int64
		buckets [len(bounds) + 1]atomic.Int64
	}
	untimed [outcomes]atomic.Int64 // calls of which nobody knows how long they took
}

// Begin counts a call that has been let in, until Done is called. It may be
// called again for the same call, whose version may have become another: was is
// what the last time returned, or nil.
func (t *ByVersion) Begin(v bundle.Version, was *Counter) *Counter {
	c := t.Of(v)
	if c != was {
		was.Done()
		c.open.Add(1)
	}
	return c
}

// Done ends what Begin has begun. It may be called of nil.
func (c *Counter) Done() {
	if c != nil {
		c.open.Add(-1)
	}
}

// Ended counts a call that has ended, and how long it took.
func (c *Counter) Ended(o Outcome, waited time.Duration, began time.Time) {
	now := time.Now()
	took, at := now.Sub(began), 0
	for at < len(bounds) && took > bounds[at] {
		at++
	}
	c.timed[o].total.Add(int64(took))
	c.timed[o].buckets[at].Add(1)
	c.last.Store(now.UnixNano())
	c.hold(waited)
}

// End is Ended for a call of which nobody knows how long it took, as a tunnel's.
func (c *Counter) End(o Outcome, waited time.Duration) {
	c.untimed[o].Add(1)
	c.hold(waited)
}

func (c *Counter) hold(waited time.Duration) {
	if waited <= 0 {
		return
	}
	c.held.Add(1)
	c.waited.Add(int64(waited))
	for {
		longest := c.longest.Load()
		if int64(waited) <= longest || c.longest.CompareAndSwap(longest, int64(waited)) {
			return
		}
	}
}

// Open is how many calls have been let in and have not ended.
func (c *Counter) Open() int64 { return c.open.Load() }

// Load returns what was counted so far.
func (c *Counter) Load() Calls {
	all := Calls{
		Open: c.open.Load(), Held: c.held.Load(), LongestHold: time.Duration(c.longest.Load()), Waited: time.Duration(c.waited.Load()),
	}
	for o, h := range c.Histograms() {
		n := h.Count() + c.untimed[o].Load()
		all.Calls += n
		all.Total += h.Total
		switch Outcome(o) {
		case Failed:
			all.Errors = n
		case Denied:
			all.Denied = n
		case Canceled:
			all.Canceled = n
		}
	}
	if last := c.last.Load(); last != 0 {
		all.Last = time.Unix(0, last)
	}
	return all
}

// Histograms are those of each Outcome.
func (c *Counter) Histograms() (all Histograms) {
	for o := range all {
		from := &c.timed[o]
		all[o].Total = time.Duration(from.total.Load())
		for i := range from.buckets {
			all[o].Buckets[i] = from.buckets[i].Load()
		}
	}
	return all
}

// ByVersion has the counters of one service by the version of its callers.
type ByVersion struct {
	mu sync.RWMutex
	by map[bundle.Version]*Counter
}

// Of returns the counter of one version; it is always the same.
func (t *ByVersion) Of(v bundle.Version) *Counter {
	t.mu.RLock()
	c := t.by[v]
	t.mu.RUnlock()
	if c != nil {
		return c
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[bundle.Version]*Counter{}
	}
	if t.by[v] == nil {
		t.by[v] = &Counter{}
	}
	return t.by[v]
}

// Snapshot returns what was counted so far.
func (t *ByVersion) Snapshot() map[bundle.Version]Calls { return each(t, (*Counter).Load) }

// Histograms are those of each version and Outcome.
func (t *ByVersion) Histograms() map[bundle.Version]Histograms {
	return each(t, (*Counter).Histograms)
}

func each[T any](t *ByVersion, of func(*Counter) T) map[bundle.Version]T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make(map[bundle.Version]T, len(t.by))
	for v, c := range t.by {
		out[v] = of(c)
	}
	return out
}
