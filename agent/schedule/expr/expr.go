package expr

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/ext"
)

// Parts are the groups of nodes whose facts are summed up.
const (
	Settled = "settled"
	Others  = "others"
)

// Names of variables; those of facts are made by SelfFact and Of.
const (
	SelfName, SelfClass, SelfVersion, SelfLabels = "self.name", "self.class", "self.version", "self.labels"

	ReleaseVersion, ReleasePrevious = "release.version", "release.previous"
	// Classes is a map[string]Count; of the node's own class there is a variable for each
	// field (OwnCounts).
	Classes = "classes"
)

// Count says how far the rollout of a class is.
type Count struct {
	Total   int64 `cel:"total"`
	Settled int64 `cel:"settled"`
	Unwell  int64 `cel:"unwell"`
	Down    int64 `cel:"down"`
	Held    int64 `cel:"held"`
	Waiting int64 `cel:"waiting"`
	Skipped int64 `cel:"skipped"`
}

// OwnCounts gives the counts of the node's own class by the names of their variables.
func OwnCounts(c Count) map[string]int64 {
	return map[string]int64{
		"class.total": c.Total, "class.settled": c.Settled, "class.unwell": c.Unwell, "class.down": c.Down,
		"class.held": c.Held, "class.waiting": c.Waiting, "class.skipped": c.Skipped,
	}
}

// SelfFact is the variable of a fact of the node itself.
func SelfFact(fact string) string { return "self.facts." + fact }

// Error is what is wrong with an expression, and where, from 1: bytes are counted as
// characters.
type Error struct {
	Line, Column int
	Text         string
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Text)
}

// Expr is an expression that was checked.
type Expr struct {
	source  string
	program cel.Program
	needs   []string
}

// Value is what an expression says.
type Value int

// The values of an expression.
const (
	None Value = iota // what it needs is not known
	No
	Yes
)

// Answer is what an expression says now. Text tells what it has seen, or why it has no
// Value, for people.
type Answer struct {
	Value
	Text string
}

// Compile checks an expression over facts of these names. The error is an *Error.
func Compile(source string, facts []string) (*Expr, error) {
	if len(source) > MaxBytes || !utf8.ValidString(source) {
		return nil, &Error{1, 1, fmt.Sprintf("%d bytes, want at most %d, of UTF-8", len(source), MaxBytes)}
	}
	vars := variables(facts)
	env, err := environment(vars)
	if err != nil {
		return nil, &Error{1, 1, err.Error()}
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, &Error{max(1, first.Location.Line()), max(1, first.Location.Column()+1), first.Message}
	}
	if ast.OutputType() != cel.BoolType {
		return nil, &Error{1, 1, fmt.Sprintf("it is of type %s, want bool: yes or no", ast.OutputType())}
	}
	if err := plain(ast.NativeRep()); err != nil {
		return nil, err
	}
	estimate, err := env.EstimateCost(ast, sizes{})
	if err == nil && estimate.Max > maxCost {
		err = fmt.Errorf("it may cost %d steps, the most is %d", estimate.Max, maxCost)
	}
	if err != nil {
		return nil, &Error{1, 1, err.Error()}
	}
	program, err := env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, &Error{1, 1, err.Error()}
	}
	e := &Expr{source: source, program: program}
	for _, ref := range ast.NativeRep().ReferenceMap() {
		if vars[ref.Name] != nil && !slices.Contains(e.needs, ref.Name) {
			e.needs = append(e.needs, ref.Name)
		}
	}
	slices.Sort(e.needs)
	return e, nil
}

// Memo remembers what was compiled, for nodes of one process whose orders have the same
// conditions: the simulator's. Its zero value is empty; a nil one remembers nothing. It grows without
// bound, and is not safe for concurrent use.
type Memo struct{ compiled map[string]compiled }

type compiled struct {
	expr *Expr
	err  error
}

// Compile is Compile, of what is not remembered.
func (m *Memo) Compile(source string, facts []string) (*Expr, error) {
	if m == nil {
		return Compile(source, facts)
	}
	key := fmt.Sprintf("%q %q", source, facts)
	c, known := m.compiled[key]
	if !known {
		if c.expr, c.err = Compile(source, facts); m.compiled == nil {
			m.compiled = map[string]compiled{}
		}
		m.compiled[key] = c
	}
	return c.expr, c.err
}

func environment(vars map[string]*cel.Type) (*cel.Env, error) {
	options := []cel.EnvOption{
		ext.NativeTypes(reflect.TypeFor[Count](), ext.ParseStructTags(true)),
		cel.CrossTypeNumericComparisons(true),
		cel.ClearMacros(), cel.Macros(cel.HasMacro, cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro),
		cel.ParserExpressionSizeLimit(MaxBytes), cel.ParserRecursionLimit(maxDepth),
	}
	for name, t := range vars {
		options = append(options, cel.Variable(name, t))
	}
	return cel.NewEnv(options...)
}

// variables returns the variables that expressions over some facts may name.
func variables(facts []string) map[string]*cel.Type {
	vars := map[string]*cel.Type{
		SelfName: cel.StringType, SelfClass: cel.StringType, SelfVersion: cel.IntType,
		SelfLabels:     cel.MapType(cel.StringType, cel.StringType),
		ReleaseVersion: cel.IntType, ReleasePrevious: cel.IntType,
		Classes: cel.MapType(cel.StringType, cel.ObjectType("expr.Count")),
	}
	for name := range OwnCounts(Count{}) {
		vars[name] = cel.IntType
	}
	for _, fact := range facts {
		vars[SelfFact(fact)] = cel.DoubleType
		for _, part := range []string{Settled, Others} {
			vars[part+"."+fact+".count"] = cel.IntType
			for _, what := range aggregates {
				vars[part+"."+fact+"."+what] = cel.DoubleType
			}
		}
	}
	return vars
}

// sizes tells CEL how large variables may be.
type sizes struct{}

func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	switch path := strings.Join(node.Path(), "."); {
	case path == SelfLabels:
		return &cost.SizeEstimate{Max: maxLabels}
	case path == Classes:
		return &cost.SizeEstimate{Max: maxClasses}
	case path == SelfName, path == SelfClass, strings.HasPrefix(path, SelfLabels), strings.HasPrefix(path, Classes):
		return &cost.SizeEstimate{Max: maxText}
	}
	return nil
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (e *Expr) String() string { return e.source }

// Needs lists the variables that the expression names, sorted.
func (e *Expr) Needs() []string { return e.needs }

// Eval evaluates the expression. value returns what a variable stands for: a string, int64,
// float64, map[string]string or map[string]Count; false where it has no value.
func (e *Expr) Eval(value func(name string) (any, bool)) Answer {
	v := &values{value: value}
	out, _, err := e.program.Eval(v)
	if err != nil {
		return Answer{Text: e.missing(v, err)}
	}
	if yes, ok := out.Value().(bool); ok && yes {
		return Answer{Yes, e.seen(value)}
	}
	return Answer{No, e.seen(value)}
}

// values is what CEL asks for what variables stand for.
type values struct {
	value  func(string) (any, bool)
	lacked []string
}

// ResolveName implements cel.Activation.
func (v *values) ResolveName(name string) (any, bool) {
	x, ok := v.value(name)
	if !ok && !slices.Contains(v.lacked, name) {
		v.lacked = append(v.lacked, name)
	}
	return x, ok
}

// Parent implements cel.Activation.
func (*values) Parent() cel.Activation { return nil }

// missing says why an expression has no value.
func (e *Expr) missing(v *values, err error) string {
	if len(v.lacked) > 0 {
		slices.Sort(v.lacked)
		return strings.Join(v.lacked[:min(len(v.lacked), maxSeen)], " has no value, ") + " has no value"
	}
	return err.Error()
}

// seen tells what the variables of an expression stand for.
func (e *Expr) seen(value func(string) (any, bool)) string {
	var words []string
	for _, name := range e.needs {
		switch x, ok := value(name); x := x.(type) {
		case float64:
			words = append(words, name+" is "+Number(x))
		case int64:
			words = append(words, fmt.Sprintf("%s is %d", name, x))
		case string:
			words = append(words, fmt.Sprintf("%s is %.40q", name, x))
		case nil:
			if !ok {
				words = append(words, name+" has no value")
			}
		}
	}
	if more := len(words) - maxSeen; more > 0 {
		words = append(words[:maxSeen], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// Number writes a number for people: heights and other whole numbers in full.
func Number(x float64) string {
	if x == math.Trunc(x) && math.Abs(x) < 1e15 {
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}
