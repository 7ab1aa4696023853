package expr

import (
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var facts = []string{"errors", "height"}

// known are what variables stand for in these tests.
var known = map[string]any{
	"self.name": "n1", "self.class": "kv", "self.version": int64(1), "self.labels": map[string]string{"zone": "a"},
	"self.facts.height":  1200000.0,
	"settled.errors.p50": 0.31, "settled.errors.count": int64(1), "others.errors.p50": 0.01, "others.errors.count": int64(4),
	"class.settled": int64(1), "release.version": int64(2), "classes": map[string]Count{"auth": {Total: 3, Settled: 3}},
}

func value(name string) (any, bool) {
	v, ok := known[name]
	return v, ok
}

func TestEval(t *testing.T) {
	for source, want := range map[string]Answer{
		"self.facts.height >= 1200000.0":                                            {Yes, "self.facts.height is 1200000"},
		"self.facts.height >= 1200001":                                              {No, "self.facts.height is 1200000"},
		"settled.errors.p50 > 2.0 * others.errors.p50 + 0.01":                       {Yes, "others.errors.p50 is 0.01, settled.errors.p50 is 0.31"},
		"self.facts.errors < 1.0":                                                   {None, "self.facts.errors has no value"},
		"self.facts.errors < 1.0 || self.facts.height > 1.0":                        {Yes, "self.facts.errors has no value, self.facts.height is 1200000"},
		"self.facts.errors < 1.0 && class.settled > 5":                              {No, "class.settled is 1, self.facts.errors has no value"},
		"others.height.p95 > 1.0":                                                   {None, "others.height.p95 has no value"},
		`self.labels.zone == "a" && self.name == "n1"`:                              {Yes, `self.name is "n1"`},
		`self.labels.rack == "a"`:                                                   {None, "no such key: rack"},
		`"rack" in self.labels`:                                                     {No, ""},
		`classes["auth"].settled == classes.auth.total`:                             {Yes, ""},
		`classes["none"].settled > 0`:                                               {None, "no such key: none"},
		"release.version == 2 && self.version < release.version":                    {Yes, "release.version is 2, self.version is 1"},
		"class.settled / (class.settled - 1) > 0":                                   {None, "division by zero"},
		`self.name in ["n1", "n2"] && self.name.startsWith("n")`:                    {Yes, `self.name is "n1"`},
		`self.labels.exists_one(k, self.labels[k] == "a") && has(self.labels.zone)`: {Yes, ""},
		`classes.all(c, classes[c].held == 0) && "auth" in classes`:                 {Yes, ""},
		"(class.settled > 1 ? [1] : [2]).exists(x, x == 2)":                         {Yes, "class.settled is 1"},
		"[1, 2].exists(x, x == class.settled)":                                      {Yes, "class.settled is 1"},
		"others.errors.count == 4 && double(others.errors.count)>3.0":               {Yes, "others.errors.count is 4"},
	} {
		e, err := Compile(source, facts)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got := e.Eval(value); got != want {
			t.Errorf("%s: %+v, want %+v", source, got, want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for source, want := range map[string]struct {
		line, column int
		text         string
	}{
		"":                               {1, 1, "Syntax error"},
		"1.0":                            {1, 1, "want bool"},
		"self.facts.hight > 1.0":         {1, 11, "did you mean 'self.facts.height'"},
		"class.settled > 0 &&\n  foo(1)": {2, 6, "undeclared reference to 'foo'"},
		"2 * others.errors.p50 > 1.0":    {1, 3, "no matching overload"},
		"settled.errors.p51 > 1.0":       {1, 15, "undeclared reference"},
		"classes.auth.setled > 0":        {1, 13, "undefined field 'setled'"},
		`self.labels.zone > 1`:           {1, 18, "no matching overload"},
		strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200):                                                                  {1, 1, ""},
		"true || " + strings.Repeat("x", MaxBytes):                                                                                    {1, 1, "want at most 2048"},
		"[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, a+b+c+d > 3))))": {1, 1, "it may cost"},
		"self.labels.all(a, self.labels.all(b, self.labels.all(c, a != b || b != c)))":                                                {1, 1, "it may cost"},

		// What would cost more than CEL counts.
		"[[1]]" + strings.Repeat(".map(a, [a,a,a])", 30) + ".map(a, a == a)[0]": {1, 91, "undeclared reference to 'a'"},
		"[1].map(x, x)[0] == 1":            {1, 8, "undeclared reference to 'map'"},
		"[1].filter(x, x > 1).size() == 1": {1, 11, "undeclared reference to 'filter'"},
		"[[1,1]].exists(a, [[a,a]].exists(b, [[b,b]].exists(c, c.size() > 0)))": {1, 1, "it is a list(list(int))"},
		"class.settled > 1 && [[1]].size() == 1":                                {1, 22, "it is a list(list(int))"},
		"[1,2] == [1,2]":                                                        {1, 7, "it compares a list(int)"},
		"[1] in [[1]]":                                                          {1, 5, "it compares a list(int)"},
		"classes != classes":                                                    {1, 9, "it compares a map(string, expr.Count)"},
		"classes.auth == classes.kv":                                            {1, 14, "it compares a expr.Count"},
		"[classes.auth].exists(c, c.held > 0)":                                  {1, 1, "it is a list(expr.Count)"},
		"{'a': 1}.a == 1":                                                       {1, 1, "no maps and no objects"},
		"expr.Count{total: 1}.total == 1":                                       {1, 11, "no maps and no objects"},
		"[dyn(1)].exists(a, [dyn(a)].exists(b, true))":                          {1, 1, "it is a list(dyn)"},
		"dyn(1) == 'x'":                                                         {1, 8, "it compares a dyn"},
		"dyn(1) < 2":                                                            {1, 4, "dyn gives a dyn"},
		"['xx'].exists(a, [a + a].exists(b, [b + b].exists(c, c != '')))": {1, 21, "joins no texts"},
		"([1] + [1]).size() == 2": {1, 6, "joins no texts and no lists"},
		"b'x' < b'y'":             {1, 1, "a bytes is of no use"},
		"timestamp('2026-01-01T00:00:00Z') < timestamp('2027-01-01T00:00:00Z')": {1, 10, "timestamp gives a google.protobuf.Timestamp"},
		"type(1) == int":                      {1, 9, "it compares a type(int)"},
		`self.name.matches("(a{0,40}){25}b")`: {1, 18, "no patterns: use startsWith"},
	} {
		_, err := Compile(source, facts)
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(e.Text, want.text) || want.text != "" && (e.Line != want.line || e.Column != want.column) {
			t.Errorf("%.60s: %v, want %+v", source, err, want)
		}
	}
}

// TestMissingIsNeverYes: a fact that nobody has said makes no condition true that needs it.
func TestMissingIsNeverYes(t *testing.T) {
	for _, source := range []string{
		"self.facts.errors < 1e9", "!(self.facts.errors > 1.0)", "self.facts.errors == self.facts.errors",
		"self.facts.errors != 0.0", "self.facts.errors < 1.0 ? true : true", "[self.facts.errors].size() == 1",
	} {
		e, err := Compile(source, facts)
		if err != nil {
			t.Fatal(source, err)
		}
		if got := e.Eval(value); got.Value != None || got.Text == "" {
			t.Errorf("%s: %+v", source, got)
		}
	}
}

func TestGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Float64Range(-1e300, 1e300), 1, 50).Draw(t, "numbers")
		gone := rapid.SliceOfN(rapid.Float64Range(-1e300, 1e300), 0, 20).Draw(t, "gone")
		var g, again Group
		for _, x := range append(gone, all...) {
			g.Add(x)
		}
		for _, x := range gone {
			g.Remove(x)
		}
		for i := range all {
			again.Add(all[len(all)-1-i])
		}
		least, most, p50, p95 := of(t, g, "min"), of(t, g, "max"), of(t, g, "p50"), of(t, g, "p95")
		if mean := of(t, g, "mean"); !(least <= p50 && p50 <= p95 && p95 <= most && least <= mean && mean <= most) {
			t.Fatal(least, p50, p95, most, mean)
		}
		below, upTo := 0, 0
		for _, x := range all {
			if x < p95 {
				below++
			}
			if x <= p95 {
				upTo++
			}
		}
		if n := len(all); 100*upTo < 95*n || 100*below >= 95*n {
			t.Fatalf("p95 of %v is %v", all, p95)
		}
		for _, what := range aggregates {
			if of(t, g, what) != of(t, again, what) {
				t.Fatalf("%s depends on the sequence", what)
			}
		}
	})
	var none Group
	if n, ok := none.Value("count"); !ok || n != int64(0) {
		t.Error("none are not 0", n)
	}
	for _, what := range aggregates {
		if _, ok := none.Value(what); ok {
			t.Errorf("nothing has a %s", what)
		}
	}
}

func of(t *rapid.T, g Group, what string) float64 {
	x, ok := g.Value(what)
	if !ok || math.IsNaN(x.(float64)) {
		t.Fatal(what, x)
	}
	return x.(float64)
}

func FuzzCompile(f *testing.F) {
	for _, source := range []string{
		"self.facts.height >= 1200000.0", "settled.errors.p50 > 2.0 * others.errors.p50 + 0.01", `classes["auth"].settled == 3`,
		`self.labels.zone.startsWith("a")`, "[1,2].exists(x, x == class.settled)", "has(self.labels.zone)", "timestamp('x') < timestamp('y')",
		`"a".format([1])`, "{'a': 1}.a == 1 ? true : false", "b'x' == b'y'", "dyn(1) == 'x'", "type(1) == int", "expr.Count{total: 1}.total == 1",
	} {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		e, err := Compile(source, facts)
		if err != nil {
			if at, ok := errors.AsType[*Error](err); !ok || at.Line < 1 || at.Column < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		if a := e.Eval(value); a != e.Eval(value) {
			t.Fatalf("%q: %v, and another the next time", source, a)
		}
		if a := e.Eval(func(string) (any, bool) { return nil, false }); a.Value != None && a.Value != Yes && a.Value != No {
			t.Fatal(a)
		}
	})
}
