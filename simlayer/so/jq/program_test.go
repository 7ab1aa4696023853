package jq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/itchyny/gojq"
	"pgregory.net/rapid"
)

// names are few, so that random expressions meet random bodies.
var names = []string{"a", "b", "c", "key", "é", "x-y", `q"q`, "\x7f"}

// jsonText draws JSON texts as callers may write them: with space, escapes, names
// that come twice, and numbers of any form.
func jsonText(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		space := rapid.SampledFrom([]string{"", "", " ", "\n\t"}).Draw(t, "space")
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds).Draw(t, "kind") {
		case 0:
			return space + rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
		case 1:
			return space + rapid.SampledFrom([]string{"0", "-0", "1", "1.0", "1.50", "-7", "1e3", "1E+2", "12345678901234567890.10", "9007199254740993", "1e400", "0.1"}).Draw(t, "number")
		case 2, 3, 4:
			return space + jsonString().Draw(t, "string")
		case 5:
			items := rapid.SliceOfN(jsonText(depth-1), 0, 4).Draw(t, "items")
			return "[" + strings.Join(items, space+",") + space + "]"
		default:
			var members []string
			for range rapid.IntRange(0, 5).Draw(t, "members") {
				members = append(members, jsonName().Draw(t, "name")+space+":"+jsonText(depth-1).Draw(t, "value"))
			}
			return space + "{" + space + strings.Join(members, ","+space) + "}" + space
		}
	})
}

func jsonString() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{`""`, `"a"`, `"text/plain"`, `"key"`, `"\u0061"`, `"é\n\/"`, `"\ud83d\ude00<&>"`, `"` + "\u2028\x7f" + `"`, `"12"`, `"aGk="`})
}

func jsonName() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{`"a"`, `"b"`, `"c"`, `"key"`, `"é"`, `"x-y"`, `"q\"q"`, `"\u0061"`, `"` + "\x7f" + `"`})
}

// programs draws programs of the bounded form.
func programs(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		name := rapid.SampledFrom(names).Draw(t, "name")
		quoted := string(encodedName(name))
		pick := func(list ...string) string { return rapid.SampledFrom(list).Draw(t, "pick") }
		leaf := []string{".", ".a", ".body", ".body.a", ".body." + quoted, ".[" + quoted + "]", ".body.a.b?", ".body[1]", ".a[0]", `"text"`, "1.0", "null", "true", "[]", `["a", 1]`,
			".params.p", ".query.k", ".headers[\"x-a\"]", ".method", ".steps", ".nosuch"}
		if depth == 0 {
			return rapid.SampledFrom(leaf).Draw(t, "leaf")
		}
		sub := func() string { return programs(depth-1).Draw(t, "sub") }
		switch rapid.IntRange(0, 16).Draw(t, "form") {
		case 0, 1, 2:
			return rapid.SampledFrom(leaf).Draw(t, "leaf")
		case 3, 4:
			return fmt.Sprintf("{%s: (%s), b2: (%s), c}", quoted, sub(), sub())
		case 5:
			return fmt.Sprintf("[(%s), (%s)]", sub(), sub())
		case 6, 7:
			return fmt.Sprintf("(%s) | (%s)", sub(), sub())
		case 8:
			return fmt.Sprintf("(%s) // (%s)", sub(), sub())
		case 9:
			return fmt.Sprintf("(%s) %s (%s)", sub(), pick("==", "!=", "<", "<=", ">", ">="), sub())
		case 10:
			return fmt.Sprintf("(%s) %s (%s)", sub(), pick("and", "or"), sub())
		case 11:
			return fmt.Sprintf("if (%s) then (%s) else (%s) end", sub(), sub(), sub())
		case 12:
			return fmt.Sprintf("(%s) | %s", sub(), pick("not", "empty", "objects", "strings", "values", "scalars", "keys", "length", "type", "ascii_downcase",
				"tostring", "tonumber", `startswith("a")`, `endswith("y")`, `has("a")`, `ltrimstr("t")`, `split("/")`, "@base64", "select(. == \"a\")"))
		case 13:
			return fmt.Sprintf("(%s) + (%s)", sub(), sub())
		case 14:
			return fmt.Sprintf("(%s) | %s", sub(), pick("del(.a)", "del(.a, .b)", `. + {b: .a} | del(.a)`, `.b = .a | del(.a)`, ".a |= tostring", `.["b"] = 1`,
				`with_entries(.key |= ({a: "b"}[.] // .))`, `with_entries(.key |= ({a: "b", "b": "a"}[.] // .))`))
		case 15:
			return fmt.Sprintf("(%s) | %s", sub(), pick("map(.a)", "map({k: .a, v: .})", "map(select(.a))", "[.[] | tostring]", "[.a[], 1]", "keys - [\"a\", \"b\"]"))
		default:
			return fmt.Sprintf(`"x\(%s)y"`, sub())
		}
	})
}

// message stands for what rules show their programs: an object of the caller's, with
// the text that was read as its body.
type message struct{ body *Document }

func (s message) parts() map[string]any {
	return map[string]any{
		"method": "PUT", "path": "/x", "params": map[string]any{"p": "text/plain"},
		"query": map[string]any{"k": "a"}, "headers": map[string]any{"x-a": "key"},
	}
}

func (s message) Field(name string) (Value, error) {
	if name == "body" {
		return s.body.Value(), nil
	}
	return Of(s.parts()[name]), nil
}

func (s message) Tree() (any, error) {
	tree := s.parts()
	var err error
	tree["body"], err = s.body.Tree()
	return tree, err
}

// differs runs a program both ways over a message with this body. plant may put a
// fault into the bounded form. gaveUp says that gojq decided both times.
func differs(src, text string, plant func(piece) piece) (difference string, gaveUp bool) {
	p, err := Compile(src)
	if err != nil {
		return fmt.Sprintf("%s does not compile: %v", src, err), false
	}
	if !p.Bounded() {
		return "", true
	}
	if plant != nil {
		p.fast = plant(p.fast)
	}
	m := NewRun(context.Background(), &Memory{})
	var body Document
	if err := body.Read([]byte(text), m.memory); err != nil {
		return fmt.Sprintf("%s is not read: %v", text, err), false
	}
	in := In(message{&body})
	_, err = p.fast.eval(&m, in)
	gaveUp = err == errGiveUp
	fast, fastErr := p.JSON(&m, in)
	slow := &Program{code: p.code}
	want, wantErr := slow.JSON(&m, in)
	if fmt.Sprint(fastErr) != fmt.Sprint(wantErr) || !sameJSON(fast, want) {
		return fmt.Sprintf("%s over %q:\n bounded %s, %v\n gojq    %s, %v", src, text, fast, fastErr, want, wantErr), gaveUp
	}
	v, ok, err1 := p.Eval(&m, in)
	w, okToo, err2 := slow.Eval(&m, in)
	if ok != okToo || fmt.Sprint(err1) != fmt.Sprint(err2) || v.True() != w.True() || printed(v) != printed(w) {
		return fmt.Sprintf("%s over %q: bounded %v %v %v, gojq %v %v %v", src, text, v, ok, err1, w, okToo, err2), gaveUp
	}
	return "", gaveUp
}

// sameJSON compares JSON values, numbers by their text.
func sameJSON(a, b []byte) bool {
	v, err1 := Decode(a)
	w, err2 := Decode(b)
	return err1 == nil && err2 == nil && (len(a) == 0) == (len(b) == 0) && reflect.DeepEqual(v, w)
}

func printed(v Value) string {
	tree, err := v.Tree()
	if err != nil {
		return err.Error()
	}
	text, _ := gojq.Marshal(tree)
	return string(text)
}

func TestBoundedIsGojq(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src, text := programs(3).Draw(t, "program"), jsonText(3).Draw(t, "body")
		if difference, _ := differs(src, text, nil); difference != "" {
			t.Fatal(difference)
		}
	})
	// What it draws must be decided by the bounded form often enough to show much.
	const tried = 1000
	byItself := 0
	for seed := range tried {
		if _, gaveUp := differs(programs(3).Example(seed), jsonText(3).Example(seed), nil); !gaveUp {
			byItself++
		}
	}
	if byItself < tried/4 {
		t.Errorf("the bounded form decided %d of %d: the test shows little", byItself, tried)
	}
}

// Faults that the test above must find.
type deafAlternative struct{ alternative }

func (n deafAlternative) eval(m *Run, in Value) (Value, error) {
	x, err := n.left.eval(m, in)
	if err == nil && x.kind() == kindNull { // false is let through
		return n.right.eval(m, in)
	}
	return x, err
}

type keepingRemoval struct{ removal }

func (n keepingRemoval) eval(m *Run, in Value) (Value, error) {
	return removal{n.names[1:]}.eval(m, in)
}

type byteComparison struct{ comparison }

func (n byteComparison) eval(m *Run, in Value) (Value, error) {
	l, r, err := both(m, n.left, n.right, in)
	return Value{v: string(l.raw) == string(r.raw)}, err // "a" is not "\u0061"
}

// planted replaces pieces in the places that programs puts them.
func planted(swap func(piece) piece) func(piece) piece {
	var walk func(p piece) piece
	walk = func(p piece) piece {
		switch q := p.(type) {
		case pipe:
			p = pipe{walk(q.left), walk(q.right)}
		case object:
			for i := range q.values {
				q.values[i] = walk(q.values[i])
			}
		case choice:
			p = choice{walk(q.cond), walk(q.then), walk(q.otherwise)}
		}
		return swap(p)
	}
	return walk
}

func TestBoundedIsGojqCatches(t *testing.T) {
	for name, swap := range map[string]func(piece) piece{
		"false is no value": func(p piece) piece {
			if a, ok := p.(alternative); ok {
				return deafAlternative{a}
			}
			return p
		},
		"del leaves one": func(p piece) piece {
			if r, ok := p.(removal); ok {
				return keepingRemoval{r}
			}
			return p
		},
		"escapes compare as bytes": func(p piece) piece {
			if c, ok := p.(comparison); ok && c.op.String() == "==" {
				return byteComparison{c}
			}
			return p
		},
		"names are not sorted out": func(p piece) piece {
			if s, ok := p.(sum); ok {
				return pipe{here{}, s.right}
			}
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 20_000 {
				src, text := programs(3).Example(seed), jsonText(3).Example(seed)
				if difference, _ := differs(src, text, planted(swap)); difference != "" {
					return
				}
			}
			t.Error("the fault was not found")
		})
	}
}

// What the scanner takes, the parser takes too, as the same value.
func scansWrongly(data []byte) string {
	d, ok := scan(data, nil)
	want, err := Decode(data)
	if !ok {
		return ""
	}
	if err != nil {
		return fmt.Sprintf("%q was taken; it is none: %v", data, err)
	}
	got, err := Decode(d.raw)
	if err != nil || !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("%q became %v, %v", data, got, err)
	}
	members, isObject := want.(map[string]any)
	if !isObject {
		if len(d.members) > 0 {
			return fmt.Sprintf("%q has members", data)
		}
		return ""
	}
	var direct []member
	for name, value := range elements(d.raw) {
		direct = append(direct, member{name, value})
	}
	if len(members) != len(d.members) || !reflect.DeepEqual(direct, d.members) && len(direct) > 0 {
		return fmt.Sprintf("%q has members %q, and %q when read again", data, d.members, direct)
	}
	for _, m := range d.members {
		var name string
		if json.Unmarshal(m.name, &name) != nil {
			return fmt.Sprintf("%q has a member %q", data, m.name)
		}
		if v, err := Decode(m.value); err != nil || !reflect.DeepEqual(v, members[name]) {
			return fmt.Sprintf("%q: %q is %v", data, name, v)
		}
	}
	return ""
}

func TestScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := []byte(jsonText(4).Draw(t, "body"))
		if rapid.Bool().Draw(t, "broken") && len(data) > 0 {
			at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
			data = slices.Replace(data, at, at+1, []byte(rapid.SampledFrom([]string{"", ",", "}", "]", `"`, "\\", "\x00", "\xff", "0", "-", ".", "e", " "}).Draw(t, "by"))...)
		}
		if fault := scansWrongly(data); fault != "" {
			t.Fatal(fault)
		}
	})
}

func FuzzScan(f *testing.F) {
	for _, text := range []string{
		"", " ", "null", `{"a":1,"b":[true,false,{"c":"\u00e9"}]}`, `{"a":1,"a":2}`, `{"\u0061":1,"a":2}`, `"\ud83d"`, `"\ud83d\ude00"`,
		"01", "-", "1.", "1e", "[1,]", `{"a":}`, `{"a" 1}`, "{,}", "\xff", "\"\x01\"", "nul", "[[[[", strings.Repeat("[", maxScanDepth+2) + strings.Repeat("]", maxScanDepth+2),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if fault := scansWrongly(data); fault != "" {
			t.Fatal(fault)
		}
	})
}

// Programs that nobody thought of.
func FuzzBounded(f *testing.F) {
	for seed := range 100 {
		f.Add(programs(3).Example(seed), jsonText(3).Example(seed))
	}
	f.Fuzz(func(t *testing.T, src, text string) {
		var body Document
		if p, err := Compile(src); err != nil || !p.Bounded() || len(src) > 1000 || body.Read([]byte(text), nil) != nil {
			t.Skip()
		}
		if difference, _ := differs(src, text, nil); difference != "" {
			t.Fatal(difference)
		}
	})
}

// What is not bounded is left to gojq; what authors write is bounded.
func TestBound(t *testing.T) {
	for src, want := range map[string]bool{
		"{key: .body.key, value: .body.value}":                                            true,
		"if .body == {} then [] else {a: [1, \"b\"]} end":                                 true,
		".body | with_entries(.key |= ({value: \"data\", data: \"value\"}[.] // .))":      true,
		".body.content_type // \"\" | ascii_downcase | . != \"\" and . != \"text/plain\"": true,
		".body | objects | keys - [\"value\", \"if_revision\"] != []":                     true,
		".body | . + {b: .a} | del(.a)":                                                   true,
		".body.items | map({k: .key, n: .value.n})":                                       true,
		".steps.each[0].body.value":                                                       true,
		"if .body.a then .body.b elif .body.c == null then 1 else {x: .body.d} end":       true,
		"\"a \\(.params.key) b\"":                                                         true,
		"range(3)":                                                                        false,
		". as $x | $x":                                                                    false,
		"def f: f; f":                                                                     false,
		"reduce .body[] as $x (0; . + $x)":                                                false,
		"[limit(3; repeat(1))]":                                                           false,
		".body * 100":                                                                     false,
		".. | numbers":                                                                    false,
		"{(.body.a): 1}":                                                                  false,
		".body.a, .body.b":                                                                false,
		"[paths]":                                                                         false,
		strings.Repeat("[., .] | ", 11) + ".":                                             false, // 2048 times the body
		strings.Repeat("tojson | ", 5) + ".":                                              false,
		strings.Repeat("[", 3000) + strings.Repeat("]", 3000):                             false,
	} {
		p, err := Compile(src)
		if err != nil && len(src) < 1000 {
			t.Errorf("%s: %v", src, err)
		} else if err == nil && p.Bounded() != want {
			t.Errorf("%.80s: bounded %v", src, !want)
		}
	}
}

// What passes between programs is not their time.
func TestTimeBetweenIsNotCounted(t *testing.T) {
	p, err := Compile("[range(3)]") // gojq's
	if err != nil {
		t.Fatal(err)
	}
	m := NewRun(context.Background(), nil)
	if _, _, err := p.Eval(&m, Of(nil)); err != nil || m.left <= 0 || m.left >= MaxDuration {
		t.Fatalf("%v left, %v", m.left, err)
	}
	m.left = 0
	if _, _, err := p.Eval(&m, Of(nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want the end of the time", err)
	}
}
