package so

import "github.com/itchyny/gojq"

// piece is a part of a bounded expression. It yields at most one value; errEmpty
// stands for none, and errGiveUp leaves the whole expression to gojq.
type piece interface {
	eval(m *machine, in val) (val, error)
}

// appender is a piece that can put its value where it is wanted.
type appender interface {
	appendValue(m *machine, in val, dst []byte) ([]byte, error)
}

// appendPiece appends the value of n as JSON text.
func appendPiece(m *machine, n piece, in val, dst []byte) ([]byte, error) {
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
	if len(dst) > MaxBody {
		return nil, errLarge
	}
	return dst, m.did(len(dst) - size)
}

// text returns the value of n as JSON text, without a copy where it is some.
func (m *machine) text(n piece, in val) ([]byte, error) {
	if _, ok := n.(appender); ok {
		return appendPiece(m, n, in, nil)
	}
	x, err := n.eval(m, in)
	if err != nil || x.raw != nil {
		return x.raw, err
	}
	text, err := x.appendTo(nil)
	if err == nil && len(text) > MaxBody {
		err = errLarge
	}
	if err != nil {
		return nil, err
	}
	return text, m.did(len(text))
}

// made is the value of an appender.
func made(m *machine, a appender, in val) (val, error) {
	raw, err := a.appendValue(m, in, make([]byte, 0, 256))
	return val{raw: raw}, err
}

// constant is a value that stands in the expression.
type constant struct{ val val }

func (n constant) eval(*machine, val) (val, error) { return n.val, nil }

// here is jq's dot.
type here struct{}

func (here) eval(_ *machine, in val) (val, error) { return in, nil }

type nothing struct{}

func (nothing) eval(*machine, val) (val, error) { return val{}, errEmpty }

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

func (n path) eval(m *machine, in val) (val, error) {
	x, err := n.of.eval(m, in)
	for _, s := range n.steps {
		if err != nil {
			return val{}, err
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

func (n pipe) eval(m *machine, in val) (val, error) {
	x, err := n.left.eval(m, in)
	if err != nil {
		return val{}, err
	}
	return n.right.eval(m, x)
}

func (n pipe) appendValue(m *machine, in val, dst []byte) ([]byte, error) {
	x, err := n.left.eval(m, in)
	if err != nil {
		return nil, err
	}
	return appendPiece(m, n.right, x, dst)
}

// alternative is jq's //.
type alternative struct{ left, right piece }

func (n alternative) eval(m *machine, in val) (val, error) {
	x, err := n.left.eval(m, in)
	switch {
	case err == errEmpty, err == nil && !x.truthy():
		return n.right.eval(m, in)
	}
	return x, err
}

// object makes an object. Its names are sorted and differ.
type object struct {
	names  [][]byte // as JSON text with the colon
	values []piece
}

func (n object) eval(m *machine, in val) (val, error) {
	members := m.clock.room.take(len(n.names))
	var empty error
	for i, value := range n.values {
		text, err := m.text(value, in)
		switch err {
		case nil:
			members = append(members, member{n.names[i][:len(n.names[i])-1], text})
		case errEmpty:
			empty = err
		default:
			return val{}, err
		}
	}
	if empty != nil {
		return val{}, empty
	}
	return joined(m, members)
}

func (n object) appendValue(m *machine, in val, dst []byte) ([]byte, error) {
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

func (n list) eval(m *machine, in val) (val, error) { return made(m, n, in) }

func (n list) appendValue(m *machine, in val, dst []byte) ([]byte, error) {
	dst = append(dst, '[')
	start := len(dst)
	add := func(f piece, in val) error {
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

func (list) each(m *machine, item listItem, in val, add func(piece, val) error) error {
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
			if err := add(item.f, val{v: v}); err != nil {
				return err
			}
		}
		return nil
	}
	if x.raw[0] != '[' {
		return errGiveUp
	}
	eachItem(x.raw, func(raw []byte) bool {
		if err = m.did(len(raw)); err == nil {
			err = add(item.f, val{raw: raw})
		}
		return err == nil
	})
	return err
}

// comparison is ==, !=, <, <=, > or >=.
type comparison struct {
	op          gojq.Operator
	left, right piece
}

func (n comparison) eval(m *machine, in val) (val, error) {
	l, r, err := both(m, n.left, n.right, in)
	if err != nil {
		return val{}, err
	}
	if n.op == gojq.OpEq || n.op == gojq.OpNe {
		same, err := equal(l, r)
		return val{v: same == (n.op == gojq.OpEq)}, err
	}
	c, err := compareValues(l, r)
	switch n.op {
	case gojq.OpLt:
		return val{v: c < 0}, err
	case gojq.OpLe:
		return val{v: c <= 0}, err
	case gojq.OpGt:
		return val{v: c > 0}, err
	}
	return val{v: c >= 0}, err
}

// both evaluates two operands.
func both(m *machine, left, right piece, in val) (l, r val, err error) {
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

func (n logic) eval(m *machine, in val) (val, error) {
	x, err := n.left.eval(m, in)
	if err != nil {
		return val{}, err
	}
	if x.truthy() == n.or {
		return val{v: n.or}, nil
	}
	x, err = n.right.eval(m, in)
	return val{v: x.truthy()}, err
}

type negation struct{}

func (negation) eval(_ *machine, in val) (val, error) { return val{v: !in.truthy()}, nil }

// choice is if; without a condition that holds it is otherwise.
type choice struct{ cond, then, otherwise piece }

func (n choice) eval(m *machine, in val) (val, error) {
	x, err := n.cond.eval(m, in)
	switch {
	case err != nil:
		return val{}, err
	case x.truthy():
		return n.then.eval(m, in)
	}
	return n.otherwise.eval(m, in)
}

// ofKind is objects, strings and so on: its input where it is of a kind.
type ofKind struct{ low, high int }

func (n ofKind) eval(_ *machine, in val) (val, error) {
	if k := in.kind(); k < n.low || k > n.high {
		return val{}, errEmpty
	}
	return in, nil
}

// affix is startswith or endswith.
type affix struct {
	text string
	test func(s, affix string) bool
}

func (n affix) eval(m *machine, in val) (val, error) {
	s, ok := in.text()
	if !ok {
		return val{}, errGiveUp
	}
	return val{v: n.test(s, n.text)}, m.did(len(s))
}

// having is has("name").
type having struct {
	name    string
	encoded []byte
}

func (n having) eval(m *machine, in val) (val, error) {
	if in.scope != nil || in.kind() != kindObject {
		return val{}, errGiveUp
	}
	_, there, err := m.member(in, n.name, n.encoded)
	return val{v: there}, err
}
