package jq

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

// bound brings a jq program into the bounded form, or returns nil where it has
// none: the program may then do anything that jq can.
//
// The form is that of programs that yield at most one value in a time and with a
// memory that are linear in what they look at: paths, objects and arrays made of
// such, comparisons, conditions, and a list of functions. There are no variables,
// no functions of the program's own and no loops but map.
func bound(src string) piece {
	query, err := gojq.Parse(src) // anew: gojq's compiler changes what it reads
	if err != nil {
		return nil
	}
	b := &binder{}
	n := b.query(query)
	if b.unbound || b.pieces > maxBoundedPieces || growth(n) > maxGrowth {
		return nil
	}
	return n
}

// binder turns jq's syntax into pieces.
type binder struct {
	pieces  int
	unbound bool // something has no bounded form
}

func (b *binder) fail() piece {
	b.unbound = true
	return nothing{}
}

func (b *binder) query(q *gojq.Query) piece {
	if q == nil || q.Term == nil && (q.Left == nil || q.Right == nil) { // an empty program
		return b.fail()
	}
	if b.pieces++; b.unbound || b.pieces > maxBoundedPieces || q.Meta != nil || len(q.Imports)+len(q.FuncDefs)+len(q.Patterns) > 0 {
		return b.fail()
	}
	if literal(q) {
		return b.constant(q)
	}
	if q.Term != nil {
		return b.term(q.Term, q.Term.SuffixList)
	}
	switch q.Op {
	case gojq.OpAssign, gojq.OpModify:
		return b.assignment(q)
	case gojq.OpSub:
		if right, ok := b.query(q.Right).(constant); ok && right.val.kind() == kindArray {
			return difference{b.query(q.Left), right, b.program(".[0] - .[1]")}
		}
		return b.fail()
	}
	left, right := b.query(q.Left), b.query(q.Right)
	switch q.Op {
	case gojq.OpPipe:
		if _, ok := right.(constant); ok {
			// gojq 0.12.20 breaks "(. or .) | 1" where it optimises. Nobody needs it.
			return b.fail()
		}
		return pipe{left, right}
	case gojq.OpAlt:
		return alternative{left, right}
	case gojq.OpAnd, gojq.OpOr:
		return logic{q.Op == gojq.OpOr, left, right}
	case gojq.OpEq, gojq.OpNe, gojq.OpLt, gojq.OpLe, gojq.OpGt, gojq.OpGe:
		return comparison{q.Op, left, right}
	case gojq.OpAdd:
		return sum{left, right, b.program(".[0] + .[1]")}
	}
	return b.fail()
}

// literal reports whether q is a value that stands there.
func literal(q *gojq.Query) bool {
	if q.Term == nil || len(q.FuncDefs)+len(q.Imports)+len(q.Patterns) > 0 || q.Meta != nil || len(q.Term.SuffixList) > 0 {
		return false
	}
	switch t := q.Term; t.Type {
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
		return true
	case gojq.TermTypeString:
		return t.Str.Queries == nil
	case gojq.TermTypeUnary:
		return literal(&gojq.Query{Term: t.Unary.Term})
	case gojq.TermTypeArray:
		return t.Array.Query == nil || !slices.ContainsFunc(commas(t.Array.Query), func(q *gojq.Query) bool { return !literal(q) })
	case gojq.TermTypeObject:
		return len(t.Object.KeyVals) == 0
	}
	return false
}

func (b *binder) constant(q *gojq.Query) piece {
	return b.value(b.program(q.String()))
}

// value runs a program without input.
func (b *binder) value(p call) piece {
	if b.unbound {
		return nothing{}
	}
	v, ok := p.code.Run(nil).Next()
	if _, failed := v.(error); failed || !ok {
		return b.fail()
	}
	if f, ok := v.(float64); ok && math.IsInf(f, 0) {
		return b.fail()
	}
	d := normalDocument(v)
	if d == nil {
		return b.fail()
	}
	return constant{Value{raw: d.raw}}
}

// program compiles what is left to gojq.
func (b *binder) program(src string) call {
	query, err := gojq.Parse(src)
	if err == nil {
		var code *gojq.Code
		if code, err = gojq.Compile(query); err == nil {
			return call{code}
		}
	}
	b.unbound = true
	return call{}
}

// commas returns what stands between the commas of q.
func commas(q *gojq.Query) []*gojq.Query {
	var list []*gojq.Query
	for q.Term == nil && q.Op == gojq.OpComma && len(q.FuncDefs) == 0 {
		list = append(list, q.Right)
		q = q.Left
	}
	list = append(list, q)
	slices.Reverse(list)
	return list
}

// term is t with only these of its suffixes.
func (b *binder) term(t *gojq.Term, suffixes []*gojq.Suffix) piece {
	if b.pieces++; b.unbound {
		return b.fail()
	}
	if len(suffixes) > 0 {
		return b.path(t, suffixes)
	}
	switch t.Type {
	case gojq.TermTypeIdentity:
		return here{}
	case gojq.TermTypeIndex:
		return b.path(t, nil)
	case gojq.TermTypeQuery:
		return b.query(t.Query)
	case gojq.TermTypeObject:
		return b.object(t.Object)
	case gojq.TermTypeArray:
		return b.list(t.Array.Query)
	case gojq.TermTypeIf:
		return b.choice(t.If)
	case gojq.TermTypeFunc:
		return b.function(t.Func)
	case gojq.TermTypeString:
		return b.sentence(t.Str)
	case gojq.TermTypeFormat:
		if t.Str == nil && slices.Contains(linearFormats, t.Format) {
			return b.program(t.Format)
		}
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
		return b.constant(&gojq.Query{Term: &gojq.Term{Type: t.Type, Number: t.Number}})
	}
	return b.fail()
}

func (b *binder) path(t *gojq.Term, suffixes []*gojq.Suffix) piece {
	n := path{of: here{}}
	if t.Type == gojq.TermTypeIndex {
		n.steps = append(n.steps, b.step(t.Index))
	} else {
		n.of = b.term(t, nil)
	}
	for _, s := range suffixes {
		switch {
		case s.Index != nil:
			n.steps = append(n.steps, b.step(s.Index))
		case !s.Optional:
			return b.fail()
		}
		// What ? is for makes a path give up, so gojq decides what it does.
	}
	return n
}

func (b *binder) step(i *gojq.Index) pathStep {
	var name *gojq.String
	switch {
	case i.Name != "":
		return named(i.Name)
	case i.Str != nil:
		name = i.Str
	case !i.IsSlice && i.Start.Term != nil && literal(i.Start):
		if i.Start.Term.Type == gojq.TermTypeNumber {
			n, err := strconv.Atoi(i.Start.Term.Number)
			if err == nil && n <= maxBoundedIndex {
				return pathStep{index: n}
			}
		}
		name = i.Start.Term.Str
	}
	if name == nil || name.Queries != nil {
		b.unbound = true
		return pathStep{}
	}
	return named(name.Str)
}

func named(name string) pathStep { return pathStep{name: name, encoded: encodedName(name)} }

// encodedName is a name as the only JSON text that names are written in.
func encodedName(name string) []byte {
	text, _ := gojq.Marshal(name) // strings always can be
	return text
}

// constantName returns the name of an object's member where it stands there.
func constantName(kv *gojq.ObjectKeyVal) (name string, ok bool) {
	if s := kv.KeyString; s != nil {
		return s.Str, s.Queries == nil
	}
	return kv.Key, kv.Key != "" && !strings.ContainsAny(kv.Key[:1], "$@")
}

func (b *binder) object(o *gojq.Object) piece {
	type entry struct {
		name  string
		value piece
	}
	var entries []entry
	for _, kv := range o.KeyVals {
		name, ok := constantName(kv)
		if !ok {
			return b.fail()
		}
		e := entry{name: name}
		if kv.Val == nil {
			e.value = path{here{}, []pathStep{named(name)}}
		} else {
			e.value = b.query(kv.Val)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	n := object{}
	for i, e := range entries {
		if i > 0 && entries[i-1].name == e.name {
			return b.fail()
		}
		n.names = append(n.names, append(encodedName(e.name), ':'))
		n.values = append(n.values, e.value)
	}
	return n
}

func (b *binder) list(q *gojq.Query) piece {
	n := list{}
	if q == nil {
		return n
	}
	for _, one := range commas(q) {
		n.items = append(n.items, b.item(one))
	}
	return n
}

// item is one value of an array, or path[], or path[] | f.
func (b *binder) item(q *gojq.Query) listItem {
	source, f := q, piece(here{})
	if q.Term == nil && q.Op == gojq.OpPipe && len(q.FuncDefs)+len(q.Patterns) == 0 {
		if t := q.Left.Term; t != nil && iterates(t) {
			source, f = q.Left, b.query(q.Right)
		}
	}
	if t := source.Term; t != nil && len(source.FuncDefs) == 0 && iterates(t) {
		return listItem{b.term(t, t.SuffixList[:len(t.SuffixList)-1]), f}
	}
	return listItem{nil, b.query(q)}
}

func iterates(t *gojq.Term) bool {
	n := len(t.SuffixList)
	return n > 0 && t.SuffixList[n-1].Iter
}

func (b *binder) choice(i *gojq.If) piece {
	n := choice{cond: b.query(i.Cond), then: b.query(i.Then), otherwise: here{}}
	if i.Else != nil {
		n.otherwise = b.query(i.Else)
	}
	for _, e := range slices.Backward(i.Elif) {
		n.otherwise = choice{b.query(e.Cond), b.query(e.Then), n.otherwise}
	}
	return n
}

// sentence is a string with paths in it. What else may stand there is left to
// gojq.
func (b *binder) sentence(s *gojq.String) piece {
	n := sentence{text: b.program("tostring")}
	for _, q := range s.Queries {
		part := b.query(q)
		switch part.(type) {
		case path, here, constant:
		default:
			return b.fail()
		}
		n.parts = append(n.parts, part)
	}
	return n
}

// assignment is .name = value or .name |= value.
func (b *binder) assignment(q *gojq.Query) piece {
	t := q.Left.Term
	if t == nil || t.Type != gojq.TermTypeIndex || len(t.SuffixList) > 0 {
		return b.fail()
	}
	name := b.step(t.Index)
	if name.encoded == nil {
		return b.fail()
	}
	return assignment{name, b.query(q.Right), q.Op == gojq.OpModify}
}
