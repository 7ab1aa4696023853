package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The loop of package agent owns what the agent knows. These are the ways around that
// which the compiler lets through.
const (
	whyFuncs   = "a function that is sent lets any file write any field of the loop: send a message that says what is wanted"
	whyMessage = "a message says what is wanted, not how it is done: no functions and no loop in it"
	whyBeside  = "what runs beside the loop has no hold of it: use the Agent, and send a message"
	whyWaits   = "the loop would wait for itself"
)

// loopExcuses are functions that give the loop's own functions away, to what only the loop
// calls.
var loopExcuses = map[string]string{
	"objectsConfig": "objects are the loop's own, and call Start and Alarm in it",
}

// looping looks at a package with a loop.
type looping struct {
	fset  *token.FileSet
	info  *types.Info
	pkg   *types.Package
	calls map[*types.Func][]*types.Func // but for those of what runs beside, or later
	bad   []string
}

func (p *looping) report(at token.Pos, what, why string) {
	pos := p.fset.Position(at)
	p.bad = append(p.bad, fmt.Sprintf("%s:%d %s: %s", filepath.Base(pos.Filename), pos.Line, what, why))
}

// loopFaults says what is wrong with such a package.
func (ty typed) loopFaults(t *testing.T, path string, files ...*ast.File) []string {
	t.Helper()
	p := &looping{fset: ty.fset, calls: map[*types.Func][]*types.Func{}, info: &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{},
		Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	var err error
	if p.pkg, err = (&types.Config{Importer: ty.imp}).Check(path, ty.fset, files, p.info); err != nil {
		t.Fatal(err)
	}
	p.lookAtMessages()
	for _, f := range files {
		for _, d := range f.Decls {
			p.lookAt(d)
		}
	}
	p.lookAtCalls()
	return p.bad
}

func (p *looping) isLoop(t types.Type) bool {
	ptr, ok := t.(*types.Pointer)
	return ok && types.Identical(ptr.Elem(), p.pkg.Scope().Lookup("loop").Type())
}

func (p *looping) lookAtMessages() {
	message := p.pkg.Scope().Lookup("message").Type().Underlying().(*types.Interface)
	for _, name := range p.pkg.Scope().Names() {
		obj, ok := p.pkg.Scope().Lookup(name).(*types.TypeName)
		if !ok || types.IsInterface(obj.Type()) || obj.Type().(*types.Named).TypeParams().Len() > 0 {
			continue
		}
		if types.Implements(types.NewPointer(obj.Type()), message) && p.carries(obj.Type()) {
			p.report(obj.Pos(), "message "+name+" carries a function or the loop", whyMessage)
		}
	}
}

// carries reports whether there is a function or the loop in a type, as far as it is made
// here.
func (p *looping) carries(t types.Type) bool {
	if named, ok := t.(*types.Named); ok && named.Obj().Pkg() != p.pkg {
		_, fn := t.Underlying().(*types.Signature)
		return fn
	}
	switch u := t.Underlying().(type) {
	case *types.Signature:
		return true
	case *types.Pointer:
		return p.isLoop(u) || p.carries(u.Elem())
	case *types.Chan:
		return p.carries(u.Elem())
	case *types.Slice:
		return p.carries(u.Elem())
	case *types.Map:
		return p.carries(u.Elem())
	case *types.Struct:
		for f := range u.Fields() {
			if p.carries(f.Type()) {
				return true
			}
		}
	}
	return false
}

func (p *looping) lookAt(d ast.Decl) {
	var in *types.Func
	if fn, ok := d.(*ast.FuncDecl); ok {
		in = p.info.Defs[fn.Name].(*types.Func)
	}
	ast.PreorderStack(d, nil, func(n ast.Node, stack []ast.Node) bool {
		switch n := n.(type) {
		case *ast.ChanType:
			if _, fn := p.info.TypeOf(n.Value).Underlying().(*types.Signature); fn {
				p.report(n.Pos(), "a channel of functions", whyFuncs)
			}
		case *ast.FuncLit:
			if !later(n, stack) {
				return true
			}
			if id := p.loopIn(n.Body); id != nil && (in == nil || loopExcuses[in.Name()] == "") {
				p.report(id.Pos(), "uses the loop later or beside it", whyBeside)
			}
			return false
		case *ast.SelectorExpr:
			s := p.info.Selections[n]
			if s == nil || s.Kind() != types.MethodVal || !later(n, stack) || in != nil && loopExcuses[in.Name()] != "" {
				return true
			}
			if fn := s.Obj().(*types.Func); fn.Signature().Recv() != nil && p.isLoop(fn.Signature().Recv().Type()) {
				p.report(n.Pos(), "gives "+fn.Name()+" of the loop away", whyBeside)
			}
		case *ast.CallExpr:
			if called := p.called(n); called != nil && in != nil {
				p.calls[in] = append(p.calls[in], called)
			}
		}
		return true
	})
}

// later reports whether a function is not called where it stands, nor by what it is given
// to, before that returns.
func later(fn ast.Expr, stack []ast.Node) bool {
	switch parent := stack[len(stack)-1].(type) {
	case *ast.KeyValueExpr, *ast.CompositeLit, *ast.ReturnStmt:
		return true
	case *ast.AssignStmt:
		return slices.ContainsFunc(parent.Lhs, func(to ast.Expr) bool { _, field := to.(*ast.SelectorExpr); return field })
	case *ast.CallExpr:
		if parent.Fun == fn {
			_, starts := stack[len(stack)-2].(*ast.GoStmt)
			return starts
		}
		sel, ok := parent.Fun.(*ast.SelectorExpr)
		return ok && (sel.Sel.Name == "spawn" || sel.Sel.Name == "Go" || sel.Sel.Name == "AfterFunc")
	}
	return false
}

// loopIn finds where a function uses the loop of another.
func (p *looping) loopIn(body ast.Node) (found *ast.Ident) {
	ast.Inspect(body, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && found == nil {
			if v, ok := p.info.Uses[id].(*types.Var); ok && p.isLoop(v.Type()) {
				found = id
			}
		}
		return found == nil
	})
	return found
}

// called is the function of this package that a call calls; nil for others.
func (p *looping) called(call *ast.CallExpr) *types.Func {
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X
	}
	var id *ast.Ident
	switch f := fun.(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return nil
	}
	if fn, ok := p.info.Uses[id].(*types.Func); ok && fn.Pkg() == p.pkg {
		return fn.Origin()
	}
	return nil
}

// lookAtCalls finds the methods of the loop that come to send, in whose inbox only others
// may put something.
func (p *looping) lookAtCalls() {
	sends := map[*types.Func]bool{}
	for changed := true; changed; {
		changed = false
		for fn, calls := range p.calls {
			if !sends[fn] && slices.ContainsFunc(calls, func(c *types.Func) bool { return c.Name() == "send" || sends[c] }) {
				sends[fn], changed = true, true
			}
		}
	}
	for fn := range sends {
		if recv := fn.Signature().Recv(); recv != nil && p.isLoop(recv.Type()) {
			p.report(fn.Pos(), fn.Name()+" comes to send the loop a message", whyWaits)
		}
	}
}

// TestHouseLoop: what the agent knows is its loop's alone.
func TestHouseLoop(t *testing.T) {
	ty := newTyped(t, module+"agent")
	for _, p := range list(t, "linux") {
		if p.ImportPath != "agent" {
			continue
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(ty.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		for _, bad := range ty.loopFaults(t, module+"agent", files...) {
			t.Error(bad)
		}
	}
}

// TestHouseLoopCatches shows that each rule can fail, and what is let through.
func TestHouseLoopCatches(t *testing.T) {
	ty := newTyped(t, "slices")
	const head = `package p
import "slices"
type message interface{ message() }
type told struct{}
func (told) message() {}
type asked[T any] struct{ to chan T }
func (*asked[T]) message() {}
type Agent struct{ inbox chan message; hook func() }
func (a *Agent) send(m message) { a.inbox <- m }
func (a *Agent) spawn(f func()) { go f() }
func (a *Agent) ask() int { m := &good{}; a.send(m); return <-m.to }
type good struct{ asked[int]; names map[string][]string }
type loop struct { *Agent; n int }
func (l *loop) more() { l.n++ }
var _ = slices.Max[[]int]
`
	for code, why := range map[string]string{
		"type c struct{ inbox chan func() }":                                                          whyFuncs,
		"type f func(*loop); func g() { _ = make(chan f) }":                                           whyFuncs,
		"type m struct{ told; do func() }":                                                            whyMessage,
		"type m struct{ told; on *loop }":                                                             whyMessage,
		"type m struct{ asked[func()] }":                                                              whyMessage,
		"type m struct{ told; in []struct{ do func(*loop) } }":                                        whyMessage,
		"func (l *loop) f() { l.spawn(func() { l.n++ }) }":                                            whyBeside,
		"func (l *loop) f() { l.spawn(func() { func() { l.more() }() }) }":                            whyBeside,
		"func (l *loop) f() { l.spawn(l.more) }":                                                      whyBeside,
		"func (l *loop) f() { go func() { l.n++ }() }":                                                whyBeside,
		"func (l *loop) f() { l.hook = func() { l.n++ } }":                                            whyBeside,
		"func (l *loop) f() { l.hook = l.more }":                                                      whyBeside,
		"func (l *loop) f() *Agent { return &Agent{hook: func() { l.more() }} }":                      whyBeside,
		"func (l *loop) f() { l.n = l.ask() }":                                                        whyWaits,
		"func (a *Agent) g() int { return a.ask() }; func (l *loop) f() { l.n = l.g() }":              whyWaits,
		"func (l *loop) f() { func() { l.send(nil) }() }":                                             whyWaits,
		"func (l *loop) f() { a := l.Agent; l.spawn(func() { a.ask() }) }":                            "",
		"func (l *loop) f() { l.spawn(func() {}) }":                                                   "",
		"func (l *loop) f(s []int) { slices.ContainsFunc(s, func(int) bool { l.n++; return true }) }": "",
		"func (l *loop) objectsConfig() { l.hook = l.more }":                                          "",
		"func (a *Agent) f() { go func() { a.ask() }() }":                                             "",
	} {
		f, err := parser.ParseFile(ty.fset, "p.go", head+code, parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("%s: %v", code, err)
		}
		bad := ty.loopFaults(t, "p", f)
		if (len(bad) > 0) != (why != "") || !slices.ContainsFunc(bad, func(b string) bool { return strings.HasSuffix(b, why) }) && why != "" {
			t.Errorf("%s: %q, want %q", code, bad, why)
		}
	}
}
