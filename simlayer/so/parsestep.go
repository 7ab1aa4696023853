package so

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
)

// steps reads the steps of a call.
func (p *parser) steps(blocks hcl.Blocks, names []string) (list []*step) {
	if len(blocks) > MaxSteps {
		p.fail(blocks[MaxSteps].DefRange, "more than %d steps", MaxSteps)
		return nil
	}
	for _, blk := range blocks {
		s := p.step(blk, names)
		switch {
		case !paramName.MatchString(s.name):
			p.fail(blk.LabelRanges[0], "step %.80q: want a name of letters, digits and _", s.name)
		case slices.ContainsFunc(list, func(e *step) bool { return e.name == s.name }):
			p.fail(blk.LabelRanges[0], "step %q comes twice", s.name)
		}
		list = append(list, s)
	}
	return list
}

func (p *parser) step(blk *hcl.Block, names []string) *step {
	attrs := append([]string{"when", "foreach", "expect"}, targetAttributes...)
	content := p.content(blk.Body, attrs, block("deny"), block("response", "status"))
	s := &step{
		name:    blk.Labels[0],
		when:    p.expression(content.Attributes["when"], false),
		foreach: p.expression(content.Attributes["foreach"], false),
		expect:  []statuses{{200, 299}},
		denials: p.denials(content.Blocks.OfType("deny"), true),
	}
	t, names := p.target("step", blk.Labels[1], blk.LabelRanges[1], content.Attributes, names)
	s.target = *t
	if attr := content.Attributes["expect"]; attr != nil {
		s.expect = nil
		for _, label := range p.names(attr) {
			one, err := statusRange(label)
			if err != nil {
				p.fail(attr.Expr.Range(), "expect %.80q: %v", label, err)
			}
			s.expect = append(s.expect, one)
		}
	}
	if n := len(s.denials); n > 0 && s.denials[n-1].when == nil {
		p.fail(blk.DefRange, "deny without when: what follows the step is never reached; a deny of the call itself says so before anything is sent")
	}
	s.responses = p.responses(content.Blocks.OfType("response"), names)
	for i, r := range s.responses {
		if slices.ContainsFunc(s.expect, func(e statuses) bool { return e.low <= r.low && r.high <= e.high }) {
			p.fail(content.Blocks.OfType("response")[i].LabelRanges[0], "this response is never reached: the step expects all that it is for, and goes on")
		}
	}
	return s
}
