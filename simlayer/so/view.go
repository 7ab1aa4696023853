package so

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode/utf8"

	"moult/simlayer/so/jq"
)

// part is a named part of a message that is not JSON by nature, such as its headers.
// What JSON cannot hold is not read from it: that would be read as something else.
type part struct {
	status int    // of the refusal
	what   string // of what it is a part, and which, for the refusal
	values map[string]any
}

// Field implements jq.Scope.
func (p part) Field(name string) (jq.Value, error) {
	v := p.values[name]
	if !exact(v) {
		return jq.Value{}, Fail(p.status, nil, "%s: %.80q is not UTF-8", p.what, name)
	}
	return jq.Of(v), nil
}

// Tree implements jq.Scope.
func (p part) Tree() (any, error) {
	for name, v := range p.values {
		if !utf8.ValidString(name) || !exact(v) {
			return nil, Fail(p.status, nil, "%s: %.80q is not UTF-8", p.what, name)
		}
	}
	return p.values, nil
}

// exact reports whether v is not text that JSON cannot hold.
func exact(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case []any:
		return !slices.ContainsFunc(v, func(one any) bool { return !exact(one) })
	}
	return true
}

var errPath = Fail(http.StatusBadRequest, nil, "the call cannot be translated: its path is not UTF-8")

// requestScope is what an expression sees over the request.
type requestScope struct {
	x    *exchange
	e    *expr
	body bool // the expression reads the caller's body
}

// Field implements jq.Scope.
func (s requestScope) Field(name string) (jq.Value, error) {
	x := s.x
	switch name {
	case "body":
		if s.body {
			return x.body.Value(), nil
		}
	case "method":
		return jq.Of(x.req.Method), nil
	case "path":
		if !utf8.ValidString(x.req.URL.Path) {
			return jq.Value{}, errPath
		}
		return jq.Of(x.req.URL.Path), nil
	case "steps":
		if x.hasSteps() {
			return jq.In(stepsScope{x, s.e}), nil
		}
	case "item":
		return jq.Of(x.item), nil
	case "query", "query_all":
		x.query.judged = true
		return jq.In(x.part(name)), nil
	case "form", "form_all":
		if s.e.form {
			x.form.judged = true
			return jq.In(x.part(name)), nil
		}
	case "params", "headers":
		return jq.In(x.part(name)), nil
	}
	return jq.Value{}, nil
}

// Tree implements jq.Scope. What cannot be read exactly is left out where the
// expression does not mention it.
func (s requestScope) Tree() (any, error) {
	x := s.x
	view := map[string]any{"method": x.req.Method}
	x.query.judged = x.query.judged || s.e.mentions("query") || s.e.mentions("query_all")
	if path := x.req.URL.Path; utf8.ValidString(path) {
		view["path"] = path
	} else if s.e.mentions("path") {
		return nil, errPath
	}
	names := []string{"params", "query", "query_all", "headers"}
	if s.e.form {
		x.form.judged = true
		names = append(names, "form", "form_all")
	}
	for _, name := range names {
		if v, err := x.part(name).Tree(); err == nil {
			view[name] = v
		} else if s.e.mentions(name) {
			return nil, err
		}
	}
	var err error
	if x.hasSteps() {
		if view["steps"], err = (stepsScope{x, s.e}).Tree(); err != nil {
			return nil, err
		}
	}
	if x.inEach {
		view["item"] = x.item
	}
	if s.body {
		view["body"], err = x.body.Tree()
	}
	return view, err
}

// part returns a part of the request.
func (x *exchange) part(name string) part {
	p := part{status: http.StatusBadRequest, what: "the call cannot be translated: its " + name}
	switch name {
	case "params":
		p.values = x.params
	case "query":
		p.values = x.query.firsts()
	case "query_all":
		p.values = x.query.all()
	case "form":
		p.values = x.form.firsts()
	case "form_all":
		p.values = x.form.all()
	case "headers":
		if x.headers == nil {
			x.headers = headerView(x.req.Header)
		}
		p.values = x.headers
	}
	if p.values == nil {
		p.values = map[string]any{}
	}
	return p
}

// over returns what e sees over the request.
func (x *exchange) over(e *expr) jq.Value { return jq.In(requestScope{x, e, e.body}) }

// responseScope is what an expression sees over a response.
type responseScope struct {
	*responseView
	e *expr
}

// responseView is what expressions may see of a response.
type responseView struct {
	x    *exchange
	resp *http.Response
	body *body
	seen map[string]any // the headers, once somebody asks for them
}

// over returns what e sees.
func (v *responseView) over(e *expr) jq.Value {
	return jq.In(responseScope{v, e})
}

func (v *responseView) headers() part {
	if v.seen == nil {
		v.seen = headerView(v.resp.Header)
	}
	return answerHeaders(v.seen)
}

// answerHeaders are headers of the node's.
func answerHeaders(seen map[string]any) part {
	return part{http.StatusBadGateway, "the answer cannot be translated: its headers", seen}
}

func (s responseScope) Field(name string) (jq.Value, error) {
	switch name {
	case "status":
		return jq.Of(s.resp.StatusCode), nil
	case "headers":
		return jq.In(s.headers()), nil
	case "request":
		return jq.In(requestScope{s.x, s.e, s.e.callerBody}), nil
	case "steps":
		if s.x.hasSteps() {
			return jq.In(stepsScope{s.x, s.e}), nil
		}
	case "item":
		return jq.Of(s.x.item), nil
	case "body":
		if s.e.body {
			return s.body.Value(), nil
		}
	}
	return jq.Value{}, nil
}

func (s responseScope) Tree() (any, error) {
	request, err := requestScope{s.x, s.e, s.e.callerBody}.Tree()
	if err != nil {
		return nil, err
	}
	view := map[string]any{"status": s.resp.StatusCode, "request": request}
	if headers, err := s.headers().Tree(); err == nil {
		view["headers"] = headers
	} else if s.e.mentions("headers") {
		return nil, err
	}
	for _, name := range []string{"steps", "item"} {
		if v, there := request.(map[string]any)[name]; there {
			view[name] = v
		}
	}
	if s.e.body {
		view["body"], err = s.body.Tree()
	}
	return view, err
}

// stepResult is the response of a step.
type stepResult struct {
	status  int
	headers map[string]any
	body    body
	item    any // of foreach
}

// stepsScope is .steps.
type stepsScope struct {
	x *exchange
	e *expr
}

func (s stepsScope) Field(name string) (jq.Value, error) {
	for i, step := range s.x.call.steps {
		if step.name != name || i >= len(s.x.results) || s.x.results[i] == nil {
			continue
		}
		if step.foreach == nil {
			return jq.In(stepScope{&s.x.results[i][0], s.e}), nil
		}
		v, err := trees(s.x.results[i], s.e)
		return jq.Of(v), err
	}
	return jq.Value{}, nil
}

func (s stepsScope) Tree() (any, error) {
	out := map[string]any{}
	for i, results := range s.x.results {
		if results == nil {
			continue
		}
		step := s.x.call.steps[i]
		list, err := trees(results, s.e)
		if err != nil {
			return nil, err
		}
		out[step.name] = list
		if step.foreach == nil {
			out[step.name] = list[0]
		}
	}
	return out, nil
}

// trees returns results as gojq's values.
func trees(results []stepResult, e *expr) ([]any, error) {
	list := make([]any, len(results))
	for i := range results {
		v, err := stepScope{&results[i], e}.Tree()
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	return list, nil
}

// stepScope is .steps.name.
type stepScope struct {
	r *stepResult
	e *expr
}

func (s stepScope) Field(name string) (jq.Value, error) {
	switch name {
	case "status":
		return jq.Of(s.r.status), nil
	case "headers":
		return jq.In(answerHeaders(s.r.headers)), nil
	case "item":
		return jq.Of(s.r.item), nil
	case "body":
		return s.r.body.Value(), nil
	}
	return jq.Value{}, nil
}

func (s stepScope) Tree() (any, error) {
	body, err := s.r.body.Tree()
	if err != nil {
		return nil, err
	}
	view := map[string]any{"status": s.r.status, "body": body}
	if headers, err := answerHeaders(s.r.headers).Tree(); err == nil {
		view["headers"] = headers
	} else if s.e.mentions("headers") {
		return nil, err
	}
	if s.r.item != nil {
		view["item"] = s.r.item
	}
	return view, nil
}

// headerView is what expressions see of headers.
func headerView(h http.Header) map[string]any {
	out := make(map[string]any, len(h))
	for name, values := range h {
		if name != "User-Agent" || !noAgent(values) {
			out[strings.ToLower(name)] = strings.Join(values, ", ")
		}
	}
	return out
}

// has reports whether a header is there.
func has(h http.Header, name string) bool {
	values := h[textproto.CanonicalMIMEHeaderKey(name)]
	return len(values) > 0 && (name != "User-Agent" || !noAgent(values))
}

// noAgent reports whether a User-Agent only keeps net/http from naming itself: that
// is what proxies put where a caller has sent none.
func noAgent(values []string) bool { return len(values) == 1 && values[0] == "" }
