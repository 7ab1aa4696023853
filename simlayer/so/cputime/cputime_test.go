package cputime

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Code is over when it has had its time, not when others have.
func TestOver(t *testing.T) {
	const limit = 20 * time.Millisecond
	w := Start()
	deadline := time.Now().Add(limit)
	if w.Over(deadline, deadline.Add(-1), 0) {
		t.Error("over before its deadline")
	}
	if w.Over(deadline, deadline.Add(time.Second), time.Hour) {
		t.Error("over although the process has not had that much of the processor")
	}
	if !w.Over(deadline, deadline.Add(StarvedFactor*limit), limit) {
		t.Error("not over although it had the tenfold time")
	}
	for w.Used() < limit { // spins
	}
	if !w.Over(deadline, deadline, limit) {
		t.Error("not over although it had its time")
	}
}

// A context ends when its code has had its time, with the reason.
func TestContext(t *testing.T) {
	ctx, cancel := Start().Context(t.Context(), 10*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil { // spins
	}
	if !errors.Is(context.Cause(ctx), ErrOver) {
		t.Errorf("it ended by %v", context.Cause(ctx))
	}
	early, cancel := Start().Context(t.Context(), time.Hour)
	cancel()
	if errors.Is(context.Cause(early), ErrOver) || early.Err() == nil {
		t.Errorf("cancelled, it ended by %v", context.Cause(early))
	}
}
