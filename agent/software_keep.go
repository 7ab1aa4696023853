package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"moult/agent/process"
	"moult/store/bundle"
)

// keeper keeps the software up until it is released.
type keeper struct {
	version bundle.Version
	cancel  context.CancelFunc
	done    chan struct{}
}

// keep keeps version v up from now on: adopts or starts it, and starts it
// again, with growing pauses, when it ends. The loop calls it.
func (s *software) keep(v bundle.Version) {
	if s.keeper != nil && s.keeper.version == v {
		return
	}
	before := s.release()
	ctx, cancel := s.a.untilStopped()
	k := &keeper{version: v, cancel: cancel, done: make(chan struct{})}
	s.keeper = k
	s.a.spawn(func() {
		defer close(k.done)
		defer cancel()
		<-before
		process.Supervisor{
			Start: func(ctx context.Context) (process.Software, error) {
				p, _, err := s.ensure(ctx, v)
				if err != nil {
					return nil, err // a nil *Process must not become a Software
				}
				return p, nil
			},
			Observe: func(e process.Event) { s.observe(v, e) },
		}.Run(ctx)
	})
}

// release ends keeping; the software itself goes on. The channel is closed
// when the keeper has let go. The loop calls it.
func (s *software) release() <-chan struct{} {
	if s.keeper == nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	k := s.keeper
	s.keeper = nil
	k.cancel()
	return k.done
}

// observe tells the loop what the supervisor sees.
func (s *software) observe(v bundle.Version, e process.Event) {
	switch e := e.(type) {
	case process.Ready:
		s.open(v)
		return
	case process.NotReady:
		s.a.log.Error("the software is not ready", "version", v, "err", e.Err)
	case process.NotStarted:
		s.a.log.Error("the software cannot be started", "version", v, "err", e.Err)
	case process.Ended:
		s.a.layer.Ended()
		s.a.log.Error("the software has ended by itself", "version", v, "exit", e.Exit.String())
	case process.Restarting:
		s.a.log.Info("the software is started again", "version", v, "in", e.In)
		return
	default:
		return
	}
	s.a.post(func() {
		if s.a.live.version == v {
			s.a.live.ready = false
		}
	})
}

// launch starts (or adopts) version v and waits until it is ready. Software that
// ends at once is started a second time: between the choice of its ports and its
// start another program may have taken one.
func (s *software) launch(ctx context.Context, v bundle.Version) error {
	if err := s.fits(v); err != nil {
		return err
	}
	for again := true; ; again = false {
		proc, _, err := s.ensure(ctx, v)
		if err != nil {
			return err
		}
		if err = proc.AwaitReady(ctx); err == nil {
			s.open(v)
			return nil
		}
		err = s.explain(v, proc, err)
		if h, ok := errors.AsType[*process.HealthError](err); !again || !ok || h.Exit == nil || h.After > earlyExit {
			return err
		}
		s.a.log.Warn("the software ended at once; starting it once more, on other ports", "version", v, "err", err)
	}
}

// probe watches version v for its minimum healthy time.
func (s *software) probe(ctx context.Context, v bundle.Version) error {
	proc, p, err := s.ensure(ctx, v)
	if err != nil {
		return err
	}
	if err := proc.AwaitHealthy(ctx, time.Duration(p.Health.MinHealthyTime)); err != nil {
		return s.explain(v, proc, err)
	}
	return nil
}

// explain adds the end of the software's output to what went wrong.
func (s *software) explain(v bundle.Version, proc *process.Process, err error) error {
	if tail := strings.TrimSpace(proc.LogTail(3)); tail != "" {
		return fmt.Errorf("version %d: %w; its last output: %s", v, err, tail)
	}
	return fmt.Errorf("version %d: %w", v, err)
}
