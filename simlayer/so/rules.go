package so

import (
	"net/http"
	"slices"

	"moult/simlayer/so/jq"
)

// Rules is a compiled rules file. It does not change.
type Rules struct {
	name     string // of the file
	calls    []*callRule
	other    *callRule // what matches nothing
	examples []*example
	// unbounded lists the places of expressions without a bounded form.
	unbounded []string
	memory    jq.Pool
}

var _ Object = (*Rules)(nil)

// callRule says what becomes of the calls that it matches. Exactly one of pass,
// answer, next and a last denial without a condition is there.
type callRule struct {
	place   string // "file:line", for errors
	label   string // as in the file
	method  string // "" for any
	pattern pattern
	query   []string
	headers []string // canonical

	params    []param
	denials   []*denial
	steps     []*step
	pass      bool
	answer    *answer
	next      *target
	responses []*response

	// What the expressions need, so that nothing else is read: the caller's body
	// (for a request or for a response), bodies of steps, and a plain response.
	readsRequest, readsSteps, plainResponse bool
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

// content is a body that a rule makes: JSON, or text. The zero content makes none.
type content struct {
	json *expr
	text template
	made bool // false: the rule leaves the body alone
}

type answer struct {
	params  []param
	status  int
	edits   []edit
	content content
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
	params  []param
	denials []*denial
	status  int // 0: the same
	edits   []edit
	content content
	reads   bool // some expression reads the body
}

// Answer implements Object.
func (r *Rules) Answer(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	memory := r.memory.Get()
	x := &exchange{req: req, query: query{raw: req.URL.RawQuery}, run: jq.NewRun(req.Context(), memory), next: next, memory: memory}
	x.call, x.params = r.find(req, &x.query)
	resp, err := x.carryOut()
	r.memory.Put(memory) // nothing of it is in what is returned
	return resp, err
}

// Bounded reports whether every expression of the file has a bounded form, so that
// time and memory for a call are linear in its bodies and it may be run where no
// other process stands guard.
func (r *Rules) Bounded() bool { return len(r.unbounded) == 0 }

// Unbounded lists, as file:line, the expressions that are why r is not Bounded.
func (r *Rules) Unbounded() []string { return slices.Clone(r.unbounded) }

// find returns what becomes of a call, and the parameters of its path.
func (r *Rules) find(req *http.Request, q *query) (*callRule, map[string]any) {
	path := req.URL.EscapedPath()
	for _, c := range r.calls {
		if c.method != "" && c.method != req.Method {
			continue
		}
		if params, ok := c.pattern.match(path); ok && c.present(req, q) {
			return c, params
		}
	}
	return r.other, nil
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
	place  string
	denied bool
	status int    // 0: any
	reason string // all of it for denied, a part otherwise; "" for any
}
