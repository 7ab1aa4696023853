package software

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"moult/store/bundle"
	"moult/transforms"
)

// Veto is what a pre_stop hook has to say against its software being stopped.
type Veto struct{ error }

func (v Veto) Unwrap() error { return v.error }

// PreStop runs the hook of the software that is to be stopped, and notes that it may be: from
// then on it is not run again. Where nothing runs there is nobody to tell. An error that is no
// Veto says that it could not be asked. heeded says whether a Veto holds it up: else that is
// logged, and the software may be stopped all the same.
func (s *Software) PreStop(ctx context.Context, heeded func(Veto) bool) error {
	s.mu.Lock()
	had := s.proc
	proc, err := s.take(s.record.Version)
	r := s.record
	s.mu.Unlock()
	if err != nil || proc == nil || r.Leaving {
		return err
	}
	if len(r.Plan.Hooks.PreStop) > 0 {
		// It serves as long as its hook runs, also where an earlier agent began with that.
		if had == nil && proc.AwaitReady(ctx) == nil {
			if err := s.tellReady(r.Version); err != nil {
				return err
			}
		}
		err := s.hook(ctx, "pre_stop", r.Plan, r.Plan.Hooks.PreStop)
		switch veto := (Veto{err}); {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ended(proc):
			s.cfg.Log.Warn("the software has ended while its hook ran", "err", err)
		case heeded(veto):
			return veto
		default:
			s.cfg.Log.Warn("the software is stopped against the word of its hook", "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record.Handle != r.Handle {
		return nil // it has ended, and was started again: that is stopped without its hook
	}
	r.Leaving = true
	return s.save(r)
}

// Untouched reports whether software of version v runs that nobody has begun to stop.
func (s *Software) Untouched(v bundle.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	proc, err := s.take(v)
	return err == nil && proc != nil && !s.record.Leaving
}

// PostStart runs the hook of the software that has been started, of a version, which must be
// well after that, too.
func (s *Software) PostStart(ctx context.Context, v bundle.Version) error {
	s.mu.Lock()
	p, proc := s.record.Plan, s.proc
	s.mu.Unlock()
	if p.Version != v || proc == nil {
		return fmt.Errorf("post_start: the software of version %d does not run", v)
	}
	if len(p.Hooks.PostStart) == 0 {
		return nil
	}
	if err := s.hook(ctx, "post_start", p, p.Hooks.PostStart); err != nil {
		return err
	}
	if err := proc.AwaitReady(ctx); err != nil {
		return fmt.Errorf("after post_start: %w", s.explain(v, proc, err))
	}
	return nil
}

// hook runs a program of a release beside its software.
func (s *Software) hook(ctx context.Context, name string, p Plan, argv []string) error {
	spec, err := s.Spec(p.Version)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, time.Duration(p.Hooks.Timeout), fmt.Errorf("it did not end within its timeout, %s", p.Hooks.Timeout))
	defer cancel()
	switch err := spec.Do(limited, argv); {
	case err == nil:
		return nil
	case limited.Err() != nil:
		return fmt.Errorf("%s of version %d: %w: %w", name, p.Version, context.Cause(limited), err)
	case asksLater(err):
		return later{fmt.Errorf("%s of version %d asks to be tried later: %w", name, p.Version, err)}
	default:
		return fmt.Errorf("%s of version %d: %w", name, p.Version, err)
	}
}

// later is an error that is transforms.ErrLater, in a hook's own words.
type later struct{ error }

func (l later) Unwrap() error      { return l.error }
func (later) Is(target error) bool { return target == transforms.ErrLater }

func asksLater(err error) bool {
	e, ok := errors.AsType[*exec.ExitError](err)
	return ok && e.ExitCode() == transforms.ExitLater
}
