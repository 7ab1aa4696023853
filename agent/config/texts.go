package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"moult/store/bundle"
	"moult/store/bundle/hclguard"
	"moult/store/bundle/placeholder"
)

// texts sets what may refer to what is known only when the software starts.
func (h agentHCL) texts(c *Config) (diags hcl.Diagnostics) {
	agent := hclguard.References{State: true, Of: "The file", Services: slices.Collect(maps.Keys(c.Services))}
	all := agent
	all.Vars, all.Args = true, true
	c.Env = texts(&diags, agent, h.Env)
	c.Vars = texts(&diags, hclguard.References{}, h.Vars)
	for name, v := range c.Vars {
		c.Vars[name], _ = placeholder.Plain(v) // there is none in it
	}
	c.Args = list(&diags, agent, h.Args)
	if h.Adopt != nil {
		c.Adopt.Command = list(&diags, all, h.Adopt.Command)
		if h.Adopt.Health != nil {
			c.Adopt.Health.Exec = list(&diags, all, h.Adopt.Health.Exec)
		}
	}
	return diags
}

// list evaluates a list of texts.
func list(diags *hcl.Diagnostics, r hclguard.References, e hcl.Expression) (out []string) {
	v, ok := kept(diags, r, e, `a list of texts, such as ["--verbose"]`, func(t cty.Type) bool { return t.IsTupleType() || t.IsListType() })
	if !ok {
		return nil
	}
	for _, text := range v.AsValueSlice() {
		out = append(out, text.AsString())
	}
	return out
}

// texts evaluates texts by name.
func texts(diags *hcl.Diagnostics, r hclguard.References, e hcl.Expression) map[string]string {
	v, ok := kept(diags, r, e, `texts by name, such as { LOG = "info" }`, func(t cty.Type) bool { return t.IsObjectType() || t.IsMapType() })
	if !ok {
		return nil
	}
	out := map[string]string{}
	for name, text := range v.AsValueMap() {
		out[name] = text.AsString()
	}
	return out
}

// kept evaluates an expression, if there is one, to a collection of texts. Numbers and
// bools in it count as texts, as everywhere in the file.
func kept(diags *hcl.Diagnostics, r hclguard.References, e hcl.Expression, want string, is func(cty.Type) bool) (v cty.Value, ok bool) {
	v, more := r.Keep(e)
	*diags = append(*diags, more...)
	if more.HasErrors() || v.IsNull() {
		return v, false
	}
	if v.IsWhollyKnown() && is(v.Type()) {
		if v, ok = asTexts(v); ok {
			return v, true
		}
	}
	*diags = append(*diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Unsuitable value type", Detail: "Here " + want + " can stand.", Subject: e.Range().Ptr(),
	})
	return v, false
}

// checkTexts checks what a command is filled in with.
func (c Config) checkTexts() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Vars) > maxVars {
		bad("vars: %d of them, the most is %d", len(c.Vars), maxVars)
	}
	if len(c.Args) > bundle.MaxArgs {
		bad("args: %d of them, the most is %d", len(c.Args), bundle.MaxArgs)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Vars)) {
		if v := c.Vars[name]; !placeholder.ValidVar(name) {
			bad("vars: %.80q is no name: want a letter, then letters, digits, _ and -, at most 63", name)
		} else if len(v) > bundle.MaxArgBytes || strings.ContainsRune(v, 0) {
			bad("vars: %s: want at most %d bytes, none of them zero", name, bundle.MaxArgBytes)
		}
	}
	for i, arg := range c.Args {
		if len(arg) > bundle.MaxArgBytes {
			bad("args[%d]: %d bytes, the most is %d", i, len(arg), bundle.MaxArgBytes)
		}
	}
	errs = append(errs, c.checkOnEvent())
	if c.Adopt != nil {
		for what, argv := range map[string][]string{"command": c.Adopt.Command, "health: exec": c.Adopt.Health.Exec} {
			if _, err := c.Settle(argv); err != nil {
				bad("adopt: %s: %w", what, err)
			}
		}
	}
	return errors.Join(errs...)
}

// checkOnEvent checks the command that is told what happens. Whether there is such a
// program is found out when the agent starts.
func (c Config) checkOnEvent() error {
	if len(c.OnEvent) == 0 {
		return nil
	}
	if c.OnEvent[0] == "" {
		return errors.New("on_event: its first text names no program: want [\"PROGRAM\", \"ARG\", …], without a shell")
	}
	if len(c.OnEvent) > bundle.MaxArgs {
		return fmt.Errorf("on_event: %d texts, the most is %d", len(c.OnEvent), bundle.MaxArgs)
	}
	for i, arg := range c.OnEvent {
		if len(arg) > bundle.MaxArgBytes || strings.ContainsRune(arg, 0) {
			return fmt.Errorf("on_event[%d]: want at most %d bytes, none of them zero", i, bundle.MaxArgBytes)
		}
	}
	return nil
}

// Settle fills in of a command line what this node's operator has set. The rest stays
// for when it is run (see package placeholder).
func (c Config) Settle(argv []string) ([]string, error) {
	out, err := placeholder.Settle(argv, c.Args, c.Vars)
	if unset, ok := errors.AsType[*placeholder.UnsetError](err); ok {
		return nil, fmt.Errorf("%w: say vars = { %s = \"…\" } in agent.hcl and restart the agent", err, unset.Name)
	}
	if err != nil {
		return nil, err
	}
	size := 0
	for _, arg := range out {
		size += len(arg) + 1
		if len(arg) > maxFilledArg {
			return nil, fmt.Errorf("%.40q… becomes longer than %d bytes by the vars of agent.hcl: shorten them", arg, maxFilledArg)
		}
	}
	if size > maxFilled {
		return nil, fmt.Errorf("it becomes longer than %d bytes by the args and vars of agent.hcl: shorten them", maxFilled)
	}
	return out, nil
}

// asTexts makes a text of every element.
func asTexts(v cty.Value) (cty.Value, bool) {
	v, err := cty.Transform(v, func(path cty.Path, v cty.Value) (cty.Value, error) {
		if len(path) == 0 {
			return v, nil
		}
		s, err := convert.Convert(v, cty.String)
		if err == nil && s.IsNull() {
			err = errors.New("null")
		}
		return s, err
	})
	return v, err == nil
}
