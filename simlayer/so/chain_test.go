package so

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"moult/store/bundle"
)

// stepRules is the rules of an object between two versions whose only difference is
// the name of a path and of a field.
func stepRules(t *testing.T, from, to int) *Rules {
	return mustParse(t, fmt.Sprintf(`
call "PUT /v%[1]d/{key}" {
  deny {
    when   = ".params.key == \"no%[1]d\""
    reason = "object %[1]d says no"
  }
  next "PUT /v%[2]d/{key}" {
    body = "{f%[2]d: .body.f%[1]d}"
  }
  response "*" {
    status = 200
    body   = "{r%[1]d: .body.r%[2]d}"
  }
}
default {
  deny {
    reason = "no such call in version %[1]d"
  }
}`, from, to))
}

func TestChain(t *testing.T) {
	past := map[bundle.Version]Object{1: stepRules(t, 1, 2), 2: stepRules(t, 2, 3)}
	future := map[bundle.Version]Object{4: stepRules(t, 4, 3), 5: stepRules(t, 5, 4)}
	n := newNode(t)
	for _, c := range []struct {
		name           string
		objects        map[bundle.Version]Object
		caller, native bundle.Version
		exchange       exchangeTest
	}{
		{"two versions older", past, 1, 3, exchangeTest{
			call: `PUT /v1/a|{"f1":1}`, next: `PUT /v3/a|` + jsonType + `|{"f3":1}`, gives: `200|{"r3":2}`, want: `200|application/json|{"r1":2}`}},
		{"two versions newer", future, 5, 3, exchangeTest{
			call: `PUT /v5/a|{"f5":1}`, next: `PUT /v3/a|` + jsonType + `|{"f3":1}`, gives: `200|{"r3":2}`, want: `200|application/json|{"r5":2}`}},
		{"the same", past, 3, 3, exchangeTest{
			call: `PUT /v1/a|x`, next: `PUT /v1/a|x`, gives: `200|`, want: `200||`}},
		{"a refusal passes the objects before it untouched", past, 1, 3, exchangeTest{
			call: `PUT /v1/no2|{}`, want: `501|application/json|{"error":"object 2 says no","moult":{"denied":true,"from":1,"to":3}}`, refusal: "denied"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain, err := NewChain(c.caller, c.native, c.objects)
			if err != nil {
				t.Fatal(err)
			}
			c.exchange.run(t, chain, n)
		})
	}
}

func TestChainGaps(t *testing.T) {
	objects := map[bundle.Version]Object{1: Compatible(), 3: Compatible(), 5: Refuse("r")}
	_, err := NewChain(1, 4, objects)
	if err == nil || !strings.Contains(err.Error(), "answers version 2") {
		t.Fatalf("error %v, want one that names version 2", err)
	}
	chains := Chains(4, objects)
	if len(chains) != 3 || chains[3] == nil || chains[4] == nil || chains[5] == nil {
		t.Fatalf("chains of %v, want 3, 4 and 5", chains)
	}
	if !Transparent(chains[3]) || !Transparent(chains[4]) || Transparent(chains[5]) {
		t.Error("only Compatible is transparent")
	}
	far := map[bundle.Version]Object{}
	for v := bundle.Version(1); v <= MaxChain+1; v++ {
		far[v] = Compatible()
	}
	if _, err := NewChain(1, MaxChain+2, far); err == nil {
		t.Error("a chain without end was made")
	}
	if _, err := NewChain(2, MaxChain+2, far); err != nil {
		t.Error(err)
	}
}

// flood asks next without end.
type flood struct{}

func (flood) Answer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	for {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
	}
}

func TestFloodOfNext(t *testing.T) {
	c, err := NewChain(1, 3, map[bundle.Version]Object{1: Compatible(), 2: flood{}})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	_, err = c.Answer(httptest.NewRequest("GET", "/", nil), roundTripper(func(*http.Request) (*http.Response, error) {
		calls++
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	var r *Refusal
	if !errors.As(err, &r) || r.Status != http.StatusLoopDetected || r.From != 1 || r.To != 3 {
		t.Fatalf("got %v, want a refusal that says it loops", err)
	}
	if calls == 0 || calls > MaxNextCalls {
		t.Errorf("%d calls reached the node, at most %d may", calls, MaxNextCalls)
	}
}

// A chain whose end is its own beginning: rules call next in a circle.
func TestCircle(t *testing.T) {
	rules := mustParse(t, `
call "GET /{x...}" {
  next "GET /again/{x...}" {}
  response "200" { body = ".body" }
}
default { pass = true }`)
	c, err := NewChain(1, 3, map[bundle.Version]Object{1: rules, 2: rules})
	if err != nil {
		t.Fatal(err)
	}
	rounds := 0
	var circle roundTripper
	circle = func(r *http.Request) (*http.Response, error) {
		if rounds++; rounds > 10*MaxNextCalls {
			return nil, errors.New("it goes round for ever")
		}
		return c.Answer(r, circle)
	}
	_, err = c.Answer(httptest.NewRequest("GET", "/a", nil), circle)
	var r *Refusal
	if !errors.As(err, &r) || r.Status != http.StatusLoopDetected || rounds == 0 || rounds > MaxNextCalls {
		t.Fatalf("got %v after %d rounds, want a refusal that says it loops", err, rounds)
	}
}

// A failure below the objects comes out as it is, so that the call can be tried
// again.
func TestChainKeepsFailures(t *testing.T) {
	down := errors.New("connection refused")
	c, err := NewChain(1, 2, map[bundle.Version]Object{1: stepRules(t, 1, 2)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Answer(httptest.NewRequest("PUT", "/v1/a", strings.NewReader("{}")), roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, down
	}))
	var r *Refusal
	if !errors.Is(err, down) || errors.As(err, &r) {
		t.Fatalf("got %v, want %v alone", err, down)
	}
}

func TestRefusal(t *testing.T) {
	r := &Refusal{Status: 503, Reason: "down", From: 1, To: 2, RetryAfter: 1500e6}
	resp := r.Response(nil)
	data, _ := io.ReadAll(resp.Body)
	w := httptest.NewRecorder()
	r.Write(w)
	if w.Code != resp.StatusCode || w.Body.String() != string(data) || w.Header().Get("Retry-After") != "2" || resp.Header.Get("Retry-After") != "2" {
		t.Errorf("Write and Response differ, or Retry-After is not 2: %v %s, %v %s", w.Header(), w.Body, resp.Header, data)
	}
	if err := fmt.Errorf("step: %w", Deny(0, "no")); AsRefusal(err).Status != 501 {
		t.Errorf("AsRefusal(%v) lost the refusal", err)
	}
}
