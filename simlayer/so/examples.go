package so

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
	"golang.org/x/net/http/httpguts"

	"moult/simlayer/so/jq"
)

// Result is what became of one example of a rules file.
type Result struct {
	Title string `json:"title"`
	Place string `json:"place"` // file:line of the example
	// Reaches is the label of the call block that took the request, or "default";
	// ReachesPlace is its file:line.
	Reaches      string `json:"reaches"`
	ReachesPlace string `json:"reaches_place"`
	// Differences are what was not as the example says, none where it holds.
	Differences []Difference `json:"differences"`
}

// OK reports whether the example holds.
func (r Result) OK() bool { return len(r.Differences) == 0 }

// Difference is one thing that is not as an example says.
type Difference struct {
	Place    string `json:"place"` // file:line of what was expected
	What     string `json:"what"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: expected %s, got %s", d.Place, d.What, d.Expected, d.Got)
}

// Test runs the file's examples, in their order.
func (r *Rules) Test() []Result {
	results := make([]Result, 0, len(r.examples))
	for _, e := range r.examples {
		results = append(results, r.test(e))
	}
	return results
}

// Failed returns an error that tells of the examples that do not hold, or nil.
func Failed(results []Result) error {
	var errs []error
	for _, one := range results {
		if one.OK() {
			continue
		}
		if len(errs) == maxProblems {
			errs = append(errs, errors.New("more examples fail"))
			break
		}
		errs = append(errs, fmt.Errorf("%s: example %q fails: %v", one.Place, one.Title, one.Differences[0]))
	}
	return errors.Join(errs...)
}

// CallPlace names a call block of a rules file.
type CallPlace struct {
	Label string `json:"label"`
	Place string `json:"place"` // file:line
}

// Unreached lists the call blocks that no example of results reaches.
func (r *Rules) Unreached(results []Result) []CallPlace {
	list := []CallPlace{}
	for _, c := range r.calls {
		if !slices.ContainsFunc(results, func(one Result) bool { return one.ReachesPlace == c.place }) {
			list = append(list, CallPlace{c.label, c.place})
		}
	}
	return list
}

func (r *Rules) test(e *example) Result {
	req, err := e.request.asRequest()
	if err != nil { // the parser has read the same URI
		return Result{Title: e.title, Place: e.place, Differences: []Difference{{e.request.place, "request", "one that can be made", err.Error()}}}
	}
	t := &trial{example: e}
	c, resp, err := r.answer(req, t)
	if err != nil {
		err = r.shaped(AsRefusal(err))
	}
	if t.at < len(e.next) {
		missing := e.next[t.at].request
		t.differ(missing.place, "call of next", missing.method+" "+missing.uri, "no call"+because(err))
	}
	if !t.stray {
		t.outcome(resp, err)
	}
	if resp != nil {
		resp.Body.Close()
	}
	return Result{Title: e.title, Place: e.place, Reaches: c.label, ReachesPlace: c.place, Differences: slices.Clip(t.differences)}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ", since the call was " + AsRefusal(err).Error()
}

// trial plays the node in an example, and notes what differs.
type trial struct {
	example     *example
	at          int  // calls that were made
	stray       bool // a call was made that the example does not have
	differences []Difference
}

func (t *trial) differ(place, what, expected, got string) {
	t.differences = append(t.differences, Difference{place, what, brief(expected), brief(got)})
}

// brief keeps what people have to read short.
func brief(s string) string {
	if len(s) > 500 {
		return strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}

// RoundTrip implements http.RoundTripper. It compares what a node would have read from
// the wire.
func (t *trial) RoundTrip(out *http.Request) (*http.Response, error) {
	r, err := arrived(out)
	if err != nil {
		return nil, err
	}
	line := r.Method + " " + r.RequestURI
	if t.at == len(t.example.next) {
		t.stray = true
		t.differ(t.example.place, "call of next", "no more calls", line)
		return nil, errors.New("the example has no answer for this call")
	}
	want := t.example.next[t.at]
	t.at++
	what := "call " + strconv.Itoa(t.at) + " of next"
	if expected := want.request.method + " " + want.request.uri; line != expected {
		t.differ(want.request.place, what, expected, line)
	}
	t.headers(want.request, what, r.Header)
	t.body(want.request, what, r.Body)
	return want.answer.asResponse(out)
}

// arrived is r as it is after it was sent.
func arrived(r *http.Request) (*http.Request, error) {
	out := r.WithContext(r.Context())
	u := *r.URL
	u.Scheme, u.Host = "http", r.Host
	out.URL = &u
	var text bytes.Buffer
	if err := out.Write(&text); err != nil {
		return nil, fmt.Errorf("send the call: %w", err)
	}
	return http.ReadRequest(bufio.NewReader(&text))
}

// outcome compares what the caller gets.
func (t *trial) outcome(resp *http.Response, err error) {
	switch want := t.example; {
	case want.refusal != nil && err == nil:
		t.differ(want.refusal.place, "outcome", want.refusal.String(), "a response of status "+strconv.Itoa(resp.StatusCode))
	case want.refusal != nil:
		got := AsRefusal(err)
		if !want.refusal.is(got) {
			t.differ(want.refusal.place, "outcome", want.refusal.String(), got.Error())
		}
		resp := got.Response(nil)
		t.headers(want.refusal.sample, "refusal", resp.Header)
		t.body(want.refusal.sample, "refusal", resp.Body)
	case err != nil:
		t.differ(want.response.place, "outcome", "a response of status "+strconv.Itoa(want.response.status), AsRefusal(err).Error())
	default:
		ofConnection(resp.Header)
		if resp.StatusCode != want.response.status {
			t.differ(want.response.place, "status", strconv.Itoa(want.response.status), strconv.Itoa(resp.StatusCode))
		}
		t.headers(*want.response, "response", resp.Header)
		t.body(*want.response, "response", resp.Body)
	}
}

func (r *expectedRefusal) String() string {
	word, status, reason := RefusalError, "any status", "any reason"
	if r.denied {
		word = RefusalDenied
	}
	if r.status != 0 {
		status = strconv.Itoa(r.status)
	}
	if r.reason != "" {
		reason = r.reason
	}
	return fmt.Sprintf("%s (%s): %s", word, status, reason)
}

func (r *expectedRefusal) is(got *Refusal) bool {
	if r.denied != got.Denied || r.status != 0 && r.status != got.Status {
		return false
	}
	if r.denied {
		return r.reason == "" || r.reason == got.Reason
	}
	return strings.Contains(got.Reason, r.reason)
}

func (t *trial) headers(want sample, what string, got http.Header) {
	for _, h := range want.headers {
		value := strings.Join(got[h.name], ", ")
		if value == h.value {
			continue
		}
		expected, have := strconv.Quote(h.value), strconv.Quote(value)
		if h.value == "" {
			expected = "none"
		}
		if len(got[h.name]) == 0 {
			have = "none"
		}
		t.differ(want.place, what+": header "+h.name, expected, have)
	}
}

func (t *trial) body(want sample, what string, body io.Reader) {
	if want.body == nil {
		return
	}
	var got []byte
	if body != nil {
		var err error
		if got, err = readBounded(body, -1); err != nil {
			t.differ(want.place, what+": body", "one that can be read", err.Error())
			return
		}
	}
	a, err1 := jq.Decode([]byte(*want.body))
	b, err2 := jq.Decode(got)
	if err1 != nil || err2 != nil {
		if x, y := strings.TrimSuffix(*want.body, "\n"), strings.TrimSuffix(string(got), "\n"); x != y {
			t.differ(want.place, what+": body", strconv.Quote(x), strconv.Quote(y))
		}
		return
	}
	if where, x, y := firstDifference(a, b, ""); x != y {
		t.differ(want.place, strings.TrimSuffix(what+": body at "+where, " at "), x, y)
	}
}

// firstDifference returns where two JSON values differ, in jq's words, and what is
// there. Both are the same text where they do not.
func firstDifference(a, b any, path string) (where, x, y string) {
	if gojq.Compare(a, b) == 0 {
		return path, "", ""
	}
	am, ok1 := a.(map[string]any)
	bm, ok2 := b.(map[string]any)
	if ok1 && ok2 {
		for _, name := range sortedNames(am, bm) {
			at := path + "." + name
			if !paramName.MatchString(name) {
				at = cmp.Or(path, ".") + "[" + strconv.Quote(name) + "]"
			}
			av, in1 := am[name]
			bv, in2 := bm[name]
			switch {
			case !in1:
				return at, "nothing", asText(bv)
			case !in2:
				return at, asText(av), "nothing"
			case gojq.Compare(av, bv) != 0:
				return firstDifference(av, bv, at)
			}
		}
	}
	al, ok1 := a.([]any)
	bl, ok2 := b.([]any)
	if ok1 && ok2 && len(al) == len(bl) {
		for i := range al {
			if gojq.Compare(al[i], bl[i]) != 0 {
				return firstDifference(al[i], bl[i], path+"["+strconv.Itoa(i)+"]")
			}
		}
	}
	return path, asText(a), asText(b)
}

func sortedNames(a, b map[string]any) []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(names)
	return slices.Compact(names)
}

func asText(v any) string {
	data, _ := gojq.Marshal(v)
	return string(data)
}

// asRequest makes the caller's request as a server reads it, and passes it on to the
// objects of a chain.
func (s sample) asRequest() (*http.Request, error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\n", s.method, s.uri)
	h := s.header()
	if h["Host"] == nil {
		h.Set("Host", "node.example")
	}
	if err := s.write(&text, h, s.body != nil); err != nil {
		return nil, err
	}
	r, err := http.ReadRequest(bufio.NewReader(&text))
	if err != nil {
		return nil, err
	}
	if path, _, _ := strings.Cut(s.uri, "?"); path != r.URL.EscapedPath() {
		r.URL.Opaque = path // it goes on as it stands
	}
	upgrade := r.Header.Get("Upgrade")
	asked := httpguts.HeaderValuesContainsToken(r.Header["Connection"], "Upgrade")
	ofConnection(r.Header)
	if asked && upgrade != "" {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", upgrade)
	}
	if r.Header["User-Agent"] == nil {
		r.Header["User-Agent"] = []string{""} // see noAgent
	}
	return r, nil
}

// asResponse makes the node's answer to req as it is read from the wire.
func (s sample) asResponse(req *http.Request) (*http.Response, error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "HTTP/1.1 %d %s\r\n", s.status, http.StatusText(s.status))
	sized := s.status != http.StatusNoContent && s.status != http.StatusNotModified && (req.Method != http.MethodHead || s.body != nil)
	if err := s.write(&text, s.header(), sized); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(&text), req)
}

// write writes the header and the body of a message. sized: it says how long that is,
// where the author has not.
func (s sample) write(text *bytes.Buffer, h http.Header, sized bool) error {
	body := ""
	if s.body != nil {
		body = *s.body
	}
	if sized && h["Content-Length"] == nil && h["Transfer-Encoding"] == nil {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	err := h.Write(text)
	text.WriteString("\r\n" + body)
	return err
}

// header returns the sample's headers. A body that is JSON says so unless the
// author says something else.
func (s sample) header() http.Header {
	h := http.Header{}
	for _, one := range s.headers {
		h.Set(one.name, one.value)
	}
	if s.body != nil && h.Get("Content-Type") == "" {
		if v, err := jq.Decode([]byte(*s.body)); err == nil && v != nil {
			h.Set("Content-Type", "application/json")
		}
	}
	return h
}
