package build

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"moult/agent/schedule/expr"
	"moult/store/bundle"
	"moult/store/bundle/hclguard"
)

func (d *decoder) facts(s *classSchema, c *ClassSpec) {
	if len(s.Facts) == 0 {
		return
	}
	if len(s.Facts) > bundle.MaxFacts {
		d.fail(s.Facts[bundle.MaxFacts].At, "Too many facts", "A class has at most %d of them.", bundle.MaxFacts)
		return
	}
	c.Upgrade.Facts = map[string]bundle.Fact{}
	seen := map[string]hcl.Range{}
	for i := range s.Facts {
		f := &s.Facts[i]
		if !bundle.ValidFact(f.Name) {
			d.fail(f.NameAt, "Bad name", "%.80q cannot name a fact: want a lower-case letter, then at most 31 lower-case letters, digits and underscores.", f.Name)
		}
		if first, ok := seen[f.Name]; ok {
			d.fail(f.NameAt, "Duplicate fact", "There is a fact %q already, on line %d.", f.Name, first.Start.Line)
		}
		seen[f.Name] = f.NameAt
		c.Upgrade.Facts[f.Name] = d.fact(f, c)
	}
}

func (d *decoder) fact(f *factSchema, c *ClassSpec) bundle.Fact {
	out := bundle.Fact{
		HTTP: d.name(f.HTTP), Prometheus: d.name(f.Prometheus),
		Every:   d.duration(f.Every, defaultFactEvery, bundle.MinFactEvery, bundle.MaxFactEvery),
		Timeout: d.duration(f.Timeout, defaultFactTimeout, minObjectTime, bundle.MaxFactTime),
		Step:    d.step(f.Step),
	}
	out.Pointer, _ = d.text(f.Pointer)
	out.Exec = d.argv(f.Exec, hclguard.References{Instead: insteadForFact})
	c.program(f.Exec, out.Exec)
	switch {
	case (f.HTTP == nil) == (f.Exec == nil):
		d.fail(f.At, "Bad fact", `A fact wants exactly one of http = "/stats" (with pointer or prometheus) and exec = […].`)
	case f.HTTP == nil:
		for _, a := range []*hcl.Attribute{f.Service, f.Pointer, f.Prometheus} {
			if a != nil {
				d.fail(a.NameRange, "Needless "+a.Name, "Only facts that are asked by http have it.")
			}
		}
	case !validPath(out.HTTP):
		d.fail(f.HTTP.Expr.Range(), "Bad path", "Here http wants a path such as \"/stats\", of at most %d bytes without spaces.", bundle.MaxHTTPPathBytes)
	default:
		out.Service = d.healthService(&healthSchema{At: f.At, Service: f.Service}, c.Upgrade.Services, true)
	}
	if !bundle.ValidPointer(out.Pointer) {
		d.fail(f.Pointer.Expr.Range(), "Bad pointer", `Here pointer wants a JSON pointer (RFC 6901), such as "/calls/failed".`)
	}
	if f.Prometheus == nil {
		return out
	}
	if _, err := bundle.ParseSeries(out.Prometheus); err != nil && out.Prometheus != "" {
		d.fail(f.Prometheus.Expr.Range(), "Bad metric", "%v.", err)
	}
	if f.Pointer != nil {
		d.fail(f.Pointer.NameRange, "Needless pointer", "What prometheus selects is no JSON.")
	}
	return out
}

func (d *decoder) step(a *hcl.Attribute) float64 {
	if a == nil {
		return 0
	}
	const want = "a number, at least 0"
	v, ok := d.value(a, want, cty.Number)
	if !ok {
		return 0
	}
	x, _ := v.AsBigFloat().Float64()
	if x < 0 || math.IsInf(x, 0) {
		d.fail(a.Expr.Range(), "Out of range", "Here %s wants %s.", a.Name, want)
		return 0
	}
	return x
}

// conditions checks the conditions of a schedule against the facts of the class.
func (d *decoder) conditions(s *classSchema, c *ClassSpec) {
	if s.Schedule == nil {
		return
	}
	facts := slices.Sorted(maps.Keys(c.Upgrade.Facts))
	c.Upgrade.Schedule.When = d.condition(s.Schedule.When, facts)
	c.Upgrade.Schedule.HoldIf = d.condition(s.Schedule.HoldIf, facts)
}

func (d *decoder) condition(a *hcl.Attribute, facts []string) string {
	text := strings.TrimRight(d.name(a), "\n")
	if text == "" {
		return ""
	}
	if !bundle.ValidExpression(text) {
		d.fail(a.Expr.Range(), "Bad condition", "Here %s wants text of at most %d bytes.", a.Name, bundle.MaxExpressionBytes)
		return ""
	}
	_, err := expr.Compile(text, facts)
	if e, bad := errors.AsType[*expr.Error](err); bad {
		at := d.within(a.Expr.Range(), text, e.Line, e.Column)
		d.fail(at, "Bad condition", "%s, at line %d, column %d: %s", a.Name, at.Start.Line, at.Start.Column, e.Text)
	}
	return text
}

// within is the place in the spec of a line and a column, from 1, of a text that stands
// there in quotes or below <<; all of the text where it cannot be found, since it has escapes.
func (d *decoder) within(at hcl.Range, text string, line, column int) hcl.Range {
	written := strings.SplitAfter(string(d.src[at.Start.Byte:at.End.Byte]), "\n")
	lines := strings.Split(text, "\n")
	below := min(len(written)-1, 1) // what begins with << begins on the line after that
	if line > len(lines) || line-1+below >= len(written) {
		return at
	}
	before := strings.Join(written[:line-1+below], "")
	i := strings.Index(written[line-1+below], lines[line-1])
	if i < 0 {
		return at
	}
	here := []rune(lines[line-1])
	i += len(string(here[:min(column-1, len(here))]))
	pos := hcl.Pos{Line: at.Start.Line + line - 1 + below, Column: 1 + len([]rune(written[line-1+below][:i])), Byte: at.Start.Byte + len(before) + i}
	if below == 0 {
		pos.Column += at.Start.Column - 1
	}
	return hcl.Range{Filename: at.Filename, Start: pos, End: hcl.Pos{Line: pos.Line, Column: pos.Column + 1, Byte: pos.Byte + 1}}
}
