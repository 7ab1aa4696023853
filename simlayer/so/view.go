package so

import (
	"net/http"
	"net/url"
	"strings"

	"moult/simlayer/so/jq"
)

// requestScope is what an expression sees over the request.
type requestScope struct {
	x    *exchange
	body bool // the expression reads the caller's body
}

func (s requestScope) Field(name string) (jq.Value, error) {
	x := s.x
	switch name {
	case "body":
		if s.body {
			return x.body.Value(), nil
		}
		return jq.Value{}, nil
	case "method":
		return jq.Of(x.req.Method), nil
	case "path":
		return jq.Of(x.req.URL.Path), nil
	case "params":
		return jq.Of(orEmpty(x.params)), nil
	case "steps":
		if x.hasSteps() {
			return jq.In(stepsScope{x}), nil
		}
		return jq.Value{}, nil
	case "item":
		return jq.Of(x.item), nil
	case "query", "query_all", "headers":
		return jq.Of(x.view()[name]), nil
	}
	return jq.Value{}, nil
}

func (s requestScope) Tree() (any, error) {
	view := make(map[string]any, 9)
	for name, v := range s.x.view() {
		view[name] = v
	}
	var err error
	if s.x.hasSteps() {
		if view["steps"], err = (stepsScope{s.x}).Tree(); err != nil {
			return nil, err
		}
	}
	if s.x.inEach {
		view["item"] = s.x.item
	}
	if s.body {
		view["body"], err = s.x.body.Tree()
	}
	return view, err
}

// view is what every expression may see of the request.
func (x *exchange) view() map[string]any {
	if x.input == nil {
		query := x.req.URL.Query()
		x.input = map[string]any{
			"method":    x.req.Method,
			"path":      x.req.URL.Path,
			"query":     firsts(query),
			"query_all": all(query),
			"headers":   headerView(x.req.Header),
		}
	}
	x.input["params"] = orEmpty(x.params)
	return x.input
}

// over returns what e sees over the request.
func (x *exchange) over(e *expr) jq.Value { return jq.In(requestScope{x, e.body}) }

// responseScope is what an expression sees over a response.
type responseScope struct {
	*responseView
	reads  bool // the expression reads the response's body
	caller bool // it reads the caller's body
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
	return jq.In(responseScope{v, e.body, e.callerBody})
}

func (v *responseView) headers() map[string]any {
	if v.seen == nil {
		v.seen = headerView(v.resp.Header)
	}
	return v.seen
}

func (s responseScope) Field(name string) (jq.Value, error) {
	switch name {
	case "status":
		return jq.Of(s.resp.StatusCode), nil
	case "headers":
		return jq.Of(s.headers()), nil
	case "request":
		return jq.In(requestScope{s.x, s.caller}), nil
	case "steps":
		if s.x.hasSteps() {
			return jq.In(stepsScope{s.x}), nil
		}
	case "item":
		return jq.Of(s.x.item), nil
	case "body":
		if s.reads {
			return s.body.Value(), nil
		}
	}
	return jq.Value{}, nil
}

func (s responseScope) Tree() (any, error) {
	request, err := requestScope{s.x, s.caller}.Tree()
	if err != nil {
		return nil, err
	}
	view := map[string]any{"status": s.resp.StatusCode, "headers": s.headers(), "request": request}
	for _, name := range []string{"steps", "item"} {
		if v, there := request.(map[string]any)[name]; there {
			view[name] = v
		}
	}
	if s.reads {
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
type stepsScope struct{ x *exchange }

func (s stepsScope) Field(name string) (jq.Value, error) {
	for i, step := range s.x.call.steps {
		if step.name != name || i >= len(s.x.results) || s.x.results[i] == nil {
			continue
		}
		if step.foreach == nil {
			return jq.In(stepScope{&s.x.results[i][0]}), nil
		}
		v, err := trees(s.x.results[i])
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
		list, err := trees(results)
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
func trees(results []stepResult) ([]any, error) {
	list := make([]any, len(results))
	for i := range results {
		v, err := stepScope{&results[i]}.Tree()
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	return list, nil
}

// stepScope is .steps.name.
type stepScope struct{ r *stepResult }

func (s stepScope) Field(name string) (jq.Value, error) {
	switch name {
	case "status":
		return jq.Of(s.r.status), nil
	case "headers":
		return jq.Of(s.r.headers), nil
	case "item":
		return jq.Of(s.r.item), nil
	case "body":
		return s.r.body.Value(), nil
	}
	return jq.Value{}, nil
}

func (s stepScope) Tree() (any, error) {
	tree, err := s.r.body.Tree()
	view := map[string]any{"status": s.r.status, "headers": s.r.headers, "body": tree}
	if s.r.item != nil {
		view["item"] = s.r.item
	}
	return view, err
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

func firsts(query url.Values) map[string]any {
	out := make(map[string]any, len(query))
	for name, values := range query {
		out[name] = values[0]
	}
	return out
}

func all(query url.Values) map[string]any {
	out := make(map[string]any, len(query))
	for name, values := range query {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		out[name] = list
	}
	return out
}

func headerView(h http.Header) map[string]any {
	out := make(map[string]any, len(h))
	for name, values := range h {
		out[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return out
}
