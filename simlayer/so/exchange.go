package so

import (
	"fmt"
	"net/http"
	"slices"

	"moult/simlayer/so/jq"
)

// exchange is one call on its way through its rule.
type exchange struct {
	call    *callRule
	req     *http.Request
	next    http.RoundTripper
	run     jq.Run         // of the expressions up to the last response
	params  map[string]any // from the path; computed ones join them
	body    body           // the caller's, if the rule reads it
	query   query
	headers map[string]any // as expressions see them, once one asks
	results [][]stepResult // of the steps that were made; nil for one that was left out
	item    any            // of the foreach that is in work
	inEach  bool
	made    int // calls of next
	memory  *jq.Memory
}

func (x *exchange) hasSteps() bool { return len(x.call.steps) > 0 }

// carryOut answers the call.
func (x *exchange) carryOut() (*http.Response, error) {
	c := x.call
	if c.readsRequest {
		if err := x.body.readRequest(x.req, x.memory); err != nil {
			return nil, err
		}
		x.run.Expect(len(x.body.data))
	}
	if err := x.addParams(c.params, http.StatusInternalServerError, x.over); err != nil {
		return nil, err
	}
	if err := x.denied(c.denials, http.StatusInternalServerError, "when of a deny", x.over); err != nil {
		return nil, err
	}
	for _, s := range c.steps {
		if resp, err := x.step(s); resp != nil || err != nil {
			return resp, err
		}
	}
	switch {
	case c.pass:
		out, err := x.unchanged()
		if err != nil {
			return nil, err
		}
		return x.roundTrip(out)
	case c.answer != nil:
		return x.answer()
	}
	out, err := x.translate(c.next, endToEnd(x.req.Header), c.plainResponse)
	if err != nil {
		return nil, err
	}
	resp, err := x.roundTrip(out)
	if err != nil {
		return nil, err
	}
	if out.Method == http.MethodHead && x.req.Method != http.MethodHead {
		resp.Body.Close()
		setResponseBody(resp, x.req.Method, nil, "") // it speaks of a body that is not there
	}
	return x.respond(resp, c.responses)
}

// roundTrip makes a call of next. The calls that one call becomes are bounded
// here too, for rules that are no part of a chain.
func (x *exchange) roundTrip(r *http.Request) (*http.Response, error) {
	if x.made++; x.made > MaxNextCalls {
		return nil, tooManyCalls()
	}
	return x.next.RoundTrip(r)
}

// addParams adds computed parameters. Their expressions do not see each other.
func (x *exchange) addParams(params []param, status int, over func(*expr) jq.Value) error {
	if len(params) == 0 {
		return nil
	}
	computed := make(map[string]any, len(params)+len(x.params))
	for name, v := range x.params {
		computed[name] = v
	}
	for _, p := range params {
		v, ok, err := p.value.tree(&x.run, over(p.value))
		if err == nil && !ok {
			err = fmt.Errorf("it yields nothing; write null for a parameter that is not there")
		}
		if err != nil {
			return x.place(status, "parameter "+p.name, err)
		}
		computed[p.name] = v
	}
	x.params = computed
	return nil
}

// denied returns the refusal of the first denial that applies, or that of an
// expression that fails.
func (x *exchange) denied(denials []*denial, status int, what string, over func(*expr) jq.Value) error {
	for _, d := range denials {
		applies := d.when == nil
		if !applies {
			var err error
			if applies, err = d.when.holds(&x.run, over(d.when)); err != nil {
				return x.place(status, what, err)
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

func bodyOfAnswer() string { return "body of the answer" }
func bodyOfNext() string   { return "body of next" }

// make makes a body; what says which where that fails.
func (x *exchange) make(c content, status int, what func() string, over func(*expr) jq.Value) (data []byte, contentType string, err error) {
	switch {
	case c.json != nil:
		if data, err = c.json.JSON(&x.run, over(c.json)); err != nil {
			return nil, "", x.place(status, what(), err)
		}
		return data, "application/json", nil
	case c.made:
		text, err := c.text.expandText(x.params)
		return []byte(text), "text/plain; charset=utf-8", err
	}
	return nil, "", nil
}

// answer makes the response of a rule that needs no call, or no more calls.
func (x *exchange) answer() (*http.Response, error) {
	a := x.call.answer
	if err := x.addParams(a.params, http.StatusInternalServerError, x.over); err != nil {
		return nil, err
	}
	data, contentType, err := x.make(a.content, http.StatusInternalServerError, bodyOfAnswer, x.over)
	if err != nil {
		return nil, err
	}
	resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: x.req, Body: http.NoBody}
	setStatus(resp, a.status)
	setResponseBody(resp, http.MethodGet, data, contentType)
	if x.req.Method == http.MethodHead {
		resp.Body = http.NoBody // its length is that of what a GET would get
	}
	return resp, applyEdits(resp.Header, a.edits, x.params)
}

// translate makes the request of t, whose headers begin as header.
func (x *exchange) translate(t *target, header http.Header, plainResponse bool) (*http.Request, error) {
	if err := x.addParams(t.params, http.StatusInternalServerError, x.over); err != nil {
		return nil, err
	}
	u, err := t.url.expand(x.params)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = x.req.URL.Scheme, x.req.URL.Host
	if t.keepQuery {
		if err := x.keepsQuery(); err != nil {
			return nil, err
		}
		u.RawQuery = joinQueries(u.RawQuery, x.req.URL.RawQuery)
	}
	out := x.req.WithContext(x.req.Context())
	if x.body.read && !t.content.made {
		restoreRequestBody(out, x.body.data)
	}
	out.URL, out.RequestURI = u, ""
	out.Header = header
	if t.method != "" {
		out.Method = t.method
	}
	if plainResponse {
		for _, name := range []string{"Accept-Encoding", "Range", "If-Range"} {
			delete(out.Header, name)
		}
	}
	if t.content.made {
		data, contentType, err := x.make(t.content, http.StatusInternalServerError, bodyOfNext, x.over)
		if err != nil {
			return nil, err
		}
		setRequestBody(out, data)
		describeBody(out.Header, len(data), contentType)
	}
	return out, applyEdits(out.Header, t.edits, x.params)
}

// unchanged returns the caller's request; its body is put back if it was read.
func (x *exchange) unchanged() (*http.Request, error) {
	if err := x.keepsQuery(); err != nil || !x.body.read {
		return x.req, err
	}
	out := x.req.WithContext(x.req.Context())
	restoreRequestBody(out, x.body.data)
	return out, nil
}

// keepsQuery refuses a query that is to go on as it stands although the rules have
// read it, and the node may read something else.
func (x *exchange) keepsQuery() error {
	if x.query.judged && x.query.doubtful {
		return Fail(http.StatusBadRequest, nil, "the call cannot be translated: its query has a semicolon, or a percent sign that begins no %%XX, and servers read such a query in several ways; send %%3B or %%25")
	}
	return nil
}

func joinQueries(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "&" + b
}

// respond turns next's response into the caller's. It closes resp's body unless
// it hands it on.
func (x *exchange) respond(resp *http.Response, responses []*response) (*http.Response, error) {
	if refused(resp) {
		return resp, nil
	}
	i := slices.IndexFunc(responses, func(r *response) bool { return r.has(resp.StatusCode) })
	if i < 0 {
		return resp, nil
	}
	if err := x.translateResponse(responses[i], resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// refused reports whether a response is the refusal of a later object, in another
// process. It is not the node's, so no rule is for it.
func refused(resp *http.Response) bool { return resp.Header.Get(RefusalHeader) != "" }

// translateResponse changes resp in place: trailers arrive in it later.
func (x *exchange) translateResponse(r *response, resp *http.Response) error {
	x.run = jq.NewRun(x.req.Context(), x.memory)
	var b body
	if r.reads {
		if err := b.readResponse(resp, x.memory); err != nil {
			return err
		}
		x.run.Expect(len(b.data))
	}
	view := responseView{x: x, resp: resp, body: &b}
	over := view.over
	if err := x.denied(r.denials, http.StatusBadGateway, "when of a deny of a response", over); err != nil {
		return err
	}
	if err := x.addParams(r.params, http.StatusBadGateway, over); err != nil {
		return err
	}
	what := func() string { return fmt.Sprintf("body of the response %d", resp.StatusCode) }
	data, contentType, err := x.make(r.content, http.StatusBadGateway, what, over)
	if err != nil {
		return err
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	ofConnection(resp.Header)
	bodiless := !bodyAllowed(resp.StatusCode) // then it says of its body what is not true of another
	if r.status != 0 {
		setStatus(resp, r.status)
	}
	if r.content.made || bodiless || !bodyAllowed(resp.StatusCode) {
		resp.Body.Close()
		setResponseBody(resp, x.req.Method, data, contentType)
	}
	return applyEdits(resp.Header, r.edits, x.params)
}
