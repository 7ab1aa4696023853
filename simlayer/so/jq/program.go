package jq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/itchyny/gojq"

	"moult/simlayer/so/cputime"
)

// Program is a compiled program. It does not change, and is safe for concurrent use.
type Program struct {
	code *gojq.Code
	fast piece // its bounded form, or nil
}

// Compile reads a program. There are no modules, environment or input functions.
func Compile(src string) (*Program, error) {
	if len(src) > MaxProgramBytes {
		return nil, fmt.Errorf("%d bytes, at most %d", len(src), MaxProgramBytes)
	}
	query, err := gojq.Parse(src)
	if err != nil {
		return nil, err
	}
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, err
	}
	return &Program{code: code, fast: bound(src)}, nil
}

// Bounded reports whether p has a bounded form.
func (p *Program) Bounded() bool { return p.fast != nil }

// errMany is for a program that yields more values than its place has room for.
var errMany = errors.New("it yields more than one value")

// Eval runs p over in and returns its only value; ok is false when it yields none. An
// error is one of the program's, of gojq's or of in's Scope, or says which bound p has
// met.
func (p *Program) Eval(m *Run, in Value) (v Value, ok bool, err error) {
	defer catch(&err)
	if p.fast == nil {
		return p.general(m, in)
	}
	m.begin()
	v, err = p.fast.eval(m, in)
	switch err {
	case nil:
		return v, true, nil
	case errEmpty:
		return Value{}, false, nil
	case errGiveUp:
		return p.general(m, in)
	}
	return Value{}, false, err
}

// JSON runs p as Eval does and returns its value as JSON text, which is the caller's,
// or nil when it yields none.
func (p *Program) JSON(m *Run, in Value) (text []byte, err error) {
	defer catch(&err)
	if p.fast != nil {
		m.begin()
		text, err = appendPiece(m, p.fast, in, make([]byte, 0, m.size))
		switch err {
		case errEmpty:
			return nil, nil
		case errGiveUp:
		default:
			return text, err
		}
	}
	x, ok, err := p.general(m, in)
	if err != nil || !ok {
		return nil, err
	}
	left := MaxBytes
	if err := measure(x.v, maxDepth, &left); err != nil {
		return nil, err
	}
	return gojq.Marshal(x.v)
}

// catch makes a fault in an interpreter fail this run only.
func catch(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the jq interpreter broke: %v", p)
	}
}

// general runs the program by gojq.
func (p *Program) general(m *Run, in Value) (v Value, ok bool, err error) {
	input, err := in.Tree()
	if err != nil {
		return Value{}, false, err
	}
	watch, start := cputime.Start(), time.Now()
	ctx, cancel := watch.Context(m.ctx, m.left)
	defer func() {
		cancel()
		m.left -= min(time.Since(start), watch.Used())
	}()
	values := p.code.RunWithContext(ctx, input)
	out, ok := values.Next()
	if !ok {
		return Value{}, false, nil
	}
	if err, failed := out.(error); failed {
		return Value{}, false, evaluationError(ctx, err)
	}
	if extra, more := values.Next(); more {
		if err, failed := extra.(error); failed {
			return Value{}, false, evaluationError(ctx, err)
		}
		return Value{}, false, errMany
	}
	return Value{v: out}, true, nil
}

func evaluationError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, cputime.ErrOver) {
		return fmt.Errorf("not done after %v: %w", MaxDuration, context.DeadlineExceeded)
	}
	return err
}
