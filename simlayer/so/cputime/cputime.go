// Package cputime tells whether code that runs for a caller has had its time.
//
// Time that the machine gave to other programs does not count, so that a busy
// machine fails nobody: the time is over when the limit has passed by the clock, and
// the process has had as much processor time since. What other goroutines of the
// process use counts too, which at worst ends the code when the clock alone would. At
// StarvedFactor times the limit it is over in any case.
package cputime

import (
	"context"
	"errors"
	"time"
)

// StarvedFactor times its limit is how long code may take by the clock.
const StarvedFactor = 10

// ErrOver is the cause of the end of a Context whose time is over.
var ErrOver = errors.New("its time is over")

// Watch counts processor time from its start.
type Watch struct{ start time.Duration }

// Start begins to count. It costs a system call.
func Start() Watch { return Watch{process()} }

// Used is the processor time of the process since.
func (w Watch) Used() time.Duration { return process() - w.start }

// Over reports whether the limit has passed, which passes by the clock at deadline.
func (w Watch) Over(deadline, now time.Time, limit time.Duration) bool {
	late := now.Sub(deadline)
	return late >= 0 && (w.Used() >= limit || late >= (StarvedFactor-1)*limit)
}

// Context returns a context that ends, by ErrOver, when the limit has passed. The
// caller must call cancel.
func (w Watch) Context(parent context.Context, limit time.Duration) (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancelCause(parent)
	if limit <= 0 {
		end(ErrOver)
	}
	deadline := time.Now().Add(limit)
	timer := time.AfterFunc(limit, func() {
		for ctx.Err() == nil && !w.Over(deadline, time.Now(), limit) {
			wait := time.NewTimer(min(max(limit-w.Used(), time.Millisecond), limit))
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return
			}
		}
		end(ErrOver)
	})
	return ctx, func() {
		timer.Stop()
		end(nil)
	}
}
