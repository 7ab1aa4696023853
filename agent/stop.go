package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moult/agent/process"
	"moult/store/bundle"
)

// drain lets the calls in flight end, holds new ones, and stops whatever
// software runs for this node.
func (s *software) drain(ctx context.Context) error {
	var released <-chan struct{}
	if !s.a.ask(func() {
		released = s.release()
		s.a.live.ready, s.a.live.admitted = false, false
	}) {
		return context.Canceled
	}
	<-released
	timeout := s.drainTimeout()
	drainCtx, cancel := context.WithTimeout(ctx, timeout)
	left, err := s.a.layer.Drain(drainCtx)
	cancel()
	if err != nil && ctx.Err() == nil {
		s.a.log.Warn("calls were still in flight at the drain timeout", "calls", left, "timeout", timeout)
	}
	s.a.partObjects(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(ctx, bundle.Duration(timeout))
}

// drainTimeout is how long the software has to end, as it was started.
func (s *software) drainTimeout() time.Duration {
	s.mu.Lock()
	d := s.record.Plan.Health.DrainTimeout
	s.mu.Unlock()
	if d > 0 {
		return time.Duration(d)
	}
	return s.a.drainTimeout()
}

// stopLocked stops the software, also where only its record is known, or not
// even that: an agent may die before it can keep the record, and a disk may lose
// it, and none must run beside a transform.
func (s *software) stopLocked(ctx context.Context, drain bundle.Duration) error {
	if s.proc == nil && s.record.Handle.PID != 0 {
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
		s.a.log.Info("stopped the software", "version", s.record.Version, "exit", exit.String())
		s.proc = nil
	}
	orphans, err := process.FindOrphans(s.a.id.String())
	if err != nil {
		return err
	}
	for _, h := range orphans {
		if err := s.stopOrphan(ctx, h, drain); err != nil {
			return err
		}
	}
	s.a.layer.Ended()
	if s.record.Handle.PID == 0 {
		return nil
	}
	return s.save(processRecord{})
}

// find returns the process of a handle; nil if it has ended.
func (s *software) find(h process.Handle) (*process.Process, error) {
	proc, err := process.Adopt(h, process.Spec{Log: s.a.log, Marker: s.a.id.String()})
	switch {
	case errors.Is(err, process.ErrGone):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("stop the software with process ID %d: %w", h.PID, err)
	}
	return proc, nil
}

func (s *software) stopOrphan(ctx context.Context, h process.Handle, drain bundle.Duration) error {
	proc, err := s.find(h)
	if proc == nil || err != nil {
		return err
	}
	s.a.log.Warn("stopping software of this node that no record names", "pid", h.PID)
	if _, err := proc.Stop(ctx, time.Duration(drain)); err != nil {
		return errors.Join(fmt.Errorf("stop software of this node that no record names: %w", err), proc.Close())
	}
	return nil
}
