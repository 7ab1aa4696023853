package jq

import "github.com/itchyny/gojq"

// piece is a part of a bounded expression. It yields at most one value; errEmpty
// stands for none, and errGiveUp leaves the whole expression to gojq.
type piece interface {
	eval(m *Run, in Value) (Value, error)
}

// appender is a piece that can put its value where it is wanted.
type appender interface {
	appendValue(m *Run, in Value, dst []byte) ([]byte, error)
}

// appendPiece appends the value of n as JSON text.
func appendPiece(m *Run, n piece, in Value, dst []byte) ([]byte, error) {
	if a, ok := n.(appender); ok {
		return a.appendValue(m, in, dst)
	}
	x, err := n.eval(m, in)
	if err != nil {
		return nil, err
	}
	size := len(dst)
	if dst, err = x.appendTo(dst); err != nil {
		return nil, err
	}
	if len(dst) > MaxBytes {
		return nil, errLarge
	}
	return dst, m.did(len(dst) - size)
}

// text returns the value of n as JSON text, without a copy where it is some.
func (m *Run) text(n piece, in Value) ([]byte, error) {
	if _, ok := n.(appender); ok {
		return appendPiece(m, n, in, nil)
	}
	x, err := n.eval(m, in)
	if err != nil || x.raw != nil {
		return x.raw, err
	}
	text, err := x.appendTo(nil)
	if err == nil && len(text) > MaxBytes {
		err = errLarge
	}
	if err != nil {
		return nil, err
	}
	return text, m.did(len(text))
}

// constant is a value that stands in the expression.
type constant struct{ val Value }

func (n constant) eval(*Run, Value) (Value, error) { return n.val, nil }

// here is jq's dot.
type here struct{}

func (here) eval(_ *Run, in Value) (Value, error) { return in, nil }

type nothing struct{}

func (nothing) eval(*Run, Value) (Value, error) { return Value{}, errEmpty }

// pathStep is one .name or .[index] of a path.
type pathStep struct {
	name    string
	encoded []byte // the name as JSON text; nil for an index
	index   int
}

type path struct {
	of    piece
	steps []pathStep
}

func (n path) eval(m *Run, in Value) (Value, error) {
	x, err := n.of.eval(m, in)
	for _, s := range n.steps {
		if err != nil {
			return Value{}, err
		}
		if s.encoded == nil {
			x, err = m.item(x, s.index)
		} else {
			x, _, err = m.member(x, s.name, s.encoded)
		}
	}
	return x, err
}

type pipe struct{ left, right piece }

func (n pipe) eval(m *Run, in Value) (Value, error) {
	x, err := n.left.eval(m, in)
	if err != nil {
		return Value{}, err
	}
	return n.right.eval(m, x)
}

func (n pipe) appendValue(m *Run, in Value, dst []byte) ([]byte, error) {
	x, err := n.left.eval(m, in)
	if err != nil {
		return nil, err
	}
	return appendPiece(m, n.right, x, dst)
}

// alternative is jq's //.
type alternative struct{ left, right piece }

func (n alternative) eval(m *Run, in Value) (Value, error) {
	x, err := n.left.eval(m, in)
	switch {
	case err == errEmpty, err == nil && !x.True():
		return n.right.eval(m, in)
	}
	return x, err
}

// object makes an object. Its names are sorted and differ.
type object struct {
	names  [][]byte // as JSON text with the colon
	values []piece
}

func (n object) eval(m *Run, in Value) (Value, error) {
	members := m.memory.take(len(n.names))
	var empty error
	for i, value := range n.values {
		text, err := m.text(value, in)
		switch err {
		case nil:
			members = append(members, member{n.names[i][:len(n.names[i])-1], text})
		case errEmpty:
			empty = err
		default:
			return Value{}, err
		}
	}
	if empty != nil {
		return Value{}, empty
	}
	return joined(m, members)
}

func (n object) appendValue(m *Run, in Value, dst []byte) ([]byte, error) {
	dst = append(dst, '{')
	var empty error
	for i, value := range n.values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, n.names[i]...)
		longer, err := appendPiece(m, value, in, dst)
		switch err {
		case nil:
			dst = longer
		case errEmpty:
			empty = err
		default:
			return nil, err
		}
	}
	return append(dst, '}'), worse(empty, m.did(1))
}

// list makes an array.
type list struct{ items []listItem }

// listItem is one value, or, where each is set, the value of f for every item of
// the array each.
type listItem struct{ each, f piece }

func (n list) eval(m *Run, in Value) (Value, error) {
	raw, err := n.appendValue(m, in, make([]byte, 0, 256))
	return Value{raw: raw}, err
}

func (n list) appendValue(m *Run, in Value, dst []byte) ([]byte, error) {
	dst = append(dst, '[')
	start := len(dst)
	add := func(f piece, in Value) error {
		mark := len(dst)
		if mark > start {
			dst = append(dst, ',')
		}
		longer, err := appendPiece(m, f, in, dst)
		switch err {
		case nil:
			dst = longer
		case errEmpty:
			dst, err = dst[:mark], nil
		}
		return err
	}
	for _, item := range n.items {
		var err error
		if item.each == nil {
			err = add(item.f, in)
		} else {
			err = n.each(m, item, in, add)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), m.did(1)
}

func (list) each(m *Run, item listItem, in Value, add func(piece, Value) error) error {
	x, err := item.each.eval(m, in)
	if err == errEmpty {
		return nil
	}
	if err != nil {
		return err
	}
	if x.raw == nil {
		items, ok := x.v.([]any)
		if !ok || x.scope != nil {
			return errGiveUp
		}
		for _, v := range items {
			if err := add(item.f, Value{v: v}); err != nil {
				return err
			}
		}
		return nil
	}
	if x.raw[0] != '[' {
		return errGiveUp
	}
	for _, raw := range elements(x.raw) {
		if err := m.did(len(raw)); err != nil {
			return err
		}
		if err := add(item.f, Value{raw: raw}); err != nil {
			return err
		}
	}
	return nil
}

// comparison is ==, !=, <, <=, > or >=.
type comparison struct {
	op          gojq.Operator
	left, right piece
}

func (n comparison) eval(m *Run, in Value) (Value, error) {
	l, r, err := both(m, n.left, n.right, in)
	if err != nil {
		return Value{}, err
	}
	if n.op == gojq.OpEq || n.op == gojq.OpNe {
		same, err := equal(l, r)
		return Value{v: same == (n.op == gojq.OpEq)}, err
	}
	c, err := compareValues(l, r)
	switch n.op {
	case gojq.OpLt:
		return Value{v: c < 0}, err
	case gojq.OpLe:
		return Value{v: c <= 0}, err
	case gojq.OpGt:
		return Value{v: c > 0}, err
	}
	return Value{v: c >= 0}, err
}

// both evaluates two operands.
func both(m *Run, left, right piece, in Value) (l, r Value, err error) {
	l, err = left.eval(m, in)
	r, err2 := right.eval(m, in)
	if err = worse(err, err2); err == nil {
		err = m.did(l.size() + r.size() + 1)
	}
	return l, r, err
}

// worse joins the errors of two operands. Where one yields nothing and the other
// fails, it depends on gojq's order which of them counts.
func worse(a, b error) error {
	if a == nil || a == errEmpty && b != nil {
		return b
	}
	return a
}

// logic is and, or or.
type logic struct {
	or          bool
	left, right piece
}

func (n logic) eval(m *Run, in Value) (Value, error) {
	x, err := n.left.eval(m, in)
	if err != nil {
		return Value{}, err
	}
	if x.True() == n.or {
		return Value{v: n.or}, nil
	}
	x, err = n.right.eval(m, in)
	return Value{v: x.True()}, err
}

type negation struct{}

func (negation) eval(_ *Run, in Value) (Value, error) { return Value{v: !in.True()}, nil }

// choice is if; without a condition that holds it is otherwise.
type choice struct{ cond, then, otherwise piece }

func (n choice) eval(m *Run, in Value) (Value, error) {
	x, err := n.cond.eval(m, in)
	switch {
	case err != nil:
		return Value{}, err
	case x.True():
		return n.then.eval(m, in)
	}
	return n.otherwise.eval(m, in)
}

// ofKind is objects, strings and so on: its input where it is of a kind.
type ofKind struct{ low, high int }

func (n ofKind) eval(_ *Run, in Value) (Value, error) {
	if k := in.kind(); k < n.low || k > n.high {
		return Value{}, errEmpty
	}
	return in, nil
}

// affix is startswith or endswith.
type affix struct {
	text string
	test func(s, affix string) bool
}

func (n affix) eval(m *Run, in Value) (Value, error) {
	s, ok := in.text()
	if !ok {
		return Value{}, errGiveUp
	}
	return Value{v: n.test(s, n.text)}, m.did(len(s))
}

// having is has("name").
type having struct {
	name    string
	encoded []byte
}

func (n having) eval(m *Run, in Value) (Value, error) {
	if in.scope != nil || in.kind() != kindObject {
		return Value{}, errGiveUp
	}
	_, there, err := m.member(in, n.name, n.encoded)
	return Value{v: there}, err
}
