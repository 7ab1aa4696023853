package process

import (
	"context"
	"time"
)

// Software is what a Supervisor keeps up; *Process is one.
type Software interface {
	Handle() Handle
	Done() <-chan struct{}
	Exit() Exit
	AwaitReady(context.Context) error
	Watch(ctx context.Context, tell func(failure error))
}

// Event is something that happened to supervised software.
type Event interface{ event() }

type (
	// Started says that it runs: it was started, or taken over.
	Started struct{ Software Software }
	// Ready says that it passes its health check, after each Started.
	Ready struct{ Software Software }
	// NotReady says that it runs, but was not ready in its time. It is left
	// running, and waited for again.
	NotReady struct{ Err error }
	// Failing says that its checks fail, though it was ready, and Passing that they
	// do not any more.
	Failing struct{ Err error }
	Passing struct{}
	// Ended says that it ended without being asked to.
	Ended struct{ Exit Exit }
	// NotStarted says that it could not be started.
	NotStarted struct{ Err error }
	// Restarting says when the next start is tried; it follows Ended and
	// NotStarted.
	Restarting struct{ In time.Duration }
)

func (Started) event()    {}
func (Ready) event()      {}
func (NotReady) event()   {}
func (Failing) event()    {}
func (Passing) event()    {}
func (Ended) event()      {}
func (NotStarted) event() {}
func (Restarting) event() {}

// Supervisor keeps software up: it starts it, and starts it again, with growing
// pauses, whenever it ends.
type Supervisor struct {
	// Start starts the software, or takes over what runs already. Its context
	// is Run's.
	Start func(context.Context) (Software, error)
	// Observe gets every event, in order, in Run's goroutine. What it does
	// delays the supervision, so it should only hand the event on.
	Observe func(Event)
}

// Run supervises until ctx ends, and returns when it has let go of the
// software, which it leaves running. Whoever stops the software must first end
// Run, so that it is not started again.
func (s Supervisor) Run(ctx context.Context) {
	var pauses backoff
	for ctx.Err() == nil {
		up := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := pauses.next(up)
		s.Observe(Restarting{pause})
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// once sees the software through from start to end. It returns how long it was
// up since it was ready.
func (s Supervisor) once(ctx context.Context) time.Duration {
	sw, err := s.Start(ctx)
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		s.Observe(NotStarted{err})
		return 0
	}
	s.Observe(Started{sw})
	if !s.awaitReady(ctx, sw) {
		return 0
	}
	ready := time.Now()
	s.Observe(Ready{sw})
	sw.Watch(ctx, func(failure error) {
		if failure != nil {
			s.Observe(Failing{failure})
		} else {
			s.Observe(Passing{})
		}
	})
	select {
	case <-ctx.Done():
	case <-sw.Done():
		s.Observe(Ended{sw.Exit()})
	}
	return time.Since(ready)
}

// awaitReady waits as long as the software runs; false where it ended, or ctx.
func (s Supervisor) awaitReady(ctx context.Context, sw Software) bool {
	for {
		err := sw.AwaitReady(ctx)
		if err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-sw.Done():
			s.Observe(Ended{sw.Exit()})
			return false
		default:
		}
		s.Observe(NotReady{err})
		// An error that comes at once must not make this a busy loop.
		select {
		case <-ctx.Done():
		case <-sw.Done():
		case <-time.After(minBackoff):
		}
	}
}

// backoff is the sequence of pauses between restarts.
type backoff struct{ last time.Duration }

// next returns the pause after software that was up for a time.
func (b *backoff) next(up time.Duration) time.Duration {
	if up >= backoffReset {
		b.last = 0
	}
	b.last = min(max(2*b.last, minBackoff), maxBackoff)
	return b.last
}
