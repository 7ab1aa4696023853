package so

import (
	"net/http"
	"net/url"
	"strings"
)

// requestScope is what an expression sees over the request.
type requestScope struct {
	x    *exchange
	body bool // the expression reads the caller's body
}

func (s requestScope) field(name string) (val, error) {
	x := s.x
	switch name {
	case "body":
		if s.body {
			return x.body.val(), nil
		}
		return val{}, nil
	case "method":
		return val{v: x.req.Method}, nil
	case "path":
		return val{v: x.req.URL.Path}, nil
	case "params":
		return val{v: orEmpty(x.params)}, nil
	case "steps":
		if x.hasSteps() {
			return val{scope: stepsScope{x}}, nil
		}
		return val{}, nil
	case "item":
		return val{v: x.item}, nil
	case "query", "query_all", "headers":
		return val{v: x.view()[name]}, nil
	}
	return val{}, nil
}

func (s requestScope) whole() (any, error) {
	view := make(map[string]any, 9)
	for name, v := range s.x.view() {
		view[name] = v
	}
	var err error
	if s.x.hasSteps() {
		if view["steps"], err = (stepsScope{s.x}).whole(); err != nil {
			return nil, err
		}
	}
	if s.x.inEach {
		view["item"] = s.x.item
	}
	if s.body {
		view["body"], err = s.x.body.tree()
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
func (x *exchange) over(e *expr) scope { return requestScope{x, e.body} }

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
func (v *responseView) over(e *expr) scope { return responseScope{v, e.body, e.callerBody} }

func (v *responseView) headers() map[string]any {
	if v.seen == nil {
		v.seen = headerView(v.resp.Header)
	}
	return v.seen
}

func (s responseScope) field(name string) (val, error) {
	switch name {
	case "status":
		return val{v: s.resp.StatusCode}, nil
	case "headers":
		return val{v: s.headers()}, nil
	case "request":
		return val{scope: requestScope{s.x, s.caller}}, nil
	case "steps":
		if s.x.hasSteps() {
			return val{scope: stepsScope{s.x}}, nil
		}
	case "item":
		return val{v: s.x.item}, nil
	case "body":
		if s.reads {
			return s.body.val(), nil
		}
	}
	return val{}, nil
}

func (s responseScope) whole() (any, error) {
	request, err := requestScope{s.x, s.caller}.whole()
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
		view["body"], err = s.body.tree()
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

func (s stepsScope) field(name string) (val, error) {
	for i, step := range s.x.call.steps {
		if step.name != name || i >= len(s.x.results) || s.x.results[i] == nil {
			continue
		}
		if step.foreach == nil {
			return val{scope: stepScope{&s.x.results[i][0]}}, nil
		}
		v, err := trees(s.x.results[i])
		return val{v: v}, err
	}
	return val{}, nil
}

func (s stepsScope) whole() (any, error) {
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
		v, err := stepScope{&results[i]}.whole()
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	return list, nil
}

// stepScope is .steps.name.
type stepScope struct{ r *stepResult }

func (s stepScope) field(name string) (val, error) {
	switch name {
	case "status":
		return val{v: s.r.status}, nil
	case "headers":
		return val{v: s.r.headers}, nil
	case "item":
		return val{v: s.r.item}, nil
	case "body":
		return s.r.body.val(), nil
	}
	return val{}, nil
}

func (s stepScope) whole() (any, error) {
	tree, err := s.r.body.tree()
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
