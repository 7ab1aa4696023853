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
	content := p.content(b, nil, block("call", "call"), block("default"))
	for _, blk := range content.Blocks {
		switch {
		case blk.Type == "default" && rules.other != nil:
			p.fail(blk.DefRange, "default comes twice; the other is at line %s", rules.other.place)
		case blk.Type == "default":
			rules.other = p.other(blk)
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
	return rules
}

// reachable refuses a call that an earlier one leaves nothing to.
func (p *parser) reachable(earlier []*call, c *call, at hcl.Range) {
	for _, e := range earlier {
		unconditional := len(e.query) == 0 && len(e.headers) == 0
		if unconditional && (e.method == "" || e.method == c.method) && e.pattern.covers(c.pattern) {
			p.fail(at, "this call is never reached: the one at %s takes all that it would match", e.place)
			return
		}
	}
}

func placeOf(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// call reads a call block, or returns nil when its label is wrong.
func (p *parser) call(blk *hcl.Block) *call {
	method, path, err := splitLabel(blk.Labels[0])
	var pat pattern
	if err == nil {
		pat, err = parsePattern(path)
	}
	if err != nil {
		p.fail(blk.LabelRanges[0], "call %.80q: %v", blk.Labels[0], err)
		return nil
	}
	c := &call{place: placeOf(blk.DefRange), method: method, pattern: pat}
	content := p.content(blk.Body, []string{"query", "headers", "params", "pass"},
		block("deny"), block("next", "next"), block("answer"), block("response", "status"))
	c.query = p.names(content.Attributes["query"])
	for _, name := range p.names(content.Attributes["headers"]) {
		c.headers = append(c.headers, http.CanonicalHeaderKey(name))
	}
	names := pat.names()
	c.params = p.params(content.Attributes["params"], names)
	for _, one := range c.params {
		names = append(names, one.name)
	}
	p.action(c, content, names, blk.DefRange)
	c.settle()
	return c
}

// other reads the default block.
func (p *parser) other(blk *hcl.Block) *call {
	c := &call{place: placeOf(blk.DefRange)}
	content := p.content(blk.Body, []string{"pass"}, block("deny"), block("answer"))
	p.action(c, content, nil, blk.DefRange)
	c.settle()
	return c
}

func (p *parser) params(attr *hcl.Attribute, taken []string) []param {
	var params []param
	for _, one := range p.pairs(attr) {
		switch {
		case !paramName.MatchString(one.name):
			p.fail(one.at, "params: %q: want a name of letters, digits and _", one.name)
		case slices.Contains(taken, one.name):
			p.fail(one.at, "params: %q: the path has a parameter of that name", one.name)
		default:
			if e := p.compile(one.value, "params."+one.name, one.at, false); e != nil {
				params = append(params, param{one.name, e})
			}
		}
	}
	return params
}

// action reads what a call does, and checks that it is one thing.
func (p *parser) action(c *call, content *hcl.BodyContent, names []string, at hcl.Range) {
	var did []string
	c.denials = p.denials(content.Blocks.OfType("deny"), false)
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
		c.answer = p.answer(blk, names)
		did = append(did, "answer")
	}
	for _, blk := range content.Blocks.OfType("next") {
		c.next = p.next(blk, names)
		did = append(did, "next")
	}
	if len(did) != 1 {
		has := "none"
		if len(did) > 0 {
			has = strings.Join(did, ", ")
		}
		p.fail(at, "want exactly one of next, answer, pass and a deny without when, have %s", has)
	}
	responses := content.Blocks.OfType("response")
	if len(responses) > 0 && c.next == nil {
		p.fail(responses[0].DefRange, "response: there is no next whose response it could be")
		return
	}
	if len(responses) > MaxResponses {
		p.fail(responses[MaxResponses].DefRange, "more than %d responses", MaxResponses)
		return
	}
	for _, blk := range responses {
		r := p.response(blk, names)
		for _, e := range c.responses {
			if e.low <= r.low && r.high <= e.high {
				p.fail(blk.LabelRanges[0], "this response is never reached: an earlier one takes all that it is for")
				break
			}
		}
		c.responses = append(c.responses, r)
	}
}

// settle works out what c's expressions need.
func (c *call) settle() {
	add := func(e *expr) {
		if e != nil {
			c.readsRequest = c.readsRequest || e.body || e.callerBody
		}
	}
	for _, one := range c.params {
		add(one.value)
	}
	for _, d := range c.denials {
		add(d.when)
	}
	if c.next != nil {
		add(c.next.body)
	}
	if c.answer != nil {
		add(c.answer.body)
	}
	for _, r := range c.responses {
		whole := func(e *expr) {
			if e != nil {
				c.readsRequest = c.readsRequest || e.callerBody
				r.reads = r.reads || e.body
			}
		}
		for _, d := range r.denials {
			whole(d.when)
		}
		whole(r.body)
		c.plainResponse = c.plainResponse || r.reads || r.body != nil
	}
}

func (p *parser) denials(blocks hcl.Blocks, overResponse bool) []*denial {
	if len(blocks) > MaxDenies {
		p.fail(blocks[MaxDenies].DefRange, "more than %d denials", MaxDenies)
		return nil
	}
	var list []*denial
	for i, blk := range blocks {
		content := p.content(blk.Body, []string{"when", "status", "reason"})
		d := &denial{
			when:   p.expression(content.Attributes["when"], overResponse),
			status: p.status(content.Attributes["status"], 400, http.StatusNotImplemented),
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

func (p *parser) next(blk *hcl.Block, names []string) *target {
	t := &target{}
	method, path, err := splitLabel(blk.Labels[0])
	if err == nil {
		t.method = method
		t.url, err = parseURLTemplate(path, names)
	}
	if err != nil {
		p.fail(blk.LabelRanges[0], "next %.80q: %v", blk.Labels[0], err)
	}
	content := p.content(blk.Body, []string{"keep_query", "headers", "body"})
	t.keepQuery = p.boolean(content.Attributes["keep_query"])
	t.edits = p.edits(content.Attributes["headers"], names)
	t.body = p.expression(content.Attributes["body"], false)
	return t
}

func (p *parser) answer(blk *hcl.Block, names []string) *answer {
	content := p.content(blk.Body, []string{"status", "headers", "body"})
	a := &answer{
		status: p.status(content.Attributes["status"], 200, http.StatusOK),
		edits:  p.edits(content.Attributes["headers"], names),
		body:   p.expression(content.Attributes["body"], false),
	}
	if a.body != nil && !bodyAllowed(a.status) {
		p.fail(content.Attributes["body"].Range, "body: an answer of status %d has none", a.status)
	}
	return a
}

func (p *parser) response(blk *hcl.Block, names []string) *response {
	content := p.content(blk.Body, []string{"status", "headers", "body"}, block("deny"))
	r := &response{
		denials: p.denials(content.Blocks.OfType("deny"), true),
		status:  p.status(content.Attributes["status"], 200, 0),
		edits:   p.edits(content.Attributes["headers"], names),
		body:    p.expression(content.Attributes["body"], true),
	}
	var err error
	if r.low, r.high, err = statusRange(blk.Labels[0]); err != nil {
		p.fail(blk.LabelRanges[0], "response %.80q: %v", blk.Labels[0], err)
	}
	if r.body != nil && r.status != 0 && !bodyAllowed(r.status) {
		p.fail(content.Attributes["body"].Range, "body: an answer of status %d has none", r.status)
	}
	return r
}

// statusRange reads "404", "4xx" or "*".
func statusRange(label string) (low, high int, err error) {
	if label == "*" {
		return 200, 599, nil
	}
	if class, ok := strings.CutSuffix(label, "xx"); ok && len(class) == 1 && class >= "2" && class <= "5" {
		low = int(class[0]-'0') * 100
		return low, low + 99, nil
	}
	n, err := strconv.Atoi(label)
	if err != nil || n < 200 || n > 599 {
		return 0, 0, fmt.Errorf(`want a status from 200 to 599, a class as in "4xx", or "*"`)
	}
	return n, n, nil
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
