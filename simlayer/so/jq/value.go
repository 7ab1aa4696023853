package jq

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// Scope is an object whose members are made only when a program asks for them.
type Scope interface {
	// Field returns what .name is. What is not there is the zero Value.
	Field(name string) (Value, error)
	// Tree returns all of it as gojq's values.
	Tree() (any, error)
}

// Value is a value that programs take and yield: JSON text, an object in parts, a
// value of gojq's, or a Scope. The zero Value is null.
type Value struct {
	raw   []byte    // checked JSON text, if not nil
	doc   *document // whose text raw is; where raw is nil, an object without one
	scope Scope
	v     any // if the others are nil
}

// Of returns a value of gojq's: nil, bool, int, float64, *big.Int, json.Number,
// string, []any and map[string]any.
func Of(v any) Value { return Value{v: v} }

// In returns s as a value.
func In(s Scope) Value { return Value{scope: s} }

// inParts reports whether x is an object of which only the members are known.
func (x Value) inParts() bool { return x.raw == nil && x.doc != nil }

// isText reports whether x is neither gojq's nor a scope.
func (x Value) isText() bool { return x.raw != nil || x.doc != nil }

// size is about how long x's text is, if it is not gojq's value.
func (x Value) size() int {
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

func (x Value) kind() int {
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

// True reports whether x is neither null nor false.
func (x Value) True() bool { return x.kind() != kindNull && x.kind() != kindFalse }

// Tree returns x as a value of gojq's.
func (x Value) Tree() (any, error) {
	switch {
	case x.scope != nil:
		return x.scope.Tree()
	case x.inParts():
		return Decode(x.doc.appendTo(nil))
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
	return Decode(x.raw)
}

// text returns a string's characters; ok is false for anything else.
func (x Value) text() (s string, ok bool) {
	if x.kind() != kindString {
		return "", false
	}
	v, err := x.Tree()
	s, ok = v.(string)
	return s, ok && err == nil
}

// appendTo appends x as JSON text.
func (x Value) appendTo(dst []byte) ([]byte, error) {
	switch {
	case x.raw != nil:
		return append(dst, x.raw...), nil
	case x.doc != nil:
		return x.doc.appendTo(dst), nil
	}
	tree := x.v
	if x.scope != nil {
		var err error
		if tree, err = x.scope.Tree(); err != nil {
			return nil, err
		}
	}
	switch v := tree.(type) {
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, errGiveUp // JSON has no word for it
		}
	case bool, int, *big.Int, json.Number:
	case string:
		if plainText(v) {
			dst = append(dst, '"')
			dst = append(dst, v...)
			return append(dst, '"'), nil
		}
		if !utf8.ValidString(v) {
			return nil, errGiveUp
		}
	default:
		left := MaxBytes
		if measure(v, maxDepth, &left) != nil {
			return nil, errGiveUp
		}
	}
	data, err := gojq.Marshal(tree)
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
func equal(l, r Value) (bool, error) {
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
func compareValues(l, r Value) (int, error) {
	a, err := l.Tree()
	if err != nil {
		return 0, err
	}
	b, err := r.Tree()
	if err != nil {
		return 0, err
	}
	return gojq.Compare(a, b), nil
}
