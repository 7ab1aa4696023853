package so

import (
	"context"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
)

// Rules is a compiled rules file. It is immutable.
type Rules struct {
	name  string // of the file
	calls []*call
	other *call // what matches nothing
}

var _ Object = (*Rules)(nil)

// call says what becomes of the calls that it matches. Exactly one of pass,
// answer, next and a last denial without a condition is there.
type call struct {
	place   string // "file:line", for errors
	method  string // "" for any
	pattern pattern
	query   []string
	headers []string // canonical

	params    []param
	denials   []*denial
	pass      bool
	answer    *answer
	next      *target
	responses []*response

	// What the expressions need, so that nothing else is read: the caller's body
	// (for a request or for a response), and a plain response.
	readsRequest, plainResponse bool
}

type param struct {
	name  string
	value *expr
}

type denial struct {
	when   *expr // nil: always
	status int
	reason string
}

type answer struct {
	status int
	edits  []edit
	body   *expr // nil: none
}

type target struct {
	method    string // "" for the caller's
	url       urlTemplate
	keepQuery bool
	edits     []edit
	body      *expr // nil: the caller's
}

type response struct {
	low, high int // statuses
	denials   []*denial
	status    int // 0: the same
	edits     []edit
	body      *expr // nil: the same
	reads     bool  // some expression reads the body
}

// Answer implements Object.
func (r *Rules) Answer(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	c, params := r.find(req)
	x := &exchange{call: c, req: req, params: params}
	resp, err := x.request(next)
	if err != nil || c.next == nil {
		return resp, err
	}
	return x.response(resp)
}

// find returns what becomes of a call, and the parameters of its path.
func (r *Rules) find(req *http.Request) (*call, map[string]any) {
	path := req.URL.EscapedPath()
	for _, c := range r.calls {
		if c.method != "" && c.method != req.Method {
			continue
		}
		if params, ok := c.pattern.match(path); ok && c.present(req) {
			return c, params
		}
	}
	return r.other, nil
}

// present reports whether a call has all that c wants to be there.
func (c *call) present(req *http.Request) bool {
	if len(c.query) > 0 {
		query := req.URL.Query()
		if slices.ContainsFunc(c.query, func(name string) bool { return !query.Has(name) }) {
			return false
		}
	}
	return !slices.ContainsFunc(c.headers, func(name string) bool {
		return len(req.Header[textproto.CanonicalMIMEHeaderKey(name)]) == 0
	})
}

// exchange is one call on its way through its rule.
type exchange struct {
	call   *call
	req    *http.Request
	params map[string]any // from the path; computed ones join them
	body   body           // the caller's, if the rule reads it
	input  map[string]any // what expressions over the request see
}

// request carries out the rule up to the response of next, or up to its own.
func (x *exchange) request(next http.RoundTripper) (*http.Response, error) {
	c := x.call
	ctx, cancel := context.WithTimeout(x.req.Context(), MaxEvaluation)
	defer cancel()
	if c.readsRequest {
		if err := x.body.readRequest(x.req); err != nil {
			return nil, err
		}
	}
	if err := x.computeParams(ctx); err != nil {
		return nil, err
	}
	if err := denied(ctx, c.denials, x.requestInput); err != nil {
		return nil, x.place(http.StatusInternalServerError, "when of a deny", err)
	}
	switch {
	case c.pass:
		return next.RoundTrip(x.unchanged())
	case c.answer != nil:
		return x.answer(ctx)
	default:
		out, err := x.translate(ctx)
		if err != nil {
			return nil, err
		}
		return next.RoundTrip(out)
	}
}

// computeParams adds the rule's own parameters. They see those of the path only.
func (x *exchange) computeParams(ctx context.Context) error {
	if len(x.call.params) == 0 {
		return nil
	}
	computed := make(map[string]any, len(x.call.params)+len(x.params))
	for _, p := range x.call.params {
		v, ok, err := p.value.run(ctx, x.requestInput(p.value))
		if err == nil && !ok {
			err = fmt.Errorf("it yields nothing; write null for a parameter that is not there")
		}
		if err != nil {
			return x.place(http.StatusInternalServerError, "parameter "+p.name, err)
		}
		computed[p.name] = v
	}
	for name, v := range x.params {
		computed[name] = v
	}
	x.params, x.input = computed, nil
	return nil
}

// denied returns the refusal of the first denial that applies. Any other error
// is that of an expression.
func denied(ctx context.Context, denials []*denial, input func(*expr) any) error {
	for _, d := range denials {
		applies := d.when == nil
		if !applies {
			var err error
			if applies, err = d.when.holds(ctx, input(d.when)); err != nil {
				return err
			}
		}
		if applies {
			return Deny(d.status, d.reason)
		}
	}
	return nil
}

// place makes a failed expression a refusal that names the rule. Refusals, and
// the end of the caller's own context, stay what they are.
func (x *exchange) place(status int, what string, err error) error {
	if _, ok := err.(*Refusal); ok {
		return err
	}
	if err := x.req.Context().Err(); err != nil {
		return err
	}
	return Fail(status, err, "the call cannot be translated: %s: %s: %v", x.call.place, what, err)
}

// answer makes the response of a rule that needs no call.
func (x *exchange) answer(ctx context.Context) (*http.Response, error) {
	a := x.call.answer
	var data []byte
	if a.body != nil {
		var err error
		if data, err = a.body.json(ctx, x.requestInput(a.body)); err != nil {
			return nil, x.place(http.StatusInternalServerError, "body of the answer", err)
		}
	}
	resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: x.req, Body: http.NoBody}
	setStatus(resp, a.status)
	setResponseBody(resp, data)
	return resp, applyEdits(resp.Header, a.edits, x.params)
}

// translate makes the request for next.
func (x *exchange) translate(ctx context.Context) (*http.Request, error) {
	t := x.call.next
	u, err := t.url.expand(x.params)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = x.req.URL.Scheme, x.req.URL.Host
	if t.keepQuery {
		u.RawQuery = joinQueries(u.RawQuery, x.req.URL.RawQuery)
	}
	out := x.unchanged().WithContext(x.req.Context())
	out.URL, out.RequestURI = u, ""
	out.Header = endToEnd(x.req.Header)
	if t.method != "" {
		out.Method = t.method
	}
	if x.call.plainResponse {
		for _, name := range []string{"Accept-Encoding", "Range", "If-Range"} {
			out.Header.Del(name)
		}
	}
	if t.body != nil {
		data, err := t.body.json(ctx, x.requestInput(t.body))
		if err != nil {
			return nil, x.place(http.StatusInternalServerError, "body of next", err)
		}
		setRequestBody(out, data)
		describeBody(out.Header, len(data))
	}
	return out, applyEdits(out.Header, t.edits, x.params)
}

func joinQueries(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "&" + b
}

// response turns next's response into the caller's. It closes resp's body unless
// it hands it on.
func (x *exchange) response(resp *http.Response) (*http.Response, error) {
	i := slices.IndexFunc(x.call.responses, func(r *response) bool {
		return resp.StatusCode >= r.low && resp.StatusCode <= r.high
	})
	if i < 0 {
		return resp, nil
	}
	if err := x.translateResponse(x.call.responses[i], resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// translateResponse changes resp in place: trailers arrive in it later.
func (x *exchange) translateResponse(r *response, resp *http.Response) error {
	ctx, cancel := context.WithTimeout(x.req.Context(), MaxEvaluation)
	defer cancel()
	var b body
	if r.reads {
		if err := b.readResponse(resp); err != nil {
			return err
		}
	}
	input := x.responseInput(resp, &b)
	if err := denied(ctx, r.denials, input); err != nil {
		return x.place(http.StatusBadGateway, "when of a deny of a response", err)
	}
	var data []byte
	if r.body != nil {
		var err error
		if data, err = r.body.json(ctx, input(r.body)); err != nil {
			return x.place(http.StatusBadGateway, fmt.Sprintf("body of the response %d", resp.StatusCode), err)
		}
	}
	resp.Header = endToEnd(resp.Header)
	if r.status != 0 {
		setStatus(resp, r.status)
	}
	if r.body != nil || !bodyAllowed(resp.StatusCode) {
		resp.Body.Close()
		setResponseBody(resp, data)
	}
	return applyEdits(resp.Header, r.edits, x.params)
}
