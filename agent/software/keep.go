package software

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"moult/agent/process"
	"moult/store/bundle"
)

// keeper keeps the software up until it is released.
type keeper struct {
	version bundle.Version
	cancel  context.CancelFunc
	done    chan struct{}
}

// Keep keeps version v up from now on: adopts or starts it, and starts it
// again, with growing pauses, when it ends. It does not wait.
func (s *Software) Keep(v bundle.Version) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.keeper != nil && s.keeper.version == v {
		return
	}
	before := s.releaseLocked()
	ctx, cancel := context.WithCancel(context.Background()) // the keeper's own life
	k := &keeper{version: v, cancel: cancel, done: make(chan struct{})}
	s.keeper = k
	go func() {
		defer close(k.done)
		defer cancel()
		<-before
		s.noteLost(v)
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
	}()
}

// Release ends keeping; the software itself goes on. The channel is closed
// when the keeper has let go.
func (s *Software) Release() <-chan struct{} {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	return s.releaseLocked()
}

func (s *Software) releaseLocked() <-chan struct{} {
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

// observe passes on what the supervisor sees. Where nobody listens any more the
// agent ends, and the keeper with it.
func (s *Software) observe(v bundle.Version, e process.Event) {
	switch e := e.(type) {
	case process.Ready:
		_ = s.tellReady(v)
	case process.NotReady:
		s.cfg.Log.Error("the software is not ready", "version", v, "err", e.Err)
		_ = s.cfg.Tell(NotReady{Version: v, Err: e.Err})
	case process.NotStarted:
		s.cfg.Log.Error("the software cannot be started", "version", v, "err", e.Err)
		_ = s.cfg.Tell(NotReady{Version: v, Err: e.Err})
	case process.Failing:
		s.cfg.Log.Error("the software's health checks fail", "version", v, "err", e.Err)
		_ = s.cfg.Tell(Failing{Version: v, Err: e.Err})
	case process.Passing:
		s.cfg.Log.Info("the software's health checks pass again", "version", v)
		_ = s.cfg.Tell(Passing{Version: v})
	case process.Ended:
		s.cfg.Layer.Ended()
		s.cfg.Log.Error("the software has ended by itself", "version", v, "exit", e.Exit.String())
		_ = s.cfg.Tell(Ended{Version: v, Exit: e.Exit})
	case process.Restarting:
		s.cfg.Log.Info("the software is started again", "version", v, "in", e.In)
	}
}

// noteLost tells of software of version v that was up, and has ended when its probe had
// just ended, and nobody kept it up. That it has ended while no agent ran says nothing
// against it: the machine may have been started anew, or whoever stopped the agent may
// have stopped all with it.
func (s *Software) noteLost(v bundle.Version) {
	s.mu.Lock()
	lost, was := s.record, s.proc
	proc, err := s.take(v)
	s.mu.Unlock()
	switch {
	case err != nil || proc != nil || lost.Version != v || !lost.names():
	case was != nil:
		s.observe(v, process.Ended{Exit: was.Exit()})
	}
}

// tellReady says where the software answers.
func (s *Software) tellReady(v bundle.Version) error {
	s.mu.Lock()
	e := Ready{Version: v, Backends: s.cfg.Layer.Found(v, s.record.Backends), Processes: family(s.record.Handle.PID)}
	s.mu.Unlock()
	return s.cfg.Tell(e)
}

// Launch starts (or adopts) version v and waits until it is ready. Software that
// ends at once is started a second time: between the choice of its ports and its
// start another program may have taken one.
func (s *Software) Launch(ctx context.Context, v bundle.Version) error {
	for again := true; ; again = false {
		proc, _, err := s.ensure(ctx, v)
		if err != nil {
			return err
		}
		if err = proc.AwaitReady(ctx); err == nil {
			return s.tellReady(v)
		}
		err = s.explain(v, proc, err)
		if h, ok := errors.AsType[*process.HealthError](err); !again || !ok || h.Exit == nil || h.After > earlyExit {
			return err
		}
		s.cfg.Log.Warn("the software ended at once; starting it once more, on other ports", "version", v, "err", err)
	}
}

// Probe watches version v for its minimum healthy time.
func (s *Software) Probe(ctx context.Context, v bundle.Version) error {
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
func (s *Software) explain(v bundle.Version, proc *process.Process, err error) error {
	if tail := strings.TrimSpace(proc.LogTail(3)); tail != "" {
		return fmt.Errorf("version %d: %w; its last output: %s", v, err, tail)
	}
	return fmt.Errorf("version %d: %w", v, err)
}

// LastLines are the last lines that the software wrote, at most n and maxLine bytes each, with
// nothing in them that would steer a terminal; none where none runs, or it is being started or
// stopped.
func (s *Software) LastLines(n int) (lines []string) {
	if !s.mu.TryLock() {
		return nil
	}
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return harmless(s.proc.LogTail(n))
}

// harmless are the lines of a text, bounded and without what would steer a terminal.
func harmless(text string) (lines []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if len(line) > maxLine {
			line = strings.ToValidUTF8(line[:maxLine], "") + "…"
		}
		line = strings.Map(func(r rune) rune {
			switch {
			case r == '\t':
				return ' '
			case !unicode.IsPrint(r):
				return unicode.ReplacementChar
			}
			return r
		}, line)
		lines = append(lines, line)
	}
	return lines
}

// Close lets go of the software, which goes on. It is for an agent that ends.
func (s *Software) Close() error {
	<-s.Release()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.binder != nil {
		errs = append(errs, s.binder.Close())
	}
	if s.proc != nil {
		errs = append(errs, s.proc.Close())
	}
	return errors.Join(errs...)
}
