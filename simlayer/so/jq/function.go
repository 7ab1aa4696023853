package jq

import (
	"slices"
	"strings"

	"github.com/itchyny/gojq"
)

// linear and linearFormats are functions of gojq's that take no argument, yield at
// most one value, and are linear (keys and sort but for a logarithm).
var (
	linear = []string{"ascii_downcase", "ascii_upcase", "floor", "keys", "length", "reverse", "sort",
		"to_entries", "tojson", "tonumber", "tostring", "trim", "ltrim", "rtrim", "type", "utf8bytelength"}
	linearFormats = []string{"@base64", "@base64d", "@text", "@json", "@uri"}
)

func (b *binder) function(f *gojq.Func) piece {
	switch {
	case len(f.Args) == 0:
		return b.plainFunction(f.Name)
	case len(f.Args) > 1:
		return b.fail()
	}
	arg := f.Args[0]
	switch f.Name {
	case "select":
		return choice{b.query(arg), here{}, nothing{}}
	case "map":
		return list{[]listItem{{here{}, b.query(arg)}}}
	case "del":
		return b.removal(arg)
	case "with_entries":
		return b.renaming(arg)
	}
	if !literal(arg) || arg.Term.Type != gojq.TermTypeString {
		return b.fail()
	}
	text := arg.Term.Str.Str
	switch f.Name {
	case "startswith":
		return affix{text, strings.HasPrefix}
	case "endswith":
		return affix{text, strings.HasSuffix}
	case "has":
		return having{text, encodedName(text)}
	case "ltrimstr", "rtrimstr", "split", "join":
		return b.program(f.String())
	}
	return b.fail()
}

// kinds are functions that let pass what is of a kind.
var kinds = map[string]ofKind{
	"nulls": {kindNull, kindNull}, "booleans": {kindFalse, kindTrue}, "numbers": {kindNumber, kindNumber},
	"strings": {kindString, kindString}, "arrays": {kindArray, kindArray}, "objects": {kindObject, kindObject},
	"iterables": {kindArray, kindObject}, "scalars": {kindNull, kindString}, "values": {kindFalse, kindObject},
}

func (b *binder) plainFunction(name string) piece {
	switch kind, is := kinds[name]; {
	case is:
		return kind
	case name == "not":
		return negation{}
	case name == "empty":
		return nothing{}
	case slices.Contains(linear, name):
		return b.program(name)
	}
	return b.fail()
}

func (b *binder) removal(arg *gojq.Query) piece {
	n := removal{}
	for _, q := range commas(arg) {
		t := q.Term
		if t == nil || t.Type != gojq.TermTypeIndex || len(t.SuffixList) > 0 || len(q.FuncDefs) > 0 {
			return b.fail()
		}
		s := b.step(t.Index)
		if s.encoded == nil {
			return b.fail()
		}
		n.names = append(n.names, s.encoded)
	}
	return n
}

// renaming is for .key |= ({"old": "new", …}[.] // .), the usual way to rename
// fields and to leave all others as they are.
func (b *binder) renaming(arg *gojq.Query) piece {
	o := renamedBy(arg)
	if o == nil {
		return b.fail()
	}
	n := renaming{}
	for _, kv := range o.KeyVals {
		name, ok := constantName(kv)
		if !ok || kv.Val == nil || !literal(kv.Val) || kv.Val.Term.Type != gojq.TermTypeString {
			return b.fail()
		}
		r := rename{encodedName(name), encodedName(kv.Val.Term.Str.Str)}
		for _, other := range n.names {
			if string(other.from) == string(r.from) {
				return b.fail()
			}
		}
		n.names = append(n.names, r)
	}
	return n
}

// renamedBy returns the object of names in .key |= (object[.] // .), or nil.
func renamedBy(q *gojq.Query) *gojq.Object {
	if q.Op != gojq.OpModify || q.Left.String() != ".key" || q.Right.Term == nil ||
		q.Right.Term.Type != gojq.TermTypeQuery || len(q.Right.Term.SuffixList) > 0 {
		return nil
	}
	alt := q.Right.Term.Query
	if alt.Op != gojq.OpAlt || alt.Right.String() != "." || alt.Left.Term == nil || len(alt.FuncDefs) > 0 {
		return nil
	}
	t := alt.Left.Term
	if t.Type != gojq.TermTypeObject || len(t.SuffixList) != 1 || t.SuffixList[0].String() != "[.]" {
		return nil
	}
	return t.Object
}

// growth bounds how many times its input a piece can make of it, all that it makes
// on its way included.
func growth(n piece) int {
	g := 1
	add := func(parts ...piece) {
		g = 0
		for _, part := range parts {
			g = min(g+growth(part), maxGrowth+1)
		}
		g = max(g, 1)
	}
	switch n := n.(type) {
	case path:
		add(n.of)
	case pipe:
		g = min(growth(n.left)*growth(n.right), maxGrowth+1)
	case alternative:
		add(n.left, n.right)
	case object:
		add(n.values...)
	case list:
		var parts []piece
		for _, item := range n.items {
			if item.each == nil {
				parts = append(parts, item.f)
			} else {
				parts = append(parts, pipe{item.each, item.f})
			}
		}
		add(parts...)
	case comparison:
		add(n.left, n.right)
	case logic:
		add(n.left, n.right)
	case choice:
		add(n.cond, n.then, n.otherwise)
	case sum:
		add(n.left, n.right)
	case difference:
		add(n.left)
	case assignment:
		add(here{}, n.value)
	case call:
		g = 6 // \u001f for one byte
	case sentence:
		add(n.parts...)
		g *= 6
	}
	return g
}
