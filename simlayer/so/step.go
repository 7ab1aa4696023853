package so

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"moult/simlayer/so/jq"
)

// step makes the calls of s. It returns a response where s answers the caller.
func (x *exchange) step(s *step) (*http.Response, error) {
	x.results = append(x.results, nil)
	if is, err := x.holds(s.when, "when of step "+s.name); !is || err != nil {
		return nil, err
	}
	items := []any{nil}
	if s.foreach != nil {
		var err error
		if items, err = x.items(s); err != nil {
			return nil, err
		}
		x.inEach = true
		defer func() { x.item, x.inEach = nil, false }()
	}
	// What a step computes is seen by its own templates only: another item has
	// other values.
	outer := x.params
	defer func() { x.params = outer }()
	results := make([]stepResult, 0, len(items))
	for _, item := range items {
		x.item, x.params = item, outer
		result, resp, err := x.stepCall(s)
		if resp != nil || err != nil {
			return resp, err
		}
		results = append(results, *result)
	}
	x.results[len(x.results)-1] = results
	return nil, nil
}

// items returns what s makes a call for each of.
func (x *exchange) items(s *step) ([]any, error) {
	what := fmt.Sprintf("foreach of step %q", s.name)
	v, ok, err := s.foreach.tree(&x.run, x.over(s.foreach))
	if err != nil {
		return nil, x.place(http.StatusInternalServerError, what, err)
	}
	items, isList := v.([]any)
	if !ok || !isList {
		return nil, x.place(http.StatusBadRequest, what, errors.New("it is no array"))
	}
	if len(items) > MaxNextCalls {
		return nil, x.place(http.StatusBadRequest, what, fmt.Errorf("%d items; one call is answered by at most %d", len(items), MaxNextCalls))
	}
	return items, nil
}

// stepCall makes one call of s. It returns its result for later expressions, or
// the caller's response.
func (x *exchange) stepCall(s *step) (*stepResult, *http.Response, error) {
	out, err := x.stepRequest(s)
	if err != nil {
		return nil, nil, err
	}
	resp, err := x.roundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	if refused(resp) {
		return nil, resp, nil
	}
	if !slices.ContainsFunc(s.expect, func(one statuses) bool { return one.has(resp.StatusCode) }) {
		if slices.ContainsFunc(s.responses, func(r *response) bool { return r.has(resp.StatusCode) }) {
			resp, err := x.respond(resp, s.responses)
			return nil, resp, err
		}
		resp.Body.Close()
		return nil, nil, x.place(http.StatusBadGateway, fmt.Sprintf("step %q", s.name),
			fmt.Errorf("the node answered %d, which the rules neither expect nor answer", resp.StatusCode))
	}
	defer resp.Body.Close()
	result := &stepResult{status: resp.StatusCode, headers: headerView(resp.Header), item: x.item}
	if x.call.readsSteps || s.reads {
		if err := result.read(resp, x.memory); err != nil {
			return nil, nil, err
		}
	} else {
		// What is left in it would cost the connection.
		_, _ = io.CopyN(io.Discard, resp.Body, MaxBody)
	}
	view := responseView{x: x, resp: resp, body: &result.body, seen: result.headers}
	return result, nil, x.denied(s.denials, http.StatusBadGateway, fmt.Sprintf("when of a deny of step %q", s.name), view.over)
}

// stepRequest makes the request of s. It has a body only if s makes one.
func (x *exchange) stepRequest(s *step) (*http.Request, error) {
	out, err := x.translate(&s.target, ofStep(x.req.Header), false)
	if err != nil {
		return nil, err
	}
	if !s.content.made {
		setRequestBody(out, nil)
	}
	return out, nil
}

// read reads the body of a step's response. Errors are often told in words: a
// body that is not JSON is null where the status is none of success.
func (r *stepResult) read(resp *http.Response, memory *jq.Memory) error {
	err := r.body.readResponse(resp, memory)
	if err == nil || r.status < 300 || !r.body.read {
		return err
	}
	r.body = body{}
	return nil
}
