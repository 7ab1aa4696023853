package hclguard

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"moult/store/bundle/placeholder"
)

// References says what an expression may refer to, for only a node's agent knows it.
type References struct {
	State, Vars, Args bool
	// Services are those that can be named; Of says what declares them.
	Services []string
	Of       string
	// Instead, where set, says where a program that is given no state and no services
	// finds the like.
	Instead string
}

// Keep evaluates an expression whose references stay: in each of its texts they become
// placeholders (package placeholder), and what else the text says is escaped. Problems
// have a place.
func (r References) Keep(e hcl.Expression) (v cty.Value, diags hcl.Diagnostics) {
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{}}
	for _, ref := range e.Variables() {
		name, problem := r.name(ref)
		if problem != "" {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Unknown reference", Detail: problem, Subject: ref.SourceRange().Ptr(),
			})
		}
		ctx.Variables[name] = cty.StringVal(placeholder.Mark(name))
	}
	if diags.HasErrors() {
		return cty.NilVal, diags
	}
	defer r.flatten(e)()
	v, diags = e.Value(ctx)
	if diags.HasErrors() {
		return cty.NilVal, diags
	}
	v, err := cty.Transform(v, func(_ cty.Path, v cty.Value) (cty.Value, error) {
		if v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
			return v, nil
		}
		s, err := placeholder.Marked(v.AsString())
		return cty.StringVal(s), err
	})
	if err != nil {
		return cty.NilVal, hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Bad text", Detail: err.Error(), Subject: e.Range().Ptr(),
		}}
	}
	return v, nil
}

// flatten makes each reference of e one name, since ${service.api} is a text and has
// parts at once; the function that it returns undoes that.
func (r References) flatten(e hcl.Expression) (undo func()) {
	node, ok := e.(hclsyntax.Node)
	if !ok {
		return func() {}
	}
	before := map[*hclsyntax.ScopeTraversalExpr]hcl.Traversal{}
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl.Diagnostics {
		if t, ok := n.(*hclsyntax.ScopeTraversalExpr); ok {
			if name, problem := r.name(t.Traversal); problem == "" {
				before[t] = t.Traversal
				t.Traversal = hcl.Traversal{hcl.TraverseRoot{Name: name, SrcRange: t.SrcRange}}
			}
		}
		return nil
	})
	return func() {
		for t, was := range before {
			t.Traversal = was
		}
	}
}

// name is the placeholder's name of a reference, or what is wrong with it.
func (r References) name(ref hcl.Traversal) (name, problem string) {
	root := ref.RootName()
	steps := []string{root}
	for _, step := range ref[1:] {
		switch step := step.(type) {
		case hcl.TraverseAttr:
			steps = append(steps, step.Name)
		case hcl.TraverseIndex:
			if step.Key.Type() == cty.String {
				steps = append(steps, step.Key.AsString())
			}
		}
	}
	name = strings.Join(steps, ".")
	switch {
	case r.Instead != "" && (root == "state" || root == "service"):
		return name, r.Instead
	case len(steps) != len(ref): // an index that is no text
	case name == placeholder.State && r.State, name == placeholder.Args && r.Args:
		return name, ""
	case root == "vars" && len(steps) == 2 && r.Vars:
		if !placeholder.ValidVar(steps[1]) {
			return name, fmt.Sprintf("A variable is named by a letter, and then letters, digits, _ and -, at most 63; not %.80q.", steps[1])
		}
		return name, ""
	case root == "service" && (len(steps) == 2 || len(steps) == 3):
		if !slices.Contains(r.Services, steps[1]) {
			return name, fmt.Sprintf("%s has no service %q; %s.", r.Of, steps[1], r.declared())
		}
		if len(steps) == 2 || steps[2] == "host" || steps[2] == "port" {
			return name, ""
		}
		return name, fmt.Sprintf("A service has host and port, such as ${service.%s.port}, and no %q.", steps[1], steps[2])
	}
	return name, "Here " + r.known() + " can stand; write $${…} for a text that the software should see as ${…}."
}

func (r References) declared() string {
	if len(r.Services) == 0 {
		return "it declares none"
	}
	return "it declares " + strings.Join(slices.Sorted(slices.Values(r.Services)), ", ")
}

// known lists what can stand.
func (r References) known() string {
	can := map[string]bool{"${args}": r.Args, "${service.NAME}, ${service.NAME.host}, ${service.NAME.port}": r.Of != "", "${state}": r.State, "${vars.NAME}": r.Vars}
	maps.DeleteFunc(can, func(_ string, ok bool) bool { return !ok })
	words := slices.Sorted(maps.Keys(can))
	if len(words) < 2 {
		return strings.Join(append(words, "no reference")[:1], "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
