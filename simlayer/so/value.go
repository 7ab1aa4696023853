package so

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/itchyny/gojq"
)

// scope is what an expression sees: a request or a response, whose parts are made
// only when an expression asks for them.
type scope interface {
	// field returns what .name is.
	field(name string) (val, error)
	// whole returns all of it as gojq's values.
	whole() (any, error)
}

// val is a value of a bounded expression: JSON text, an object in parts, a value of
// gojq's, or a scope.
type val struct {
	raw   []byte    // checked JSON text, if not nil
	doc   *document // whose text raw is; where raw is nil, an object without one
	scope scope
	v     any // if the others are nil
}

// inParts reports whether x is an object of which only the members are known.
func (x val) inParts() bool { return x.raw == nil && x.doc != nil }

// isText reports whether x is neither gojq's nor a scope.
func (x val) isText() bool { return x.raw != nil || x.doc != nil }

// size is about how long x's text is, if it is not gojq's value.
func (x val) size() int {
	if x.inParts() {
		return x.doc.size()
	}
	return len(x.raw)
}

// Bounded expressions end early with one of these. What they give up is done by
// gojq, which then says what is wrong where something is.
var (
	errEmpty  = errors.New("it yields nothing")
	errGiveUp = errors.New("not in bounded form")
	errLarge  = fmt.Errorf("its value is over %d bytes", MaxBody) // gojq is not asked
)

// Kinds of values, in the words of jq.
const (
	kindNull = iota
	kindFalse
	kindTrue
	kindNumber
	kindString
	kindArray
	kindObject
)

func (x val) kind() int {
	switch {
	case x.scope != nil:
		return kindObject
	case x.raw != nil:
		return rawKind(x.raw[0])
	case x.doc != nil:
		return kindObject
	}
	switch v := x.v.(type) {
	case nil:
		return kindNull
	case bool:
		if v {
			return kindTrue
		}
		return kindFalse
	case string:
		return kindString
	case []any:
		return kindArray
	case map[string]any:
		return kindObject
	}
	return kindNumber
}

func rawKind(first byte) int {
	switch first {
	case 'n':
		return kindNull
	case 'f':
		return kindFalse
	case 't':
		return kindTrue
	case '"':
		return kindString
	case '[':
		return kindArray
	case '{':
		return kindObject
	}
	return kindNumber
}

func (x val) truthy() bool { return x.kind() != kindNull && x.kind() != kindFalse }

// tree returns x as a value of gojq's.
func (x val) tree() (any, error) {
	switch {
	case x.scope != nil:
		return x.scope.whole()
	case x.inParts():
		return parseJSON(x.doc.appendTo(nil))
	case x.raw == nil:
		return x.v, nil
	}
	switch rawKind(x.raw[0]) {
	case kindNull:
		return nil, nil
	case kindFalse:
		return false, nil
	case kindTrue:
		return true, nil
	case kindNumber:
		return json.Number(x.raw), nil
	case kindString:
		if bytes.IndexByte(x.raw, '\\') < 0 {
			return string(x.raw[1 : len(x.raw)-1]), nil
		}
	}
	return parseJSON(x.raw)
}

// text returns a string's characters; ok is false for anything else.
func (x val) text() (s string, ok bool) {
	if x.kind() != kindString {
		return "", false
	}
	v, err := x.tree()
	s, ok = v.(string)
	return s, ok && err == nil
}

// appendTo appends x as JSON text.
func (x val) appendTo(dst []byte) ([]byte, error) {
	switch {
	case x.raw != nil:
		return append(dst, x.raw...), nil
	case x.doc != nil:
		return x.doc.appendTo(dst), nil
	}
	switch v := x.v.(type) {
	case string:
		if plainText(v) {
			dst = append(dst, '"')
			dst = append(dst, v...)
			return append(dst, '"'), nil
		}
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, errGiveUp // JSON has no word for it
		}
	case bool, int, *big.Int, json.Number:
	default:
		left := MaxBody
		if x.scope != nil || measure(v, maxDepth, &left) != nil {
			return nil, errGiveUp
		}
	}
	data, err := gojq.Marshal(x.v)
	return append(dst, data...), err
}

// plainText reports whether s stands in JSON as it is.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; !inText[c] || c >= 0x80 {
			return false
		}
	}
	return true
}

// equal is jq's ==.
func equal(l, r val) (bool, error) {
	k := l.kind()
	if k != r.kind() {
		return false, nil
	}
	if k <= kindTrue {
		return true, nil
	}
	if k == kindString && l.raw != nil && r.raw != nil &&
		bytes.IndexByte(l.raw, '\\') < 0 && bytes.IndexByte(r.raw, '\\') < 0 {
		return bytes.Equal(l.raw, r.raw), nil
	}
	c, err := compareValues(l, r)
	return c == 0, err
}

// compareValues is jq's order.
func compareValues(l, r val) (int, error) {
	a, err := l.tree()
	if err != nil {
		return 0, err
	}
	b, err := r.tree()
	if err != nil {
		return 0, err
	}
	return gojq.Compare(a, b), nil
}

// machine runs one bounded expression. Its work is counted in bytes looked at.
type machine struct {
	clock *clock
	start time.Time
	work  int
}

// did counts work, and gives up when the time is over.
func (m *machine) did(n int) error {
	m.work += n
	if m.work < workBetweenLooks {
		return nil
	}
	m.work = 0
	now := time.Now()
	if m.start.IsZero() {
		m.start = now
	}
	if m.clock.ctx.Err() != nil || now.Sub(m.start) > m.clock.left {
		return errGiveUp
	}
	return nil
}

// member returns what .name of x is, and whether it is there.
func (m *machine) member(x val, name string, encoded []byte) (found val, there bool, err error) {
	switch {
	case x.scope != nil:
		found, err = x.scope.field(name)
		return found, true, err
	case !x.isText():
		switch v := x.v.(type) {
		case nil:
			return val{}, false, nil
		case map[string]any:
			item, there := v[name]
			return val{v: item}, there, nil
		}
		return val{}, false, errGiveUp
	case x.kind() == kindNull:
		return val{}, false, nil
	case x.kind() != kindObject:
		return val{}, false, errGiveUp
	}
	look := func(one member) bool {
		if bytes.Equal(one.name, encoded) {
			found, there = val{raw: one.value}, true
		}
		return !there
	}
	if x.doc == nil {
		eachMember(x.raw, look)
		return found, there, m.did(len(x.raw))
	}
	for _, one := range x.doc.members {
		if !look(one) {
			break
		}
	}
	return found, there, m.did(len(x.doc.members))
}

// item returns what .[i] of x is.
func (m *machine) item(x val, i int) (found val, err error) {
	switch {
	case x.scope != nil:
		return val{}, errGiveUp
	case x.inParts():
		return val{}, errGiveUp
	case x.raw == nil:
		switch v := x.v.(type) {
		case nil:
			return val{}, nil
		case []any:
			if i < len(v) {
				return val{v: v[i]}, nil
			}
			return val{}, nil
		}
		return val{}, errGiveUp
	case x.raw[0] == 'n':
		return val{}, nil
	case x.raw[0] != '[':
		return val{}, errGiveUp
	}
	at := 0
	eachItem(x.raw, func(raw []byte) bool {
		if at == i {
			found = val{raw: raw}
		}
		at++
		return at <= i
	})
	return found, m.did(len(x.raw))
}

// members returns all members of an object of text, or in parts.
func (m *machine) members(x val) ([]member, error) {
	if !x.isText() || x.kind() != kindObject {
		return nil, errGiveUp
	}
	if x.doc != nil {
		return x.doc.members, m.did(len(x.doc.members))
	}
	list := m.clock.room.take(8)
	eachMember(x.raw, func(one member) bool {
		list = append(list, one)
		return true
	})
	return list, m.did(len(x.raw))
}
