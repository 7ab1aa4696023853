package so

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/gocty"

	"moult/store/bundle/hclguard"
)

// ParseRules reads and compiles a rules file; filename is for errors only. An
// error lists the problems of the file, each with its line and the text there.
func ParseRules(data []byte, filename string) (*Rules, error) {
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("rules file %s: %d bytes, at most %d", filename, len(data), MaxFileBytes)
	}
	p := &parser{lines: bytes.Split(data, []byte("\n"))}
	if p.diags = hclguard.Check(data, filename); p.diags.HasErrors() {
		return nil, p.problems(filename)
	}
	file, diags := hclsyntax.ParseConfig(data, filename, hcl.InitialPos)
	p.diags = diags
	var rules *Rules
	if !diags.HasErrors() {
		rules = p.file(file.Body, filename)
	}
	if p.diags.HasErrors() {
		return nil, p.problems(filename)
	}
	return rules, nil
}

// parser turns HCL into rules and collects what is wrong.
type parser struct {
	lines     [][]byte
	diags     hcl.Diagnostics
	unbounded []string // places of expressions
}

func (p *parser) fail(at hcl.Range, format string, args ...any) {
	p.diags = append(p.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  fmt.Sprintf(format, args...),
		Subject:  &at,
	})
}

// problems puts the diagnostics into one error.
func (p *parser) problems(filename string) error {
	var errs []error
	for _, d := range p.diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		if len(errs) == maxProblems {
			errs = append(errs, fmt.Errorf("rules file %s: more problems follow", filename))
			break
		}
		errs = append(errs, p.problem(filename, d))
	}
	return errors.Join(errs...)
}

func (p *parser) problem(filename string, d *hcl.Diagnostic) error {
	message := d.Summary
	if d.Detail != "" {
		message += ": " + d.Detail
	}
	if d.Subject == nil {
		return fmt.Errorf("rules file %s: %s", filename, message)
	}
	start := d.Subject.Start
	text := ""
	if start.Line >= 1 && start.Line <= len(p.lines) {
		text = strings.TrimSpace(string(p.lines[start.Line-1]))
	}
	return fmt.Errorf("rules file %s:%d,%d: %s\n    %.120s", filename, start.Line, start.Column, message, text)
}

func placeOf(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// content reads a body that may have these attributes and blocks only.
func (p *parser) content(b hcl.Body, attrs []string, blocks ...hcl.BlockHeaderSchema) *hcl.BodyContent {
	schema := &hcl.BodySchema{Blocks: blocks}
	for _, name := range attrs {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name})
	}
	content, diags := b.Content(schema)
	p.diags = append(p.diags, diags...)
	return content
}

func block(name string, labels ...string) hcl.BlockHeaderSchema {
	return hcl.BlockHeaderSchema{Type: name, LabelNames: labels}
}

// value reads an attribute of one type; ok is false when it is not there or
// wrong.
func (p *parser) value(attr *hcl.Attribute, want cty.Type, word string) (v cty.Value, ok bool) {
	if attr == nil {
		return v, false
	}
	return p.constant(attr.Expr, attr.Name, want, word)
}

func (p *parser) constant(e hcl.Expression, name string, want cty.Type, word string) (cty.Value, bool) {
	v, diags := e.Value(nil)
	p.diags = append(p.diags, diags...)
	if diags.HasErrors() {
		return v, false
	}
	if v.IsNull() || !v.IsKnown() || v.Type() != want {
		p.fail(e.Range(), "%s: want %s", name, word)
		return v, false
	}
	return v, true
}

func (p *parser) text(attr *hcl.Attribute) (string, bool) {
	v, ok := p.value(attr, cty.String, "a string")
	if !ok {
		return "", false
	}
	return v.AsString(), true
}

func (p *parser) boolean(attr *hcl.Attribute) bool {
	v, ok := p.value(attr, cty.Bool, "true or false")
	return ok && v.True()
}

// statusOf reads a status of HTTP from low on, or an expression that computes one.
func (p *parser) statusOf(attr *hcl.Attribute, low int, overResponse bool) answerStatus {
	if attr == nil {
		return answerStatus{}
	}
	if v, diags := attr.Expr.Value(nil); !diags.HasErrors() && v.Type() == cty.String {
		return answerStatus{computed: p.expression(attr, overResponse)}
	}
	return answerStatus{fixed: p.status(attr, low, 0)}
}

// status reads a status of HTTP within bounds.
func (p *parser) status(attr *hcl.Attribute, low, otherwise int) int {
	high := 599
	v, ok := p.value(attr, cty.Number, "a number")
	if !ok {
		return otherwise
	}
	var n int
	if err := gocty.FromCtyValue(v, &n); err != nil || n < low || n > high {
		p.fail(attr.Expr.Range(), "status: want a number from %d to %d", low, high)
		return otherwise
	}
	return n
}

// names reads a list of strings.
func (p *parser) names(attr *hcl.Attribute) []string {
	if attr == nil {
		return nil
	}
	exprs, diags := hcl.ExprList(attr.Expr)
	p.diags = append(p.diags, diags...)
	if len(exprs) > MaxNames {
		p.fail(attr.Expr.Range(), "%s: %d names, at most %d", attr.Name, len(exprs), MaxNames)
		return nil
	}
	var names []string
	for _, e := range exprs {
		v, ok := p.constant(e, attr.Name, cty.String, "a list of strings")
		if !ok {
			continue
		}
		if s := v.AsString(); s == "" || len(s) > MaxPatternBytes {
			p.fail(e.Range(), "%s: want names of 1 to %d bytes", attr.Name, MaxPatternBytes)
		} else {
			names = append(names, s)
		}
	}
	return names
}

// pair is one entry of an attribute that maps names to strings.
type pair struct {
	name, value string
	at          hcl.Range
}

func (p *parser) pairs(attr *hcl.Attribute) []pair {
	if attr == nil {
		return nil
	}
	entries, diags := hcl.ExprMap(attr.Expr)
	p.diags = append(p.diags, diags...)
	if len(entries) > MaxNames {
		p.fail(attr.Expr.Range(), "%s: %d names, at most %d", attr.Name, len(entries), MaxNames)
		return nil
	}
	var pairs []pair
	seen := map[string]bool{}
	for _, e := range entries {
		name, ok := p.constant(e.Key, attr.Name, cty.String, "names")
		if !ok {
			continue
		}
		value, ok := p.constant(e.Value, attr.Name+"."+name.AsString(), cty.String, "a string")
		if !ok {
			continue
		}
		key := strings.ToLower(name.AsString())
		if seen[key] {
			p.fail(e.Key.Range(), "%s: %q comes twice", attr.Name, name.AsString())
		}
		seen[key] = true
		pairs = append(pairs, pair{name.AsString(), value.AsString(), e.Value.Range()})
	}
	return pairs
}

// expression reads a jq program, or nil.
func (p *parser) expression(attr *hcl.Attribute, overResponse bool) *expr {
	src, ok := p.text(attr)
	if !ok {
		return nil
	}
	return p.compile(src, attr.Name, attr.Expr.Range(), overResponse)
}

func (p *parser) compile(src, name string, at hcl.Range, overResponse bool) *expr {
	e, err := compile(src, overResponse)
	if err != nil {
		p.fail(at, "%s: not a jq program: %v", name, err)
		return nil
	}
	if !e.Bounded() {
		p.unbounded = append(p.unbounded, placeOf(at)+": "+name)
	}
	return e
}
