package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// caseCounter counts what tests try, by their source: the entries of the tables that they
// go over, their named subtests, the files and corpora that they read. It counts too little
// rather than too much: loops within loops add up, tables that are computed count once, and
// an entry counts only where the loop over it looks at it and can fail.
type caseCounter struct {
	root     string // of the repository
	packages map[string]*testPackage
}

// testPackage is what a folder's test files declare.
type testPackage struct {
	dir   string
	funcs map[string]*ast.FuncDecl
	vars  map[string]ast.Expr
}

// errNoTest says that a package has no test of a name.
var errNoTest = errors.New("there is no such test")

func (c *caseCounter) load(path string) (*testPackage, error) {
	if p, ok := c.packages[path]; ok {
		return p, nil
	}
	p := &testPackage{dir: filepath.Join(c.root, path), funcs: map[string]*ast.FuncDecl{}, vars: map[string]ast.Expr{}}
	files, err := filepath.Glob(filepath.Join(p.dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = p.add(file, text)
		}
		if err != nil {
			return nil, err
		}
	}
	if c.packages == nil {
		c.packages = map[string]*testPackage{}
	}
	c.packages[path] = p
	return p, nil
}

// add takes in a file, of whatever system.
func (p *testPackage) add(name string, text []byte) error {
	f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				p.funcs[d.Name.Name] = d
			}
		case *ast.GenDecl:
			collectSpecs(d, p.vars)
		}
	}
	return nil
}

func collectSpecs(d *ast.GenDecl, into map[string]ast.Expr) {
	for _, s := range d.Specs {
		if v, ok := s.(*ast.ValueSpec); ok && len(v.Names) == len(v.Values) {
			for i, name := range v.Names {
				into[name.Name] = v.Values[i]
			}
		}
	}
}

// count returns how many cases a test has, at least one.
func (c *caseCounter) count(path, test string) (int, error) {
	p, err := c.load(path)
	if err != nil {
		return 0, err
	}
	f := p.funcs[test]
	if f == nil || f.Body == nil {
		return 0, errNoTest
	}
	if len(f.Body.List) == 0 || skips(f.Body.List[0]) {
		return 0, fmt.Errorf("%s: %s tries nothing", path, test)
	}
	known := map[string]ast.Expr{}
	n := 0
	ast.Inspect(f.Body, func(x ast.Node) bool {
		switch x := x.(type) {
		case *ast.DeclStmt:
			if d, ok := x.Decl.(*ast.GenDecl); ok {
				collectSpecs(d, known)
			}
		case *ast.AssignStmt:
			for i, to := range x.Lhs {
				if name, ok := to.(*ast.Ident); ok {
					known[name.Name] = nil
					if len(x.Lhs) == len(x.Rhs) {
						known[name.Name] = x.Rhs[i]
					}
				}
			}
		case *ast.RangeStmt:
			if looksAtAll(x) {
				n += p.entries(x.X, known)
			}
		case *ast.CallExpr:
			n += p.named(x)
		}
		return true
	})
	corpus, err := os.ReadDir(filepath.Join(p.dir, "testdata/fuzz", test))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	return max(n+len(corpus), 1), nil
}

// skips reports a statement that skips the test whatever holds.
func skips(s ast.Stmt) bool {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := e.X.(*ast.CallExpr)
	return ok && strings.HasPrefix(callee(call), "Skip")
}

// callee is the name of what is called, without what it is of.
func callee(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.SelectorExpr:
		return f.Sel.Name
	case *ast.Ident:
		return f.Name
	}
	return ""
}

// looksAtAll reports whether a loop looks at what it goes over, and can fail.
func looksAtAll(r *ast.RangeStmt) bool {
	names := map[string]bool{}
	for _, e := range []ast.Expr{r.Key, r.Value} {
		if name, ok := e.(*ast.Ident); ok && name.Name != "_" {
			names[name.Name] = true
		}
	}
	looks, fails := false, false
	ast.Inspect(r.Body, func(x ast.Node) bool {
		switch x := x.(type) {
		case *ast.Ident:
			looks = looks || names[x.Name]
		case *ast.CallExpr:
			switch callee(x) {
			case "Error", "Errorf", "Fatal", "Fatalf", "Fail", "FailNow", "Run", "Add": // Add is a fuzz test's
				fails = true
			}
			for _, arg := range x.Args {
				if name, ok := arg.(*ast.Ident); ok && name.Name == "t" {
					fails = true // a helper
				}
			}
		}
		return true
	})
	return looks && fails
}

// entries is how many entries a loop goes over, as far as they are written out.
func (p *testPackage) entries(e ast.Expr, known map[string]ast.Expr) int {
	switch e := e.(type) {
	case *ast.CompositeLit:
		return len(e.Elts)
	case *ast.Ident:
		value, local := known[e.Name]
		if !local {
			value = p.vars[e.Name]
		}
		if _, again := value.(*ast.Ident); again || value == nil {
			return 0
		}
		return p.entries(value, nil)
	case *ast.CallExpr:
		switch callee(e) {
		case "Sorted", "Keys", "Values", "Collect":
			if len(e.Args) == 1 {
				return p.entries(e.Args[0], known)
			}
		case "Fields":
			return len(strings.Fields(literal(e.Args, 0)))
		}
	}
	return 0
}

// named is what a call adds: a subtest with a name of its own, or scripts.
func (p *testPackage) named(c *ast.CallExpr) int {
	switch callee(c) {
	case "Run":
		if literal(c.Args, 0) != "" {
			return 1
		}
	case "Walk": // datadriven's
		return p.files(literal(c.Args, 1))
	case "Glob", "ReadDir":
		return p.files(literal(c.Args, 0))
	}
	return 0
}

// files is how many there are of a pattern, or in a folder.
func (p *testPackage) files(pattern string) int {
	if pattern == "" || filepath.IsAbs(pattern) {
		return 0
	}
	if !strings.Contains(pattern, "*") {
		pattern = filepath.Join(pattern, "*")
	}
	files, err := filepath.Glob(filepath.Join(p.dir, pattern))
	if err != nil {
		return 0
	}
	return len(files)
}

// literal is an argument that is a string written out; else "".
func literal(args []ast.Expr, i int) string {
	if i >= len(args) {
		return ""
	}
	lit, ok := args[i].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return text
}

// What counts as a case and what does not.
func TestHouseCasesCounted(t *testing.T) {
	const head = "package x\n\nvar shared = []string{\"a\", \"b\"}\nvar made = f()\n\nfunc TestX(t *testing.T) {\n"
	for what, c := range map[string]struct {
		body string
		want int
	}{
		"no table":              {"if f() { t.Error(1) }", 1},
		"a table":               {"for _, c := range []int{1, 2, 3} { if f(c) { t.Error(c) } }", 3},
		"by name":               {"cases := map[string]int{\"a\": 1, \"b\": 2}\nfor name := range cases { t.Run(name, g) }", 2},
		"declared":              {"var cases = [...]int{4, 5}\nfor i := range cases { must(t, i) }", 2},
		"of the package":        {"for _, c := range shared { t.Fatal(c) }", 2},
		"sorted":                {"for _, c := range slices.Sorted(maps.Keys(map[string]int{\"a\": 1, \"b\": 2})) { t.Fatal(c) }", 2},
		"words":                 {"for _, c := range strings.Fields(\"a b c d\") { t.Fatal(c) }", 4},
		"two tables":            {"for _, c := range []int{1, 2} { t.Error(c) }\nfor _, c := range []int{1, 2} { t.Error(c) }", 4},
		"a table in a table":    {"for _, c := range []int{1, 2} { for _, d := range []int{1, 2} { t.Error(c, d) } }", 4},
		"subtests":              {"t.Run(\"a\", g)\nt.Run(\"b\", g)", 2},
		"that nothing looks at": {"for range []int{1, 2, 3} { t.Error(1) }", 1},
		"that cannot fail":      {"for _, c := range []int{1, 2, 3} { f(c) }", 1},
		"repetition":            {"for i := range 100 { t.Error(i) }", 1},
		"computed":              {"for _, c := range made { t.Error(c) }", 1},
		"computed here":         {"cases := f()\nfor _, c := range cases { t.Error(c) }", 1},
		"another of its name":   {"shared := f()\nfor _, c := range shared { t.Error(c) }", 1},
		"only written":          {"_ = []int{1, 2, 3}", 1},
		"made of two":           {"a, b := []int{1, 2}, []int{3}\nfor _, c := range b { t.Error(a, c) }", 1},
		"no folder":             {"datadriven.Walk(t, \"testdata/none\", g)", 1},
		"skipped":               {"t.Skip(\"later\")\nfor _, c := range []int{1, 2, 3} { t.Error(c) }", 0},
		"empty":                 {"", 0},
	} {
		p := &testPackage{dir: t.TempDir(), funcs: map[string]*ast.FuncDecl{}, vars: map[string]ast.Expr{}}
		if err := p.add("x_test.go", []byte(head+c.body+"\n}\n")); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		counter := caseCounter{packages: map[string]*testPackage{"x": p}}
		if got, err := counter.count("x", "TestX"); got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: %d cases, %v, want %d", what, got, err, c.want)
		}
	}
	p := &testPackage{dir: t.TempDir(), funcs: map[string]*ast.FuncDecl{}, vars: map[string]ast.Expr{}}
	for _, name := range []string{"testdata/a", "testdata/b", "testdata/c", "testdata/fuzz/FuzzX/1", "testdata/fuzz/FuzzX/2"} {
		if err := os.MkdirAll(filepath.Join(p.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.add("x_test.go", []byte("package x\n\nfunc TestX(t *testing.T) { datadriven.Walk(t, \"testdata\", g) }\n\nfunc FuzzX(f *testing.F) { for _, s := range []string{\"a\"} { f.Add(s) } }\n")); err != nil {
		t.Fatal(err)
	}
	counter := caseCounter{packages: map[string]*testPackage{"x": p}}
	for name, want := range map[string]int{"TestX": 4, "FuzzX": 3} { // fuzz is a file beside the scripts
		if got, err := counter.count("x", name); got != want || err != nil {
			t.Errorf("%s: %d cases, %v, want %d", name, got, err, want)
		}
	}
	if _, err := counter.count("x", "TestY"); !errors.Is(err, errNoTest) {
		t.Errorf("a test that there is not: %v", err)
	}
}
