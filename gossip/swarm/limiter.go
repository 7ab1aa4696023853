package swarm

import (
	"context"
	"sync"
	"time"
)

// limiter spreads bytes over time: what is taken moves the instant at which
// there is room again. A nil limiter has no limit.
type limiter struct {
	perSecond int64

	mu    sync.Mutex
	ready time.Time
}

func newLimiter(bytesPerSecond int64) *limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &limiter{perSecond: bytesPerSecond}
}

// delay returns how long from now on there is no room.
func (l *limiter) delay(now time.Time) time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.ready.Sub(now), 0)
}

// take books n bytes and returns how long to wait before they are sent.
func (l *limiter) take(now time.Time, n int) time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready.Before(now) {
		l.ready = now
	}
	wait := l.ready.Sub(now)
	l.ready = l.ready.Add(time.Duration(float64(n) / float64(l.perSecond) * float64(time.Second)))
	return wait
}

// wait is take, and then waits.
func (l *limiter) wait(ctx context.Context, n int) error {
	d := l.take(time.Now(), n)
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
