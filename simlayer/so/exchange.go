package so

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

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
	form    query          // the caller's body, where it is one and is read as one
	headers map[string]any // as expressions see them, once one asks
	results [][]stepResult // of the steps that were made; nil for one that was left out
	item    any            // of the foreach that is in work
	inEach  bool
	made    int // calls of next
	memory  *jq.Memory
}

func (x *exchange) hasSteps() bool { return len(x.call.steps) > 0 }

// answerBy finds the rule for the call, and answers by it.
func (x *exchange) answerBy(r *Rules) (*http.Response, error) {
	path := x.req.URL.EscapedPath()
	for _, c := range r.calls {
		if c.method != "" && c.method != x.req.Method {
			continue
		}
		params, ok := c.pattern.match(path)
		if !ok || !c.present(x.req, &x.query) {
			continue
		}
		x.call, x.params = c, params
		if is, err := x.holds(c.when, "when of the call"); is || err != nil {
			if err != nil {
				return nil, err
			}
			return x.carryOut()
		}
	}
	x.call, x.params = r.other, nil
	return x.carryOut()
}

// holds reports whether a condition over the request holds; nil does.
func (x *exchange) holds(when *expr, what string) (bool, error) {
	if when == nil {
		return true, nil
	}
	if err := x.readFor(when.body, when.form); err != nil {
		return false, err
	}
	is, err := when.holds(&x.run, x.over(when))
	if err != nil {
		return false, x.place(http.StatusInternalServerError, what, err)
	}
	return is, nil
}

// readFor reads the caller's body, once, for expressions that need its JSON or its form.
func (x *exchange) readFor(json, form bool) error {
	form = form && isForm(x.req)
	if !json && !form {
		return nil
	}
	if !x.body.read {
		if err := x.body.readRequest(x.req); err != nil {
			return err
		}
		x.run.Expect(len(x.body.data))
	}
	if form {
		x.form.raw = string(x.body.data)
		return nil // then it is no JSON
	}
	return x.body.parse(x.memory)
}

// carryOut answers the call by its rule.
func (x *exchange) carryOut() (*http.Response, error) {
	c := x.call
	if err := x.readFor(c.readsRequest, c.readsForm); err != nil {
		return nil, err
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
	for _, a := range c.answers {
		if is, err := x.holds(a.when, "when of an answer"); err != nil {
			return nil, err
		} else if is {
			return x.answer(&a.message)
		}
	}
	if c.pass {
		out, err := x.unchanged()
		if err != nil {
			return nil, err
		}
		return x.roundTrip(out)
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
	resp, err := x.next.RoundTrip(r)
	var refusal *Refusal
	if errors.As(err, &refusal) && (refusal.Header != nil || refusal.Body != nil || refusal.shaper != nil) {
		plain := *refusal // its form is for callers of the version between
		plain.Header, plain.Body, plain.shaper = nil, nil, nil
		return nil, &plain
	}
	return resp, err
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
			return x.deny(d, status, over)
		}
	}
	return nil
}

// deny returns the refusal of d.
func (x *exchange) deny(d *denial, failed int, over func(*expr) jq.Value) error {
	refusal := Deny(0, d.reason)
	if err := x.shape(refusal, &d.message, failed, over); err != nil {
		return err
	}
	return refusal
}

// shape gives a refusal the form that a rule says. failed is the status where that
// fails.
func (x *exchange) shape(r *Refusal, m *message, failed int, over func(*expr) jq.Value) (err error) {
	if err := x.addParams(m.params, failed, over); err != nil {
		return err
	}
	if r.Status, err = x.status(m.status, 400, r.Status, failed, over); err != nil {
		return err
	}
	data, contentType, err := x.make(m.content, failed, bodyOfRefusal, over)
	if err != nil || !m.content.made && len(m.edits) == 0 {
		return err
	}
	r.Header = http.Header{}
	if m.content.made {
		r.Body = append([]byte{}, data...)
		r.Header["Content-Type"] = []string{contentType}
		if len(data) == 0 {
			r.Header["Content-Type"] = nil
		}
	}
	return applyEdits(r.Header, m.edits, x.params)
}

// status returns the status that a rule says, from low on, or another where it says
// none.
func (x *exchange) status(s answerStatus, low, otherwise, failed int, over func(*expr) jq.Value) (int, error) {
	if s.computed == nil {
		return cmp.Or(s.fixed, otherwise), nil
	}
	v, ok, err := s.computed.tree(&x.run, over(s.computed))
	if err == nil {
		var n int
		if text, isNumber := number(v); ok && isNumber {
			if n, err = strconv.Atoi(text); err == nil && n >= low && n <= 599 {
				return n, nil
			}
		}
		err = fmt.Errorf("want a number from %d to 599", low)
	}
	return 0, x.place(failed, "status", err)
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

func bodyOfRefusal() string { return "body of a refusal" }

// make makes a body; what says which where that fails.
func (x *exchange) make(c content, status int, what func() string, over func(*expr) jq.Value) (data []byte, contentType string, err error) {
	switch {
	case c.json != nil:
		if data, err = c.json.JSON(&x.run, over(c.json)); err != nil {
			return nil, "", x.place(status, what(), err)
		}
		return data, "application/json", nil
	case c.form != nil:
		text, err := expandPairs(c.form, x.params)
		return []byte(text), formType, err
	case c.made:
		text, err := c.text.expandText(x.params)
		return []byte(text), "text/plain; charset=utf-8", err
	}
	return nil, "", nil
}

// answer makes the response of a rule that needs no call, or no more calls.
func (x *exchange) answer(m *message) (*http.Response, error) {
	const failed = http.StatusInternalServerError
	if err := x.addParams(m.params, failed, x.over); err != nil {
		return nil, err
	}
	status, err := x.status(m.status, 200, http.StatusOK, failed, x.over)
	if err != nil {
		return nil, err
	}
	data, contentType, err := x.make(m.content, failed, bodyOfAnswer, x.over)
	if err != nil {
		return nil, err
	}
	resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: x.req, Body: http.NoBody}
	setStatus(resp, status)
	setResponseBody(resp, http.MethodGet, data, contentType)
	if x.req.Method == http.MethodHead {
		resp.Body = http.NoBody // its length is that of what a GET would get
	}
	return resp, applyEdits(resp.Header, m.edits, x.params)
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
		if err := x.query.keeps("query"); err != nil {
			return nil, err
		}
		u.RawQuery = joinQueries(u.RawQuery, x.req.URL.RawQuery)
	}
	out := x.req.WithContext(x.req.Context())
	if x.body.read && !t.content.made {
		if err := x.form.keeps("form"); err != nil {
			return nil, err
		}
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
	if err := x.query.keeps("query"); err != nil || !x.body.read {
		return x.req, err
	}
	out := x.req.WithContext(x.req.Context())
	restoreRequestBody(out, x.body.data)
	return out, x.form.keeps("form")
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
	status, err := x.status(r.status, 200, resp.StatusCode, http.StatusBadGateway, over)
	if err != nil {
		return err
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	ofConnection(resp.Header)
	bodiless := !bodyAllowed(resp.StatusCode) // then it says of its body what is not true of another
	setStatus(resp, status)
	if r.content.made || bodiless || !bodyAllowed(resp.StatusCode) {
		resp.Body.Close()
		setResponseBody(resp, x.req.Method, data, contentType)
	}
	return applyEdits(resp.Header, r.edits, x.params)
}
