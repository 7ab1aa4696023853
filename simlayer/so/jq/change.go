package jq

import (
	"bytes"
	"slices"

	"github.com/itchyny/gojq"
)

// sum is +.
type sum struct {
	left, right piece
	general     call
}

func (n sum) eval(m *Run, in Value) (Value, error) {
	l, r, err := both(m, n.left, n.right, in)
	if err != nil {
		return Value{}, err
	}
	switch lk, rk := l.kind(), r.kind(); {
	case lk == kindNull && rk != kindNumber: // which + writes anew
		return r, nil
	case rk == kindNull && lk != kindNumber:
		return l, nil
	case lk == kindString && rk == kindString:
		a, _ := l.text()
		b, ok := r.text()
		switch {
		case !ok:
			return Value{}, errGiveUp
		case len(a)+len(b) > MaxBytes:
			return Value{}, errLarge
		}
		return Value{v: a + b}, nil
	case lk == kindObject && rk == kindObject && l.isText() && r.isText():
		return n.merge(m, l, r)
	}
	return n.general.on(m, l, r)
}

func (n sum) merge(m *Run, l, r Value) (Value, error) {
	old, err := m.members(l)
	if err != nil {
		return Value{}, err
	}
	fresh, err := m.members(r)
	if err != nil {
		return Value{}, err
	}
	if len(fresh) > fewNames { // comparing all with all would not be linear
		return n.general.on(m, l, r)
	}
	out := m.memory.take(len(old) + len(fresh))
	for _, one := range old {
		if !slices.ContainsFunc(fresh, func(f member) bool { return bytes.Equal(f.name, one.name) }) {
			out = append(out, one)
		}
	}
	return joined(m, append(out, fresh...))
}

// removal is del(.name, …).
type removal struct{ names [][]byte }

func (n removal) eval(m *Run, in Value) (Value, error) {
	if in.kind() == kindNull {
		return in, nil
	}
	members, err := m.members(in)
	if err != nil {
		return Value{}, err
	}
	out := m.memory.take(len(members))
	for _, one := range members {
		if !slices.ContainsFunc(n.names, func(name []byte) bool { return bytes.Equal(name, one.name) }) {
			out = append(out, one)
		}
	}
	return joined(m, out)
}

// assignment is .name = value, or .name |= value.
type assignment struct {
	name   pathStep
	value  piece
	modify bool
}

func (n assignment) eval(m *Run, in Value) (Value, error) {
	if in.kind() == kindNull {
		in = Value{raw: []byte("{}")}
		if n.modify {
			return Value{}, errGiveUp
		}
	}
	members, err := m.members(in)
	if err != nil {
		return Value{}, err
	}
	from := in
	if n.modify {
		if from, _, err = m.member(in, n.name.name, n.name.encoded); err != nil {
			return Value{}, err
		}
	}
	text, err := m.text(n.value, from)
	if err == errEmpty {
		return Value{}, errGiveUp // it has a meaning of its own here
	}
	if err != nil {
		return Value{}, err
	}
	out := append(m.memory.take(len(members)+1), members...)
	i := slices.IndexFunc(out, func(one member) bool { return bytes.Equal(one.name, n.name.encoded) })
	if i < 0 {
		return joined(m, append(out, member{n.name.encoded, text}))
	}
	out[i].value = text
	return joined(m, out)
}

// renaming is with_entries(.key |= ({"old": "new", …}[.] // .)).
type renaming struct{ names []rename }

type rename struct{ from, to []byte }

func (n renaming) eval(m *Run, in Value) (Value, error) {
	members, err := m.members(in)
	if err != nil {
		return Value{}, err
	}
	out := append(m.memory.take(len(members)), members...)
	renamed := false
	for i := range out {
		for _, r := range n.names {
			if bytes.Equal(out[i].name, r.from) {
				out[i].name, renamed = r.to, true
				break
			}
		}
	}
	if renamed && !n.distinct(out) {
		return Value{}, errGiveUp // which of the two wins is for gojq to say
	}
	return joined(m, out)
}

// distinct reports whether no new name is that of another member.
func (n renaming) distinct(members []member) bool {
	for _, r := range n.names {
		seen := 0
		for _, one := range members {
			if bytes.Equal(one.name, r.to) {
				seen++
			}
		}
		if seen > 1 {
			return false
		}
	}
	return true
}

// call is a program of gojq's that is linear in its input.
type call struct{ code *gojq.Code }

func (n call) eval(m *Run, in Value) (Value, error) {
	v, err := in.Tree()
	if err != nil {
		return Value{}, errGiveUp
	}
	return n.run(m, v, in.size())
}

// on runs the program over an array of two values.
func (n call) on(m *Run, l, r Value) (Value, error) {
	a, err := l.Tree()
	if err != nil {
		return Value{}, errGiveUp
	}
	b, err := r.Tree()
	if err != nil {
		return Value{}, errGiveUp
	}
	return n.run(m, []any{a, b}, l.size()+r.size())
}

func (n call) run(m *Run, in any, size int) (Value, error) {
	values := n.code.RunWithContext(m.ctx, in)
	v, ok := values.Next()
	if !ok {
		return Value{}, errEmpty
	}
	if _, failed := v.(error); failed {
		return Value{}, errGiveUp
	}
	left := MaxBytes
	switch err := measure(v, maxDepth, &left); err {
	case nil:
	case errNotUTF8:
		return Value{}, errGiveUp // what comes after may make it text again
	default:
		return Value{}, err
	}
	return Value{v: v}, m.did(4*size + 64)
}

// difference is - with an array that stands in the expression.
type difference struct {
	left    piece
	right   constant
	general call
}

func (n difference) eval(m *Run, in Value) (Value, error) {
	l, r, err := both(m, n.left, n.right, in)
	if err != nil {
		return Value{}, err
	}
	return n.general.on(m, l, r)
}

// sentence is a string with \(…) in it.
type sentence struct {
	parts []piece
	text  call // tostring
}

func (n sentence) eval(m *Run, in Value) (Value, error) {
	var out []byte
	var empty error
	for _, part := range n.parts {
		x, err := part.eval(m, in)
		if err == nil && x.kind() != kindString {
			x, err = n.text.eval(m, x)
		}
		if err == errEmpty {
			empty = err
			continue
		}
		if err != nil {
			return Value{}, err
		}
		s, ok := x.text()
		switch {
		case !ok:
			return Value{}, errGiveUp
		case len(out)+len(s) > MaxBytes:
			return Value{}, errLarge
		}
		out = append(out, s...)
	}
	return Value{v: string(out)}, worse(empty, m.did(len(out)))
}
