package expr

import (
	"fmt"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
)

// plain refuses what CEL's measure of cost does not bound: it takes the comparison of two
// lists for one step whatever is in them, and lists of lists, and texts that are joined, may
// double with each step. So values are numbers, texts, true and false, and lists of those,
// and no lists are compared.
func plain(checked *ast.AST) error {
	var problem error
	refuse := func(e ast.Expr, format string, args ...any) {
		if problem == nil {
			at := checked.SourceInfo().GetStartLocation(e.ID())
			problem = &Error{max(1, at.Line()), max(1, at.Column()+1), fmt.Sprintf(format, args...)}
		}
	}
	ast.PreOrderVisit(ast.NavigateAST(checked), ast.NewExprVisitor(func(e ast.Expr) {
		t := checked.GetType(e.ID())
		switch {
		case e.Kind() == ast.MapKind, e.Kind() == ast.StructKind:
			refuse(e, "a condition makes no maps and no objects: it has numbers, texts, true and false, and lists of them")
		case e.Kind() == ast.ListKind && !single(t.Parameters()[0]):
			refuse(e, "it is a %s, want a list of numbers, or of texts, all of one type", t)
		case e.Kind() == ast.LiteralKind && !single(t):
			refuse(e, "a %s is of no use in a condition: it has numbers, texts, true and false, and lists of them", t)
		case e.Kind() == ast.CallKind:
			if text := badCall(checked, e); text != "" {
				refuse(e, "%s", text)
			}
		}
	}))
	return problem
}

// badCall says what is wrong with a call; "" where nothing is.
func badCall(checked *ast.AST, call ast.Expr) string {
	typeOf := func(e ast.Expr) *cel.Type { return checked.GetType(e.ID()) }
	switch name, args := call.AsCall().FunctionName(), call.AsCall().Args(); name {
	case operators.Equals, operators.NotEquals, operators.In:
		if name == operators.In {
			args = args[:1] // what it is looked for in has single values, or is a map by texts
		}
		for _, a := range args {
			if t := typeOf(a); !single(t) {
				return fmt.Sprintf("it compares a %s: only numbers, texts, true and false are compared", t)
			}
		}
	case operators.Add:
		if !number(typeOf(call)) {
			return fmt.Sprintf("a condition joins no texts and no lists: + is of numbers, and this is a %s", typeOf(call))
		}
	case "matches": // a short pattern may stand for a long program
		return "a condition has no patterns: use startsWith, endsWith or contains"
	case operators.Conditional, operators.Index: // give what was made elsewhere
	default:
		if !single(typeOf(call)) {
			return fmt.Sprintf("%s gives a %s: a condition has numbers, texts, true and false, and lists of them", name, typeOf(call))
		}
	}
	return ""
}

func number(t *cel.Type) bool {
	return slices.Contains([]cel.Kind{cel.IntKind, cel.UintKind, cel.DoubleKind}, t.Kind())
}

// single reports that values of a type are of a fixed size, or texts.
func single(t *cel.Type) bool {
	return number(t) || t.Kind() == cel.BoolKind || t.Kind() == cel.StringKind
}
