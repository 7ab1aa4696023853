package so

import (
	"context"
	"net/http"
	"slices"

	"moult/simlayer/so/jq"
)

// Rules is a compiled rules file. It does not change.
type Rules struct {
	name     string // of the file
	calls    []*callRule
	other    *callRule // what matches nothing
	refusal  *message  // the form of refusals; nil: moult's own
	examples []*example
	// unbounded lists the places of expressions without a bounded form.
	unbounded []string
	memory    jq.Pool
}

var _ Object = (*Rules)(nil)

// callRule says what becomes of the calls that it matches. Exactly one of pass, next,
// a last answer and a last denial without a condition is there.
type callRule struct {
	place   string // "file:line", for errors
	label   string // as in the file
	method  string // "" for any
	pattern pattern
	query   []string
	headers []string // canonical
	when    *expr    // nil: always

	params    []param
	denials   []*denial
	steps     []*step
	pass      bool
	answers   []*answer // in their order; only the last may have no when
	next      *target
	responses []*response

	// What the expressions need, so that nothing else is read: the caller's body
	// (for a request or for a response), as JSON or as a form, bodies of steps, and a plain response.
	readsRequest, readsForm, readsSteps, plainResponse bool
}

type param struct {
	name  string
	value *expr
}

type denial struct {
	when   *expr // nil: always
	reason string
	message
}

// content is a body that a rule makes: JSON, text, or a form as HTML has it. The zero
// content makes none.
type content struct {
	json *expr
	text template
	form []queryPart
	made bool // false: the rule leaves the body alone
}

// message is what a rule says to the caller.
type message struct {
	params  []param
	status  answerStatus
	edits   []edit
	content content
}

// answerStatus is one that stands in the file, or that an expression computes. The zero one
// is none.
type answerStatus struct {
	fixed    int
	computed *expr
}

type answer struct {
	when *expr // nil: always
	message
}

// target is a request that a rule makes.
type target struct {
	params    []param
	method    string // "" for the caller's
	url       urlTemplate
	keepQuery bool
	edits     []edit
	content   content
}

// step is a call before the last one, whose response later expressions see.
type step struct {
	target
	name      string
	when      *expr // nil: always
	foreach   *expr // nil: once
	expect    []statuses
	denials   []*denial
	responses []*response // what ends the call with an answer
	reads     bool        // an expression of its own reads the body
}

// statuses is a range of statuses.
type statuses struct{ low, high int }

func (s statuses) has(status int) bool { return s.low <= status && status <= s.high }

type response struct {
	statuses
	message // without a status: the same
	denials []*denial
	reads   bool // some expression reads the body
}

// Answer implements Object.
func (r *Rules) Answer(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	_, resp, err := r.answer(req, next)
	return resp, err
}

// answer is Answer, and says which rule was taken.
func (r *Rules) answer(req *http.Request, next http.RoundTripper) (*callRule, *http.Response, error) {
	memory := r.memory.Get()
	x := &exchange{req: req, query: query{raw: req.URL.RawQuery}, run: jq.NewRun(req.Context(), memory), next: next, memory: memory}
	resp, err := x.answerBy(r)
	r.memory.Put(memory) // nothing of it is in what is returned
	return x.call, resp, err
}

// Bounded reports whether every expression of the file has a bounded form, so that
// time and memory for a call are linear in its bodies and it may be run where no
// other process stands guard.
func (r *Rules) Bounded() bool { return len(r.unbounded) == 0 }

// Unbounded lists, as file:line, the expressions that are why r is not Bounded.
func (r *Rules) Unbounded() []string { return slices.Clone(r.unbounded) }

// shaped returns a refusal in the form that the file says. Where that fails it is moult's.
func (r *Rules) shaped(refusal *Refusal) *Refusal {
	if r.refusal == nil || refusal.Header != nil || refusal.Body != nil {
		return refusal
	}
	view := jq.Of(map[string]any{
		"status": refusal.Status, "denied": refusal.Denied, "reason": refusal.Reason,
		"from": int(refusal.From), "to": int(refusal.To), "retry_after": refusal.RetryAfter.Seconds(),
	})
	x := &exchange{call: r.other, req: &http.Request{}, run: jq.NewRun(context.Background(), nil)}
	shaped := *refusal
	if x.shape(&shaped, r.refusal, http.StatusInternalServerError, func(*expr) jq.Value { return view }) != nil {
		return refusal
	}
	return &shaped
}

// present reports whether a call has all that c wants to be there.
func (c *callRule) present(req *http.Request, q *query) bool {
	return !slices.ContainsFunc(c.query, func(name string) bool { return !q.has(name) }) &&
		!slices.ContainsFunc(c.headers, func(name string) bool { return !has(req.Header, name) })
}

// example is a call with what must become of it.
type example struct {
	title, place string
	request      sample
	next         []expectedCall
	// One of these is there.
	response *sample
	refusal  *expectedRefusal
}

// sample is a request or a response. What is not said is not there, or, where it
// is expected, not looked at.
type sample struct {
	place   string
	method  string
	uri     string
	status  int
	headers []pair
	body    *string
}

// expectedCall is a call of next, and how the node answers it.
type expectedCall struct{ request, answer sample }

// expectedRefusal is what a caller is told that gets no answer.
type expectedRefusal struct {
	sample // with status 0 for any
	denied bool
	reason string // all of it for denied, a part otherwise; "" for any
}
