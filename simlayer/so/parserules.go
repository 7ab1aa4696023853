package so

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// file reads a whole rules file.
func (p *parser) file(b hcl.Body, filename string) *Rules {
	rules := &Rules{name: filename}
	content := p.content(b, nil, block("call", "call"), block("default"), block("refusal"), block("example", "title"))
	for _, blk := range content.Blocks {
		switch {
		case blk.Type == "example":
			p.addExample(rules, blk)
		case blk.Type == "default" && rules.other != nil:
			p.fail(blk.DefRange, "default comes twice; the other is at line %s", rules.other.place)
		case blk.Type == "default":
			rules.other = p.other(blk)
		case blk.Type == "refusal" && rules.refusal != nil:
			p.fail(blk.DefRange, "refusal comes twice")
		case blk.Type == "refusal":
			rules.refusal = p.refusal(blk)
		case len(rules.calls) == MaxCalls:
			p.fail(blk.DefRange, "more than %d calls", MaxCalls)
			return rules
		default:
			if c := p.call(blk); c != nil {
				p.reachable(rules.calls, c, blk.LabelRanges[0])
				rules.calls = append(rules.calls, c)
			}
		}
	}
	if rules.other == nil {
		p.fail(b.MissingItemRange(), `the file has no default block: say what becomes of calls that it does not list, with "pass = true" or "deny { … }"`)
	}
	rules.unbounded = p.unbounded
	return rules
}

// reachable refuses a call that an earlier one leaves nothing to.
func (p *parser) reachable(earlier []*callRule, c *callRule, at hcl.Range) {
	for _, e := range earlier {
		unconditional := len(e.query) == 0 && len(e.headers) == 0 && e.when == nil
		if unconditional && (e.method == "" || e.method == c.method) && e.pattern.covers(c.pattern) {
			p.fail(at, "this call is never reached: the one at %s takes all that it would match", e.place)
			return
		}
	}
}

// call reads a call block, or returns nil when its label is wrong.
func (p *parser) call(blk *hcl.Block) *callRule {
	method, path, err := splitLabel(blk.Labels[0])
	var pat pattern
	if err == nil {
		pat, err = parsePattern(path)
	}
	if err != nil {
		p.fail(blk.LabelRanges[0], "call %.80q: %v", blk.Labels[0], err)
		return nil
	}
	c := &callRule{place: placeOf(blk.DefRange), label: blk.Labels[0], method: method, pattern: pat}
	content := p.content(blk.Body, []string{"query", "headers", "when", "params", "pass"},
		block("deny"), block("step", "name", "next"), block("next", "next"), block("answer"), block("response", "status"))
	c.query = p.names(content.Attributes["query"])
	for _, name := range p.names(content.Attributes["headers"]) {
		c.headers = append(c.headers, http.CanonicalHeaderKey(name))
	}
	c.when = p.expression(content.Attributes["when"], false)
	names := pat.names()
	c.params, names = p.params(content.Attributes["params"], names, false)
	c.steps = p.steps(content.Blocks.OfType("step"), names)
	p.action(c, content, names, blk.DefRange)
	c.settle()
	return c
}

// other reads the default block.
func (p *parser) other(blk *hcl.Block) *callRule {
	c := &callRule{place: placeOf(blk.DefRange), label: "default"}
	content := p.content(blk.Body, []string{"pass"}, block("deny"), block("answer"))
	p.action(c, content, nil, blk.DefRange)
	c.settle()
	return c
}

// params reads more parameters beside those that are there already, and returns
// the names of all.
func (p *parser) params(attr *hcl.Attribute, taken []string, overResponse bool) ([]param, []string) {
	var params []param
	names := slices.Clone(taken)
	for _, one := range p.pairs(attr) {
		switch {
		case !paramName.MatchString(one.name):
			p.fail(one.at, "params: %q: want a name of letters, digits and _", one.name)
		case slices.Contains(taken, one.name):
			p.fail(one.at, "params: %q: the path has a parameter of that name, or the call has", one.name)
		default:
			if e := p.compile(one.value, "params."+one.name, one.at, overResponse); e != nil {
				params = append(params, param{one.name, e})
			}
			names = append(names, one.name)
		}
	}
	return params, names
}

// action reads what a call does, and checks that it is one thing.
func (p *parser) action(c *callRule, content *hcl.BodyContent, names []string, at hcl.Range) {
	var did []string
	c.denials = p.denials(content.Blocks.OfType("deny"), names, false)
	if n := len(c.denials); n > 0 && c.denials[n-1].when == nil {
		did = append(did, "deny without when")
	}
	if attr := content.Attributes["pass"]; attr != nil {
		if c.pass = p.boolean(attr); c.pass {
			did = append(did, "pass")
		} else {
			p.fail(attr.Range, "pass: want true, or leave it out")
		}
	}
	for _, blk := range content.Blocks.OfType("answer") {
		a := p.answer(blk, names)
		switch {
		case len(c.answers) == MaxResponses:
			p.fail(blk.DefRange, "more than %d answers", MaxResponses)
		case slices.Contains(did, "answer"):
			p.fail(blk.DefRange, "this answer is never reached: the one before has no when")
		case a.when == nil:
			did = append(did, "answer")
		}
		c.answers = append(c.answers, a)
	}
	forResponses := names
	for _, blk := range content.Blocks.OfType("next") {
		c.next, forResponses = p.next(blk, names)
		did = append(did, "next")
	}
	if len(did) != 1 {
		has := "none"
		if len(did) > 0 {
			has = strings.Join(did, ", ")
		}
		p.fail(at, "want exactly one of next, answer, pass and a deny without when, have %s", has)
	}
	if len(c.steps) > 0 && slices.Contains(did, "deny without when") {
		p.fail(at, "the steps are never made: every call is denied")
	}
	responses := content.Blocks.OfType("response")
	if len(responses) > 0 && c.next == nil {
		p.fail(responses[0].DefRange, "response: there is no next whose response it could be")
		return
	}
	c.responses = p.responses(responses, forResponses)
}

// responses reads the responses of a call.
func (p *parser) responses(blocks hcl.Blocks, names []string) (list []*response) {
	if len(blocks) > MaxResponses {
		p.fail(blocks[MaxResponses].DefRange, "more than %d responses", MaxResponses)
		return nil
	}
	for _, blk := range blocks {
		r := p.response(blk, names)
		for _, e := range list {
			if e.low <= r.low && r.high <= e.high {
				p.fail(blk.LabelRanges[0], "this response is never reached: an earlier one takes all that it is for")
				break
			}
		}
		list = append(list, r)
	}
	return list
}

func (p *parser) denials(blocks hcl.Blocks, names []string, overResponse bool) []*denial {
	if len(blocks) > MaxDenies {
		p.fail(blocks[MaxDenies].DefRange, "more than %d denials", MaxDenies)
		return nil
	}
	var list []*denial
	for i, blk := range blocks {
		content := p.content(blk.Body, append([]string{"when", "reason"}, messageAttributes...))
		d := &denial{
			when:    p.expression(content.Attributes["when"], overResponse),
			message: p.message(content.Attributes, names, 400, overResponse),
		}
		reason := content.Attributes["reason"]
		text, ok := p.text(reason)
		d.reason = strings.TrimSpace(text)
		if reason == nil || ok && (d.reason == "" || len(d.reason) > MaxReasonBytes) {
			p.fail(blk.DefRange, "deny: want a reason for the caller, of 1 to %d bytes", MaxReasonBytes)
		}
		if content.Attributes["when"] == nil && i != len(blocks)-1 {
			p.fail(blk.DefRange, "deny without when: what follows is never reached")
		}
		list = append(list, d)
	}
	return list
}

// targetAttributes are those of next and step alike.
var targetAttributes = []string{"params", "keep_query", "headers", "body", "text", "form"}

// target reads what next and step have in common. names are the parameters that
// there are; those of the target's own join them for what comes after.
func (p *parser) target(word, label string, at hcl.Range, attrs hcl.Attributes, names []string) (*target, []string) {
	t := &target{}
	t.params, names = p.params(attrs["params"], names, false)
	method, path, err := splitLabel(label)
	if err == nil {
		t.method = method
		t.url, err = parseURLTemplate(path, names)
	}
	if err != nil {
		p.fail(at, "%s %.80q: %v", word, label, err)
	}
	t.keepQuery = p.boolean(attrs["keep_query"])
	t.edits = p.edits(attrs["headers"], names)
	t.content = p.made(attrs, names, false)
	return t, names
}

// next reads a next block, and returns the names of the parameters that its
// responses may use.
func (p *parser) next(blk *hcl.Block, names []string) (*target, []string) {
	content := p.content(blk.Body, targetAttributes)
	return p.target("next", blk.Labels[0], blk.LabelRanges[0], content.Attributes, names)
}

// made reads a body, which is JSON, text or a form.
func (p *parser) made(attrs hcl.Attributes, names []string, overResponse bool) content {
	c := content{json: p.expression(attrs["body"], overResponse)}
	c.made = attrs["body"] != nil
	for _, name := range []string{"text", "form"} {
		attr := attrs[name]
		if attr == nil {
			continue
		}
		if c.made {
			p.fail(attr.Range, "%s: there is a body already; want one of them", name)
		}
		c.made = true
		s, ok := p.text(attr)
		if !ok {
			continue
		}
		var err error
		if name == "text" {
			c.text, err = parseTextTemplate(s, names)
		} else {
			c.form, err = parsePairs(s, names)
		}
		if err != nil {
			p.fail(attr.Expr.Range(), "%s: %v", name, err)
		}
	}
	return c
}

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
	}
	t, names := p.target("step", blk.Labels[1], blk.LabelRanges[1], content.Attributes, names)
	s.target = *t
	s.denials = p.denials(content.Blocks.OfType("deny"), names, true)
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

// messageAttributes are those of all that is said to callers.
var messageAttributes = []string{"params", "status", "headers", "body", "text", "form"}

// message reads what a rule says to the caller, with a status from low on.
func (p *parser) message(attrs hcl.Attributes, names []string, low int, overResponse bool) (m message) {
	m.status = p.statusOf(attrs["status"], low, overResponse)
	m.params, names = p.params(attrs["params"], names, overResponse)
	m.edits = p.edits(attrs["headers"], names)
	m.content = p.made(attrs, names, overResponse)
	if s := m.status.fixed; m.content.made && s != 0 && !bodyAllowed(s) {
		p.fail(attrs["status"].Range, "body: an answer of status %d has none", s)
	}
	return m
}

func (p *parser) answer(blk *hcl.Block, names []string) *answer {
	attrs := p.content(blk.Body, append([]string{"when"}, messageAttributes...)).Attributes
	return &answer{p.expression(attrs["when"], false), p.message(attrs, names, 200, false)}
}

// refusal reads the form of all refusals.
func (p *parser) refusal(blk *hcl.Block) *message {
	m := p.message(p.content(blk.Body, messageAttributes).Attributes, nil, 400, false)
	return &m
}

func (p *parser) response(blk *hcl.Block, names []string) *response {
	content := p.content(blk.Body, messageAttributes, block("deny"))
	r := &response{
		message: p.message(content.Attributes, names, 200, true),
		denials: p.denials(content.Blocks.OfType("deny"), names, true),
	}
	var err error
	if r.statuses, err = statusRange(blk.Labels[0]); err != nil {
		p.fail(blk.LabelRanges[0], "response %.80q: %v", blk.Labels[0], err)
	}
	return r
}

// statusRange reads "404", "4xx" or "*".
func statusRange(label string) (statuses, error) {
	if label == "*" {
		return statuses{200, 599}, nil
	}
	if class, ok := strings.CutSuffix(label, "xx"); ok && len(class) == 1 && class >= "2" && class <= "5" {
		low := int(class[0]-'0') * 100
		return statuses{low, low + 99}, nil
	}
	n, err := strconv.Atoi(label)
	if err != nil || n < 200 || n > 599 {
		return statuses{}, fmt.Errorf(`want a status from 200 to 599, a class as in "4xx", or "*"`)
	}
	return statuses{n, n}, nil
}

// notEdited are headers that are not the rules' to set.
var notEdited = append([]string{"Host", "Content-Length", "Expect", RefusalHeader}, hopByHop...)

func (p *parser) edits(attr *hcl.Attribute, names []string) []edit {
	var edits []edit
	for _, one := range p.pairs(attr) {
		name := http.CanonicalHeaderKey(one.name)
		t, err := parseTemplate(one.value, names)
		switch {
		case !token.MatchString(one.name):
			p.fail(one.at, "headers: %q is not a header name", one.name)
		case slices.Contains(notEdited, name):
			p.fail(one.at, "headers: %s is set by moult alone", name)
		case err != nil:
			p.fail(one.at, "headers.%s: %v", one.name, err)
		case strings.ContainsFunc(one.value, control):
			p.fail(one.at, "headers.%s: it has a control character", one.name)
		default:
			edits = append(edits, edit{name, t})
		}
	}
	return edits
}
