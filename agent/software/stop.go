package software

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moult/agent/process"
	"moult/store/bundle"
)

// EndCalls lets go of the software, and waits until the calls in flight have ended, as
// long as the software was given to end: fallback where nothing says how long that is.
// New calls go to it meanwhile. Then it tells that they do not any more, holds them, and
// ends the last ones.
func (s *Software) EndCalls(ctx context.Context, fallback time.Duration) error {
	<-s.Release()
	timeout := s.drainTimeout(fallback)
	within := func(wait func(context.Context) (int, error)) {
		drainCtx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if cut, err := wait(drainCtx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("calls had not ended in time and were cut", "calls", cut, "drainTimeout", timeout, "err", err)
		}
	}
	within(s.cfg.Layer.Finish)
	if ctx.Err() != nil { // the agent ends, and the software runs on
		return context.Cause(ctx)
	}
	if err := s.cfg.Tell(Draining{}); err != nil {
		return err
	}
	within(s.cfg.Layer.Drain)
	return nil
}

// Stop stops whatever software runs for this node, also what no record names. It is
// killed when it has not ended in the time that it was given, which is fallback where
// nothing says how long that is.
func (s *Software) Stop(ctx context.Context, fallback time.Duration) error {
	timeout := s.drainTimeout(fallback)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(ctx, bundle.Duration(timeout))
}

// drainTimeout is how long the software has to end, as it was started.
func (s *Software) drainTimeout(fallback time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.record.Plan.Health.DrainTimeout; d > 0 {
		return time.Duration(d)
	}
	return fallback
}

// stopLocked stops the software, also where only its record is known, or not
// even that: an agent may die before it can keep the record, and a disk may lose
// it, and none must run beside a transform.
func (s *Software) stopLocked(ctx context.Context, drain bundle.Duration) error {
	if s.proc == nil && s.record.names() {
		proc, err := s.find(s.record.Handle)
		if err != nil {
			return err
		}
		s.proc = proc
	}
	if s.proc != nil {
		exit, err := s.proc.Stop(ctx, time.Duration(drain))
		if err != nil {
			return fmt.Errorf("stop the software: %w", err)
		}
		s.cfg.Log.Info("stopped the software", "version", s.record.Version, "exit", exit.String())
		s.proc = nil
	}
	orphans, err := process.FindOrphans(s.cfg.Node.String(), append(s.cfg.Account.Users(), s.cfg.Former...)...)
	if err != nil {
		return err
	}
	for _, h := range orphans {
		if err := s.stopOrphan(ctx, h, drain); err != nil {
			return err
		}
	}
	s.cfg.Layer.Ended()
	if !s.record.names() {
		return nil
	}
	return s.save(record{})
}

// find returns the process of a handle; nil if it has ended.
func (s *Software) find(h process.Handle) (*process.Process, error) {
	proc, err := process.Adopt(h, process.Spec{Log: s.cfg.Log, Marker: s.cfg.Node.String()})
	switch {
	case errors.Is(err, process.ErrGone):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("stop the software with process ID %d: %w", h.PID, err)
	}
	return proc, nil
}

func (s *Software) stopOrphan(ctx context.Context, h process.Handle, drain bundle.Duration) error {
	proc, err := s.find(h)
	if proc == nil || err != nil {
		return err
	}
	s.cfg.Log.Warn("stopping software of this node that no record names", "pid", h.PID)
	if _, err := proc.Stop(ctx, time.Duration(drain)); err != nil {
		return errors.Join(fmt.Errorf("stop software of this node that no record names: %w", err), proc.Close())
	}
	return nil
}
