package main

import (
	"context"
	"errors"
	"fmt"

	"moult/agent/control"
)

// Exit codes.
const (
	exitDone     = 0
	exitFailed   = 1
	exitMisuse   = 2
	exitRefused  = 3
	exitTimedOut = 4
)

// exitError is an error that chooses its own exit code and hint.
type exitError struct {
	code int
	hint string
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func misusef(hint, format string, args ...any) error {
	return &exitError{code: exitMisuse, hint: hint, err: fmt.Errorf(format, args...)}
}

// failedf is for errors that would not tell by themselves what to do next.
func failedf(hint, format string, args ...any) error {
	return &exitError{code: exitFailed, hint: hint, err: fmt.Errorf(format, args...)}
}

// classify finds the exit code and the hint that an error asks for.
func classify(err error) (code int, hint string) {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code, e.hint
	}
	if e, ok := errors.AsType[*control.Error](err); ok {
		switch e.Kind {
		case control.KindMisuse:
			return exitMisuse, e.Hint
		case control.KindRefused:
			return exitRefused, e.Hint
		}
		return exitFailed, e.Hint
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitTimedOut, ""
	}
	return exitFailed, ""
}
