package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// clockFuncs are what of package time reads a clock or waits for one.
var clockFuncs = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

// Why a pure package may not do what it may not.
const (
	whyClock   = "a decision must not depend on a clock: the time comes in as a value"
	whyGo      = "a decision is made in one go, by whoever asks: it starts nothing"
	whyChannel = "a decision does not wait, and hands nothing to others but its result"
	whyOrder   = "Go takes the entries of a map in another order each time, and a decision must replay: sort the keys, or do only what no order changes"
)

// An excuse lets one function do one thing that pure code may not.
type excuse struct{ why, reason string }

// excuses lists them, by package and function.
var excuses = map[string]excuse{
	"agent/schedule.gather":     {whyOrder, "it fills sets, and an or is the same in any order"},
	"agent/schedule.rank":       {whyOrder, "what it lists is sorted by a hash right after"},
	"simlayer/so/jq.measure":    {whyOrder, "it counts down; that it is over does not depend on the order"},
	"simlayer/so/jq.longNumber": {whyOrder, "any entry will do"},
	"simlayer/so/jq.general":    {whyClock, "the time that a program may take is a limit, not what it reckons with"},
	"simlayer/so/jq.did":        {whyClock, "the time that a program may take is a limit, not what it reckons with"},
}

// conduct looks at what the code of one package does.
type conduct struct {
	path    string
	fset    *token.FileSet
	info    *types.Info
	excuses map[string]excuse
	in      string // the function that is looked at
	bad     []string
}

func (c *conduct) report(at token.Pos, what, why string) {
	if c.excuses[c.path+"."+c.in].why == why {
		return
	}
	p := c.fset.Position(at)
	c.bad = append(c.bad, fmt.Sprintf("%s: %s:%d %s: %s", c.path, filepath.Base(p.Filename), p.Line, what, why))
}

func (c *conduct) look(f *ast.File) {
	for _, d := range f.Decls {
		c.in = ""
		if fn, ok := d.(*ast.FuncDecl); ok {
			c.in = fn.Name.Name
		}
		ast.Inspect(d, func(n ast.Node) bool {
			c.lookAt(n)
			return true
		})
	}
}

func (c *conduct) lookAt(n ast.Node) {
	switch n := n.(type) {
	case *ast.GoStmt:
		c.report(n.Pos(), "starts a goroutine", whyGo)
	case *ast.SelectStmt:
		c.report(n.Pos(), "selects", whyChannel)
	case *ast.SendStmt:
		c.report(n.Pos(), "sends", whyChannel)
	case *ast.ChanType:
		c.report(n.Pos(), "has a channel", whyChannel)
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			c.report(n.Pos(), "receives", whyChannel)
		}
	case *ast.Ident:
		c.use(n)
	case *ast.CallExpr:
		c.lookAtCall(n)
	case *ast.RangeStmt:
		switch c.info.TypeOf(n.X).Underlying().(type) {
		case *types.Chan:
			c.report(n.Pos(), "receives", whyChannel)
		case *types.Map:
			if !c.anyOrder(n) {
				c.report(n.Pos(), "ranges over a map", whyOrder)
			}
		case *types.Signature:
			if c.mapIterator(n.X) {
				c.report(n.Pos(), "ranges over a map", whyOrder)
			}
		}
	}
}

// use looks at what a name stands for.
func (c *conduct) use(id *ast.Ident) {
	obj := c.info.Uses[id]
	if obj == nil || obj.Pkg() == nil {
		return
	}
	_, isFunc := obj.(*types.Func)
	if obj.Pkg().Path() == "time" && isFunc && slices.Contains(clockFuncs, id.Name) && obj.Parent() == obj.Pkg().Scope() {
		c.report(id.Pos(), "uses time."+id.Name, whyClock)
	}
}

// lookAtCall finds iterators over maps that are handed on unsorted.
func (c *conduct) lookAtCall(call *ast.CallExpr) {
	sorts := c.callee(call, "slices", "Sorted", "SortedFunc", "SortedStableFunc") || c.callee(call, "maps", "Collect", "Insert")
	for _, arg := range call.Args {
		if c.mapIterator(arg) && !sorts {
			c.report(arg.Pos(), "takes the entries of a map", whyOrder)
		}
	}
}

// mapIterator reports whether an expression is the iterator over a map of package maps.
func (c *conduct) mapIterator(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	return ok && c.callee(call, "maps", "Keys", "Values", "All")
}

// callee reports whether a call is of one of a package's functions.
func (c *conduct) callee(call *ast.CallExpr, pkg string, names ...string) bool {
	fun := call.Fun
	if i, ok := fun.(*ast.IndexExpr); ok { // with its type argument
		fun = i.X
	}
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	obj := c.info.Uses[sel.Sel]
	return obj != nil && obj.Pkg() != nil && obj.Pkg().Path() == pkg && slices.Contains(names, sel.Sel.Name)
}

// anyOrder reports whether the form of a loop over a map shows that no order of the
// entries changes what comes of it: it counts, adds whole numbers up, takes the
// greatest or least, sets flags, fills or empties maps by its own key, or stops with
// one and the same answer whichever entry it is that stops it.
func (c *conduct) anyOrder(loop *ast.RangeStmt) bool {
	l := &looped{c: c, loop: loop, own: map[types.Object]bool{}}
	for _, e := range []ast.Expr{loop.Key, loop.Value} {
		if id, ok := e.(*ast.Ident); ok {
			l.own[c.info.Defs[id]] = true
		}
	}
	ok := l.block(loop.Body.List)
	return ok && (len(l.answers) == 0 || len(l.answers) == 1 && !l.changes)
}

// looped is what is known of the body of a loop over a map.
type looped struct {
	c       *conduct
	loop    *ast.RangeStmt
	own     map[types.Object]bool // what each turn makes anew
	changes bool                  // a turn leaves something behind
	answers map[string]bool       // what the loop returns from within
}

func (l *looped) block(list []ast.Stmt) bool {
	for _, s := range list {
		if !l.stmt(s) {
			return false
		}
	}
	return true
}

func (l *looped) stmt(s ast.Stmt) bool {
	switch s := s.(type) {
	case nil, *ast.EmptyStmt:
		return true
	case *ast.BlockStmt:
		return l.block(s.List)
	case *ast.IfStmt:
		return l.stmt(s.Init) && l.quiet(s.Cond) && l.stmt(s.Body) && (s.Else == nil || l.stmt(s.Else))
	case *ast.RangeStmt: // of the entry itself
		for _, e := range []ast.Expr{s.Key, s.Value} {
			if id, ok := e.(*ast.Ident); ok {
				l.own[l.c.info.Defs[id]] = true
			}
		}
		return l.quiet(s.X) && l.block(s.Body.List)
	case *ast.BranchStmt:
		return s.Tok == token.CONTINUE && s.Label == nil
	case *ast.ReturnStmt:
		return l.answer(s)
	case *ast.IncDecStmt:
		return l.whole(s.X)
	case *ast.AssignStmt:
		return l.assign(s)
	case *ast.ExprStmt:
		return l.removes(s.X)
	}
	return false
}

// answer notes what the loop returns: it must not tell which entry it was.
func (l *looped) answer(s *ast.ReturnStmt) bool {
	var text bytes.Buffer
	for _, e := range s.Results {
		tv := l.c.info.Types[e]
		if tv.Value == nil && !tv.IsNil() {
			return false
		}
		fmt.Fprint(&text, tv.Value, ";")
	}
	if l.answers == nil {
		l.answers = map[string]bool{}
	}
	l.answers[text.String()] = true
	return true
}

func (l *looped) assign(s *ast.AssignStmt) bool {
	for _, e := range s.Rhs {
		if !l.quiet(e) {
			return false
		}
	}
	if s.Tok == token.DEFINE {
		for _, e := range s.Lhs {
			id, ok := e.(*ast.Ident)
			if !ok {
				return false
			}
			if obj := l.c.info.Defs[id]; obj != nil {
				l.own[obj] = true
			}
		}
		return true
	}
	for i, e := range s.Lhs {
		if l.isOwn(e) {
			continue
		}
		l.changes = true
		switch {
		case s.Tok != token.ASSIGN:
			if s.Tok == token.QUO_ASSIGN || s.Tok == token.REM_ASSIGN || s.Tok == token.SHL_ASSIGN || s.Tok == token.SHR_ASSIGN || !l.whole(e) {
				return false
			}
		case len(s.Lhs) != len(s.Rhs), !l.byOwnKey(e) && !l.extreme(e, s.Rhs[i]) && l.c.info.Types[s.Rhs[i]].Value == nil:
			return false
		}
	}
	return true
}

// isOwn reports whether a turn made what is assigned to, or the struct that it is a
// field of.
func (l *looped) isOwn(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "_" || l.own[l.c.info.Uses[e]]
	case *ast.SelectorExpr:
		_, plain := l.c.info.TypeOf(e.X).Underlying().(*types.Struct)
		return plain && l.isOwn(e.X)
	}
	return false
}

// whole reports whether something outside is a whole number: sums of others depend on
// the order.
func (l *looped) whole(e ast.Expr) bool {
	l.changes = true
	basic, ok := l.c.info.TypeOf(e).Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsInteger != 0
}

// byOwnKey reports whether an expression is the entry of a map under the loop's key.
func (l *looped) byOwnKey(e ast.Expr) bool {
	i, ok := e.(*ast.IndexExpr)
	if !ok {
		return false
	}
	if _, ok := l.c.info.TypeOf(i.X).Underlying().(*types.Map); !ok {
		return false
	}
	return l.isKey(i.Index)
}

func (l *looped) isKey(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	key, ok2 := l.loop.Key.(*ast.Ident)
	return ok && ok2 && l.c.info.Uses[id] != nil && l.c.info.Uses[id] == l.c.info.Defs[key]
}

// extreme reports whether x = max(x, …) or min.
func (l *looped) extreme(x, e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) == 0 {
		return false
	}
	id, ok := call.Fun.(*ast.Ident)
	return ok && (id.Name == "max" || id.Name == "min") && types.ExprString(call.Args[0]) == types.ExprString(x)
}

// removes reports whether a call takes the loop's own key out of a map.
func (l *looped) removes(e ast.Expr) bool {
	l.changes = true
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) != 2 {
		return false
	}
	id, ok := call.Fun.(*ast.Ident)
	return ok && id.Name == "delete" && l.isKey(call.Args[1])
}

// quiet reports whether an expression changes nothing: it calls only what is built in
// and changes nothing, conversions, and methods on values.
func (l *looped) quiet(e ast.Expr) bool {
	quiet := true
	ast.Inspect(e, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		quiet = quiet && l.quietCall(call)
		return quiet
	})
	return quiet
}

func (l *looped) quietCall(call *ast.CallExpr) bool {
	if tv := l.c.info.Types[call.Fun]; tv.IsType() {
		return true
	}
	if id, ok := call.Fun.(*ast.Ident); ok {
		if _, builtin := l.c.info.Uses[id].(*types.Builtin); builtin {
			return slices.Contains([]string{"len", "cap", "min", "max"}, id.Name)
		}
	}
	if l.c.callee(call, "slices", "Clone", "Contains", "Index") || l.c.callee(call, "maps", "Clone") {
		return true
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	method := l.c.info.Selections[sel]
	if method == nil {
		return false
	}
	fn, ok := method.Obj().(*types.Func)
	if !ok || len(call.Args) > 0 {
		return false
	}
	_, pointer := fn.Signature().Recv().Type().(*types.Pointer)
	return !pointer
}

// typed reads what the compiler knows of the packages that others import.
type typed struct {
	fset *token.FileSet
	imp  types.Importer
}

func newTyped(t *testing.T, patterns ...string) typed {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{if .Export}}{{.ImportPath}}\t{{.Export}}{{end}}"}
	out, err := exec.Command("go", append(args, patterns...)...).Output()
	if err != nil {
		t.Fatalf("go list -export: %v", err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if path, file, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			files[path] = file
		}
	}
	fset := token.NewFileSet()
	return typed{fset, importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, errors.New(path + ": it was not compiled")
		}
		return os.Open(files[path])
	})}
}

// conductOf looks at the files of one package.
func (ty typed) conductOf(t *testing.T, path string, excuses map[string]excuse, files ...*ast.File) *conduct {
	t.Helper()
	c := &conduct{path: path, fset: ty.fset, excuses: excuses, info: &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{},
		Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	if _, err := (&types.Config{Importer: ty.imp}).Check(module+path, ty.fset, files, c.info); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, f := range files {
		c.look(f)
	}
	return c
}

// TestPurePackages: what decides does nothing but decide.
func TestPurePackages(t *testing.T) {
	var patterns []string
	for _, p := range pure {
		patterns = append(patterns, module+p)
	}
	ty := newTyped(t, patterns...)
	found := 0
	for _, p := range list(t, "linux") {
		if !slices.Contains(pure, p.ImportPath) {
			continue
		}
		found++
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(ty.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		for _, bad := range ty.conductOf(t, p.ImportPath, excuses, files...).bad {
			t.Error(bad)
		}
	}
	if found != len(pure) {
		t.Errorf("%d of %d pure packages are there", found, len(pure))
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(makefile), "\nPURE := ")
	line, _, _ = strings.Cut(line, "\n")
	leftOut := strings.Fields(line)
	if len(leftOut) == 0 {
		t.Error("the Makefile says no PURE")
	}
	for _, p := range leftOut {
		if !slices.Contains(pure, p) {
			t.Errorf("make race leaves out %s, which is not pure", p)
		}
	}
}

// TestPurePackagesCatch shows that each ban can fail, and what is let through.
func TestPurePackagesCatch(t *testing.T) {
	ty := newTyped(t, "time", "maps", "slices", "sort", "strings")
	const head = "package p\nimport (\"maps\"; \"slices\"; \"strings\"; \"time\")\nvar _ = maps.Keys[map[int]int]\nvar _ = slices.Max[[]int]\nvar _ = strings.ToUpper\nvar _ time.Duration\ntype s struct{ n int }\nfunc (x s) v() int { return x.n }\nfunc (x *s) p() int { x.n++; return x.n }\n"
	for code, why := range map[string]string{
		"func f() { _ = time.Now() }":                       whyClock,
		"var now = time.Now":                                whyClock,
		"func f(t time.Time) { _ = time.Since(t) }":         whyClock,
		"func f() { time.Sleep(1) }":                        whyClock,
		"func f() { time.NewTimer(1) }":                     whyClock,
		"func f(a, b time.Time) bool { return a.After(b) }": "",
		"func f() { go f() }":                               whyGo,
		"func f() { _ = make(chan int) }":                   whyChannel,
		"func f(c chan int) { c <- 1 }":                     whyChannel,
		"func f(t *time.Timer) { <-t.C }":                   whyChannel,
		"func f(t *time.Timer) { for range t.C {} }":        whyChannel,
		"func f() { select {} }":                            whyChannel,
		"func f(m map[int]int) (l []int) { for k := range m { l = append(l, k) }; return l }":                                        whyOrder,
		"func f(m map[int]int) []int { return slices.Collect(maps.Keys(m)) }":                                                        whyOrder,
		"func f(m map[int]int) (l []int) { for k := range maps.Keys(m) { l = append(l, k) }; return }":                               whyOrder,
		"func f(m map[int]int) int { for k := range m { return k }; return 0 }":                                                      whyOrder,
		"func f(m map[int]int) (n int) { for _, v := range m { n = v }; return n }":                                                  whyOrder,
		"func f(m map[int]string) (t string) { for _, v := range m { t += v }; return t }":                                           whyOrder,
		"func f(m map[int]float64) (t float64) { for _, v := range m { t += v }; return t }":                                         whyOrder,
		"func f(m map[int]int) { for _, v := range m { m[v] = 1; m[v+1] = v } }":                                                     whyOrder,
		"func f(m map[int]int) (n int) { for range m { n++; if n > 3 { break } }; return n }":                                        whyOrder,
		"func f(m map[int]int) bool { n := 0; for range m { n++; if n > 3 { return true } }; return false }":                         whyOrder,
		"func f(m map[int]bool) int { for _, v := range m { if v { return 1 } else { return 2 } }; return 0 }":                       whyOrder,
		"func f(m map[int]*s) { x := &s{}; for range m { if x.p() > 3 { continue } } }":                                              whyOrder,
		"func f(m map[int]func()) { for _, g := range m { g() } }":                                                                   whyOrder,
		"func f(m map[int]int) { for k := range m { defer f(map[int]int{k: k}) } }":                                                  whyOrder,
		"func f(m map[int]int) []int { return slices.Sorted(maps.Keys(m)) }":                                                         "",
		"func f(m map[int]int) (n int) { for _, v := range m { n += v; n = max(n, v) }; return n }":                                  "",
		"func f(m map[int]int) bool { for _, v := range m { if v > 3 { return true } }; return false }":                              "",
		"func f(m, o map[int]int) { for k, v := range m { o[k] = v; delete(m, k) } }":                                                "",
		"func f(m map[int]s) (n int) { for _, x := range m { if y := x.v(); y > len(m) { n++ } }; return n }":                        "",
		"func f(m map[int]s, o map[int]s) { for k, x := range m { x.n = len(m); o[k] = x } }":                                        "",
		"func f(m map[int]*s, o int) { for _, x := range m { x.n = len(m); x.n = o } }":                                              whyOrder,
		"func f(m map[int][]int) (any bool) { for _, l := range m { for _, x := range l { if x > 1 { any = true } } }; return any }": "",
		"func f(l []int) (n []int) { for _, x := range l { n = append(n, x) }; return n }":                                           "",
	} {
		f, err := parser.ParseFile(ty.fset, "planted.go", head+code, parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("%s: %v", code, err)
		}
		bad := ty.conductOf(t, "p", nil, f).bad
		if caught := slices.ContainsFunc(bad, func(b string) bool { return why != "" && strings.Contains(b, why) }); caught != (why != "") || why == "" && len(bad) > 0 {
			t.Errorf("%s: %q, want %q", code, bad, why)
		}
		if why == whyOrder && len(ty.conductOf(t, "p", map[string]excuse{"p.f": {whyOrder, "why"}}, f).bad) > 0 {
			t.Errorf("%s: an excuse does not excuse", code)
		}
	}
}
