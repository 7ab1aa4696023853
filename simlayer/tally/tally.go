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
	c.Total += d.Total
	if d.Last.After(c.Last) {
		c.Last = d.Last
	}
	return c
}

// Outcome is how a call ended.
type Outcome int

const (
	Answered Outcome = iota
	// Failed: refused or cut by the layer.
	Failed
	// Denied by the author of a simulation object.
	Denied
	// Canceled by the caller.
	Canceled
)

// Counter is Calls in the making.
type Counter struct {
	answered, errors, denied, canceled, open, held, longest, total, last atomic.Int64
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
	c.total.Add(int64(now.Sub(began)))
	c.last.Store(now.UnixNano())
	c.End(o, waited)
}

// End is Ended for a call of which nobody knows how long it took, as a tunnel's.
func (c *Counter) End(o Outcome, waited time.Duration) {
	switch o {
	case Answered:
		c.answered.Add(1)
	case Failed:
		c.errors.Add(1)
	case Denied:
		c.denied.Add(1)
	case Canceled:
		c.canceled.Add(1)
	}
	if waited <= 0 {
		return
	}
	c.held.Add(1)
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
		Errors: c.errors.Load(), Denied: c.denied.Load(),
		Canceled: c.canceled.Load(), Open: c.open.Load(), Held: c.held.Load(), LongestHold: time.Duration(c.longest.Load()),
		Total: time.Duration(c.total.Load()),
	}
	all.Calls = c.answered.Load() + all.Errors + all.Denied + all.Canceled
	if last := c.last.Load(); last != 0 {
		all.Last = time.Unix(0, last)
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
func (t *ByVersion) Snapshot() map[bundle.Version]Calls {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make(map[bundle.Version]Calls, len(t.by))
	for v, c := range t.by {
		out[v] = c.Load()
	}
	return out
}
