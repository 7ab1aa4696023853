package build

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"moult/store/bundle"
	"moult/store/bundle/hclguard"
	"moult/store/bundle/placeholder"
)

// decoder turns attributes into values and collects what is wrong with them.
// Its methods return the zero value, or the default, where they report a
// problem, so that one run finds them all.
type decoder struct {
	src   []byte // of the spec
	diags hcl.Diagnostics
}

func (d *decoder) fail(at hcl.Range, summary, format string, args ...any) {
	d.diags = append(d.diags, problem(at, summary, format, args...))
}

func problem(at hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  summary,
		Detail:   fmt.Sprintf(format, args...),
		Subject:  &at,
	}
}

// required reports whether a is there.
func (d *decoder) required(a *hcl.Attribute, in hcl.Range, name, example string) bool {
	if a == nil {
		d.fail(in, "Missing "+name, "Here %s is required, such as: %s", name, example)
	}
	return a != nil
}

// later refuses what only a later moult will know.
func (d *decoder) later(at hcl.Range, what, instead string) {
	d.fail(at, "Not supported yet by this moult", "It does not know %s yet, and will not ignore it. %s", what, instead)
}

func (d *decoder) laterBlocks(blocks []laterSchema, name, instead string) {
	for _, b := range blocks {
		d.later(b.At, strconv.Quote(name), instead)
	}
}

// value evaluates a constant of one of the given types.
func (d *decoder) value(a *hcl.Attribute, want string, types ...cty.Type) (cty.Value, bool) {
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() {
		d.diags = append(d.diags, diags...)
		return v, false
	}
	if v.IsNull() || !v.IsWhollyKnown() || !slices.ContainsFunc(types, v.Type().Equals) {
		d.fail(a.Expr.Range(), "Wrong type", "Here %s wants %s.", a.Name, want)
		return v, false
	}
	return v, true
}

// text decodes a text; ok is false where there is none or a wrong one.
func (d *decoder) text(a *hcl.Attribute) (s string, ok bool) {
	if a == nil {
		return "", false
	}
	v, ok := d.value(a, "a text in quotes", cty.String)
	if !ok {
		return "", false
	}
	return v.AsString(), true
}

// texts decodes a list of texts; nil where there is none, or a wrong one.
func (d *decoder) texts(a *hcl.Attribute, want string, most int) (all []string) {
	if a == nil {
		return nil
	}
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() {
		d.diags = append(d.diags, diags...)
		return nil
	}
	bad := v.IsNull() || !v.IsWhollyKnown() || !v.Type().IsTupleType() || v.LengthInt() == 0 || v.LengthInt() > most
	if !bad {
		for _, e := range v.AsValueSlice() {
			if bad = bad || e.IsNull() || e.Type() != cty.String; !bad {
				all = append(all, e.AsString())
			}
		}
	}
	if bad {
		d.fail(a.Expr.Range(), "Wrong type", "Here %s wants %s: 1 to %d of them.", a.Name, want, most)
		return nil
	}
	return all
}

// name decodes a text that must not be empty, if there is one.
func (d *decoder) name(a *hcl.Attribute) string {
	s, ok := d.text(a)
	if ok && s == "" {
		d.fail(a.Expr.Range(), "Empty "+a.Name, "Here %s must not be empty.", a.Name)
	}
	return s
}

func (d *decoder) flag(a *hcl.Attribute) bool {
	if a == nil {
		return false
	}
	v, ok := d.value(a, "true or false", cty.Bool)
	return ok && v.True()
}

func (d *decoder) number(a *hcl.Attribute, least, most int64) int64 {
	want := fmt.Sprintf("a whole number from %d to %d", least, most)
	v, ok := d.value(a, want, cty.Number)
	if !ok {
		return 0
	}
	n, accuracy := v.AsBigFloat().Int64()
	if accuracy != big.Exact || n < least || n > most {
		d.fail(a.Expr.Range(), "Out of range", "Here %s wants %s.", a.Name, want)
		return 0
	}
	return n
}

func (d *decoder) duration(a *hcl.Attribute, otherwise, least, most bundle.Duration) bundle.Duration {
	if a == nil {
		return otherwise
	}
	want := fmt.Sprintf(`a time from %s to %s, such as "30s", "10m" or "1h30m"`, least, most)
	v, ok := d.value(a, want, cty.String)
	if !ok {
		return otherwise
	}
	t, err := time.ParseDuration(v.AsString())
	if err != nil || bundle.Duration(t) < least || bundle.Duration(t) > most {
		d.fail(a.Expr.Range(), "Bad time", "Here %s wants %s.", a.Name, want)
		return otherwise
	}
	return bundle.Duration(t)
}

// Units of sizes.
const byteUnits = "KMGT"

// size decodes a number of bytes: a number, or a text with a unit.
func (d *decoder) size(a *hcl.Attribute, most int64) int64 {
	if a == nil {
		return 0
	}
	const want = `a number of bytes, such as 1048576, "512MiB" or "10GiB"`
	v, ok := d.value(a, want, cty.String, cty.Number)
	if !ok {
		return 0
	}
	if v.Type() == cty.Number {
		return d.number(a, 1, most)
	}
	digits, unit := v.AsString(), int64(1)
	if s, ok := strings.CutSuffix(digits, "iB"); ok && s != "" {
		if i := strings.IndexByte(byteUnits, s[len(s)-1]); i >= 0 {
			digits, unit = strings.TrimRight(s[:len(s)-1], " "), 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n < 1 || int64(n) > most/unit {
		d.fail(a.Expr.Range(), "Bad size", "Here %s wants %s, at most %d bytes.", a.Name, want, most)
		return 0
	}
	return int64(n) * unit
}

const (
	insteadForTransform = "A transform finds its folders in its environment, MOULT_OLD and MOULT_NEW, and no service runs meanwhile."
	insteadForCheck     = "A check finds addresses in its environment: MOULT_SERVICE_ and the service's name, and MOULT_PAST_ and that for callers of the version before."
	insteadForFact      = "The program of a fact finds addresses in its environment: MOULT_SERVICE_ and the service's name."
	insteadForFinalized = "What is run when the release is finalized finds the state in MOULT_STATE, and addresses in MOULT_SERVICE_ and the service's name."
	insteadForHook      = "A hook finds the state in MOULT_STATE, and addresses in MOULT_SERVICE_ and the service's name."
	insteadForObject    = "A simulation object finds its sockets and its state in its environment: LISTEN_FDS, MOULT_NEXT_ and the service's name, MOULT_STATE."
)

// argv decodes a command line.
// What may stand in it becomes placeholders.
func (d *decoder) argv(a *hcl.Attribute, r hclguard.References) []string {
	if a == nil {
		return nil
	}
	v, diags := r.Keep(a.Expr)
	if diags.HasErrors() {
		d.diags = append(d.diags, diags...)
		return nil
	}
	const want = `a list of texts: the program and its arguments, such as ["./kv", "serve"]`
	if v.IsNull() || !v.IsWhollyKnown() || !v.Type().IsTupleType() {
		d.fail(a.Expr.Range(), "Wrong type", "Here %s wants %s.", a.Name, want)
		return nil
	}
	var argv []string
	for _, arg := range v.AsValueSlice() {
		if arg.IsNull() || arg.Type() != cty.String || len(arg.AsString()) > bundle.MaxArgBytes {
			d.fail(a.Expr.Range(), "Wrong type", "Here %s wants %s, each of at most %d bytes.", a.Name, want, bundle.MaxArgBytes)
			return nil
		}
		text := arg.AsString()
		if plain, ok := placeholder.Plain(text); ok && r.Instead != "" {
			text = plain // nothing is filled in there
		}
		argv = append(argv, text)
	}
	if len(argv) == 0 || argv[0] == "" || len(argv) > bundle.MaxArgs {
		d.fail(a.Expr.Range(), "Bad command", "Here %s wants %s, at most %d of them.", a.Name, want, bundle.MaxArgs)
		return nil
	}
	return argv
}

// program notes the program of an argv for Build.
func (c *ClassSpec) program(a *hcl.Attribute, argv []string) {
	if len(argv) > 0 {
		c.programs = append(c.programs, programSpec{name: argv[0], at: a.Expr.Range()})
	}
}
