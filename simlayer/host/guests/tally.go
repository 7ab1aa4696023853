package guests

import (
	"errors"
	"maps"
	"sync"
	"time"

	"moult/simlayer/host/control"
	"moult/simlayer/so"
)

// figure copies t's.
func (t *tally) figure() control.Figure {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.sum
	f.InFlight = len(t.underWay)
	for began := range maps.Values(t.underWay) {
		f.Oldest = max(f.Oldest, time.Since(began))
	}
	return f
}

// tally counts the calls of one object's callers.
type tally struct {
	mu       sync.Mutex
	sum      control.Figure
	last     uint64
	underWay map[uint64]time.Time
}

func (t *tally) begin() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.underWay == nil {
		t.underWay = map[uint64]time.Time{}
	}
	t.last++
	t.underWay[t.last] = time.Now()
	return t.last
}

// end counts a call that has ended with err, or with nil.
func (t *tally) end(id uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Latency += time.Since(t.underWay[id])
	delete(t.underWay, id)
	t.sum.Calls++
	var refusal *so.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refusal) && refusal.Denied:
		t.sum.Denied++
	default:
		t.sum.Errors++
	}
}
