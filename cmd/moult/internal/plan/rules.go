package plan

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"moult/cmd/moult/internal/screen"
	"moult/simlayer/so"
)

// Outline is what a rules file says, without how.
type Outline struct {
	// Calls counts the call blocks: Mapped are answered by calls of the other
	// version, Answered without one, Passed as they are, and Denied never.
	Calls    int `json:"calls"`
	Mapped   int `json:"mapped"`
	Answered int `json:"answered"`
	Passed   int `json:"passed"`
	Denied   int `json:"denied"`
	// Denials lists what is denied, in the order of the file.
	Denials []Denial `json:"denials"`
	// Default is what becomes of calls that the file does not list: "mapped",
	// "answered", "passed" or "denied".
	Default  string `json:"default"`
	Examples int    `json:"examples"`
}

// Denial is one deny block.
type Denial struct {
	Call string `json:"call"` // "GET /get", or "every other call"
	// Always is true where every such call is denied; else it depends on the
	// call, or on what the other version answers.
	Always bool   `json:"always"`
	Reason string `json:"reason"`
}

const everyOther = "every other call"

// outlineRules reads the outline of a rules file, which must parse.
func outlineRules(data []byte, name string) (*Outline, error) {
	if _, err := so.ParseRules(data, name); err != nil {
		return nil, err
	}
	file, diags := hclsyntax.ParseConfig(data, name, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return nil, errors.New("it is not in HCL's native syntax")
	}
	o := &Outline{Denials: []Denial{}}
	for _, b := range body.Blocks {
		switch b.Type {
		case "call":
			o.Calls++
			o.count(o.outcome(b, strings.Join(b.Labels, " ")))
		case "default":
			o.Default = o.outcome(b, everyOther)
		case "example":
			o.Examples++
		}
	}
	return o, nil
}

func (o *Outline) count(outcome string) {
	switch outcome {
	case "mapped":
		o.Mapped++
	case "answered":
		o.Answered++
	case "passed":
		o.Passed++
	default:
		o.Denied++
	}
}

// outcome notes the denials of a block and returns what becomes of its calls
// that are not denied.
func (o *Outline) outcome(b *hclsyntax.Block, call string) string {
	o.denials(b.Body, call, true)
	if _, ok := b.Body.Attributes["pass"]; ok {
		return "passed"
	}
	for _, inner := range b.Body.Blocks {
		switch inner.Type {
		case "next":
			return "mapped"
		case "answer":
			return "answered"
		}
	}
	return "denied"
}

// denials notes every deny block below body: over requests, which top says, and
// over responses.
func (o *Outline) denials(body *hclsyntax.Body, call string, top bool) {
	for _, b := range body.Blocks {
		if b.Type != "deny" {
			o.denials(b.Body, call, false)
			continue
		}
		_, conditional := b.Body.Attributes["when"]
		o.Denials = append(o.Denials, Denial{Call: call, Always: top && !conditional, Reason: constantText(b.Body.Attributes["reason"])})
	}
}

// constantText returns an attribute's text; empty where it has none.
func constantText(a *hclsyntax.Attribute) string {
	if a == nil {
		return ""
	}
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() || v.IsNull() || v.Type() != cty.String {
		return ""
	}
	return v.AsString()
}

func (o *Outline) words() string {
	parts := []string{fmt.Sprintf("rules for %s", screen.Count(o.Calls, "call"))}
	for _, n := range []struct {
		n    int
		what string
	}{{o.Mapped, "mapped"}, {o.Answered, "answered"}, {o.Passed, "passed on"}, {o.Denied, "denied"}} {
		if n.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	s := parts[0]
	if len(parts) > 1 {
		s += " (" + strings.Join(parts[1:], ", ") + ")"
	}
	return s + ", " + everyOther + " " + o.Default
}
