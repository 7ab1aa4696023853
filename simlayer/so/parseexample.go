package so

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

func (p *parser) addExample(rules *Rules, blk *hcl.Block) {
	if len(rules.examples) == MaxExamples {
		p.fail(blk.DefRange, "more than %d examples", MaxExamples)
		return
	}
	content := p.content(blk.Body, nil, block("request", "call"), block("next", "call"), block("response", "status"), block("denied"), block("refused"))
	e := &example{title: blk.Labels[0], place: placeOf(blk.DefRange)}
	if strings.TrimSpace(e.title) == "" || len(e.title) > MaxPatternBytes || strings.ContainsFunc(e.title, control) {
		p.fail(blk.LabelRanges[0], "example: want a title of 1 to %d bytes without control characters", MaxPatternBytes)
	}
	requests := content.Blocks.OfType("request")
	if len(requests) != 1 {
		p.fail(blk.DefRange, "example: want one request, have %d", len(requests))
		return
	}
	e.request = p.sampleCall(requests[0], nil)
	for _, one := range content.Blocks.OfType("next") {
		if len(e.next) == MaxNextCalls {
			p.fail(one.DefRange, "more than %d calls of next", MaxNextCalls)
			return
		}
		e.next = append(e.next, p.expectedCall(one))
	}
	ends := 0
	for _, one := range content.Blocks {
		switch one.Type {
		case "response":
			r := p.sampleResponse(one)
			e.response = &r
		case "denied", "refused":
			e.refusal = p.expectedRefusal(one)
		default:
			continue
		}
		ends++
	}
	if ends != 1 {
		p.fail(blk.DefRange, "example: want one of response, denied and refused, have %d", ends)
	}
	rules.examples = append(rules.examples, e)
}

// sampleCall reads the request of an example. content is what the block has, if it
// was read already.
func (p *parser) sampleCall(blk *hcl.Block, content *hcl.BodyContent) sample {
	s := sample{place: placeOf(blk.DefRange)}
	var err error
	if s.method, s.uri, err = splitLabel(blk.Labels[0]); err != nil || s.method == "" {
		p.fail(blk.LabelRanges[0], `%s %.80q: want a method, one space, and a path, as in "GET /get?k=a"`, blk.Type, blk.Labels[0])
	} else if _, err := url.ParseRequestURI(s.uri); err != nil {
		p.fail(blk.LabelRanges[0], "%s %.80q: %v", blk.Type, blk.Labels[0], err)
	}
	if content == nil {
		content = p.content(blk.Body, []string{"headers", "body"})
	}
	p.sampleParts(&s, content)
	return s
}

func (p *parser) sampleResponse(blk *hcl.Block) sample {
	s := sample{place: placeOf(blk.DefRange)}
	var err error
	if s.status, err = strconv.Atoi(blk.Labels[0]); err != nil || s.status < 200 || s.status > 599 {
		p.fail(blk.LabelRanges[0], "%s %.80q: want a status from 200 to 599", blk.Type, blk.Labels[0])
	}
	p.sampleParts(&s, p.content(blk.Body, []string{"headers", "body"}))
	return s
}

func (p *parser) sampleParts(s *sample, content *hcl.BodyContent) {
	s.headers = p.pairs(content.Attributes["headers"])
	for i, h := range s.headers {
		if !token.MatchString(h.name) || strings.ContainsFunc(h.value, control) {
			p.fail(h.at, "headers: %.80q: want a header name, and a value without control characters", h.name)
		}
		s.headers[i].name = http.CanonicalHeaderKey(h.name)
	}
	if text, ok := p.text(content.Attributes["body"]); ok {
		s.body = &text
	}
}

func (p *parser) expectedCall(blk *hcl.Block) expectedCall {
	content := p.content(blk.Body, []string{"headers", "body"}, block("answer", "status"))
	c := expectedCall{request: p.sampleCall(blk, content)}
	answers := content.Blocks.OfType("answer")
	if len(answers) != 1 {
		p.fail(blk.DefRange, "next: want one answer, which the node gives, have %d", len(answers))
		return c
	}
	c.answer = p.sampleResponse(answers[0])
	return c
}

func (p *parser) expectedRefusal(blk *hcl.Block) *expectedRefusal {
	content := p.content(blk.Body, []string{"status", "reason", "headers", "body"})
	r := &expectedRefusal{denied: blk.Type == "denied"}
	r.place, r.status = placeOf(blk.DefRange), p.status(content.Attributes["status"], 400, 0)
	p.sampleParts(&r.sample, content)
	r.reason, _ = p.text(content.Attributes["reason"])
	r.reason = strings.TrimSpace(r.reason)
	return r
}
