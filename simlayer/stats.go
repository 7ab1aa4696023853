package simlayer

import (
	"sync"
	"sync/atomic"
	"time"

	"moult/store/bundle"
)

// Stats is what a Layer has seen since it started.
type Stats struct {
	// InFlight calls are at the node now, Held calls wait; the peaks are the most
	// of each at once. For raw TCP a call is a connection, for UDP a datagram of
	// a caller (which is in flight for no time).
	InFlight     int `json:"in_flight"`
	Held         int `json:"held"`
	PeakInFlight int `json:"peak_in_flight"`
	PeakHeld     int `json:"peak_held"`
	// LongestHold is the longest that a call has waited; waits that go on are
	// not in it.
	LongestHold time.Duration `json:"longest_hold"`
	// Services are the calls by service and version of the caller.
	Services map[string]map[bundle.Version]Calls `json:"services"`
	// Egress are the node's own calls.
	Egress Calls `json:"egress"`
	// Observers are the objects that are told of calls, by the version of their
	// callers.
	Observers map[bundle.Version]ObserverStats `json:"observers,omitempty"`
}

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

// outcome is how a call ended.
type outcome int

const (
	answered outcome = iota
	failed
	denied
	canceled
)

// counters is Calls in the making.
type counters struct {
	calls, errors, denied, canceled, open, held, longest, total, last atomic.Int64
}

// begun counts a call that has been let in, until done is called. It may be
// called again for the same call, whose version may have become another: was is
// what the last time returned, or nil.
func (t *tally) begun(v bundle.Version, was *counters) *counters {
	c := t.of(v)
	if c != was {
		was.done()
		c.open.Add(1)
	}
	return c
}

// done ends what begun has begun. It may be called of nil.
func (c *counters) done() {
	if c != nil {
		c.open.Add(-1)
	}
}

// end counts a call that has ended.
func (c *counters) end(o outcome, waited time.Duration) {
	switch o {
	case failed:
		c.errors.Add(1)
	case denied:
		c.denied.Add(1)
	case canceled:
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

// ended counts a call that has ended, and how long it took.
func (c *counters) ended(o outcome, waited time.Duration, began time.Time) {
	now := time.Now()
	c.total.Add(int64(now.Sub(began)))
	c.last.Store(now.UnixNano())
	c.calls.Add(1)
	c.end(o, waited)
}

func (c *counters) load() Calls {
	all := Calls{
		Calls: c.calls.Load(), Errors: c.errors.Load(), Denied: c.denied.Load(),
		Canceled: c.canceled.Load(), Open: c.open.Load(), Held: c.held.Load(), LongestHold: time.Duration(c.longest.Load()),
		Total: time.Duration(c.total.Load()),
	}
	if last := c.last.Load(); last != 0 {
		all.Last = time.Unix(0, last)
	}
	return all
}

// tally has the counters of one service by version.
type tally struct {
	mu sync.RWMutex
	by map[bundle.Version]*counters
}

func (t *tally) of(v bundle.Version) *counters {
	t.mu.RLock()
	c := t.by[v]
	t.mu.RUnlock()
	if c != nil {
		return c
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[bundle.Version]*counters{}
	}
	if t.by[v] == nil {
		t.by[v] = &counters{}
	}
	return t.by[v]
}

func (t *tally) snapshot() map[bundle.Version]Calls {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make(map[bundle.Version]Calls, len(t.by))
	for v, c := range t.by {
		out[v] = c.load()
	}
	return out
}

// tasks counts what runs, so that Close can wait for it.
type tasks struct {
	mu     sync.Mutex
	n      int
	closed bool
	none   chan struct{}
}

// begin reports false after close: the task must not run.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.n++
	return true
}

func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.closed && t.n == 0 {
		close(t.none)
	}
}

// close lets no more tasks begin; the channel is closed when the last has ended.
func (t *tasks) close() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		t.none = make(chan struct{})
		if t.n == 0 {
			close(t.none)
		}
	}
	return t.none
}
