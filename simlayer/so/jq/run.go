package jq

import (
	"bytes"
	"context"
	"time"
)

// Run is what the programs that run over one message share: their time and their
// memory. What passes between them does not count. It is for one goroutine.
type Run struct {
	ctx    context.Context
	left   time.Duration
	memory *Memory
	size   int // about that of a body that is made
	// Of the program at work, if it is bounded: when it looked at the clock first,
	// and how many bytes it has looked at since it did so last.
	start time.Time
	work  int
}

// NewRun returns a Run of MaxDuration, which ends with ctx. Values of its programs
// live as long as what is in memory, which may be nil: see Pool.
func NewRun(ctx context.Context, memory *Memory) Run {
	return Run{ctx: ctx, left: MaxDuration, memory: memory, size: 512}
}

// Expect says that values will be made of a text of so many bytes.
func (m *Run) Expect(bytes int) { m.size = min(max(m.size, bytes+bytes/8), maxExpected) }

// begin makes m ready for another bounded program.
func (m *Run) begin() { m.start, m.work = time.Time{}, 0 }

// did counts work, and gives up when the time is over.
func (m *Run) did(n int) error {
	m.work += n
	if m.work < workBetweenLooks {
		return nil
	}
	m.work = 0
	now := time.Now()
	if m.start.IsZero() {
		m.start = now
	}
	if m.ctx.Err() != nil || now.Sub(m.start) > m.left {
		return errGiveUp
	}
	return nil
}

// member returns what .name of x is, and whether it is there.
func (m *Run) member(x Value, name string, encoded []byte) (found Value, there bool, err error) {
	switch {
	case x.scope != nil:
		found, err = x.scope.Field(name)
		return found, true, err
	case !x.isText():
		switch v := x.v.(type) {
		case nil:
			return Value{}, false, nil
		case map[string]any:
			item, there := v[name]
			return Value{v: item}, there, nil
		}
		return Value{}, false, errGiveUp
	case x.kind() == kindNull:
		return Value{}, false, nil
	case x.kind() != kindObject:
		return Value{}, false, errGiveUp
	}
	if x.doc == nil {
		for name, value := range elements(x.raw) {
			if bytes.Equal(name, encoded) {
				found, there = Value{raw: value}, true
				break
			}
		}
		return found, there, m.did(len(x.raw))
	}
	for _, one := range x.doc.members {
		if bytes.Equal(one.name, encoded) {
			found, there = Value{raw: one.value}, true
			break
		}
	}
	return found, there, m.did(len(x.doc.members))
}

// item returns what .[i] of x is.
func (m *Run) item(x Value, i int) (found Value, err error) {
	switch {
	case x.scope != nil:
		return Value{}, errGiveUp
	case x.inParts():
		return Value{}, errGiveUp
	case x.raw == nil:
		switch v := x.v.(type) {
		case nil:
			return Value{}, nil
		case []any:
			if i < len(v) {
				return Value{v: v[i]}, nil
			}
			return Value{}, nil
		}
		return Value{}, errGiveUp
	case x.raw[0] == 'n':
		return Value{}, nil
	case x.raw[0] != '[':
		return Value{}, errGiveUp
	}
	at := 0
	for _, raw := range elements(x.raw) {
		if at == i {
			found = Value{raw: raw}
			break
		}
		at++
	}
	return found, m.did(len(x.raw))
}

// members returns all members of an object of text, or in parts.
func (m *Run) members(x Value) ([]member, error) {
	if !x.isText() || x.kind() != kindObject {
		return nil, errGiveUp
	}
	if x.doc != nil {
		return x.doc.members, m.did(len(x.doc.members))
	}
	list := m.memory.take(8)
	for name, value := range elements(x.raw) {
		list = append(list, member{name, value})
	}
	return list, m.did(len(x.raw))
}

// joined makes an object of members with different names. Its text is not made:
// most often it is only a part on the way to another.
func joined(m *Run, members []member) (Value, error) {
	d := m.memory.document(nil, members)
	size := d.size()
	if size > MaxBytes {
		return Value{}, errLarge
	}
	return Value{doc: d}, m.did(size)
}
