package so

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// appendRules answers version 1's append by a get and a conditional put of
// version 2, and its multi-get by several gets.
const appendRules = `
call "POST /append" {
  params = { key = ".body.key" }
  step "old" "GET /v2/keys/{key}" {
    expect = ["200", "404"]
    deny {
      when   = ".status == 200 and (.body.content_type | startswith(\"text/\") | not)"
      reason = "the value is binary"
    }
  }
  next "PUT /v2/keys/{key}" {
    body = <<-JQ
      {value: ((.steps.old.body.value // "") + .body.value), if_revision: (.steps.old.body.revision // 0)}
    JQ
  }
  response "200" {
    body = "{key: .request.params.key, was: .steps.old.status}"
  }
  response "412" {
    deny {
      status = 409
      reason = "somebody else wrote in between: try again"
    }
  }
}
call "POST /multi-get" {
  step "each" "GET /v2/keys/{key}" {
    foreach = ".body.keys"
    params  = { key = ".item" }
    headers = { X-Item = "{key}" }
    expect  = ["200", "404"]
    response "5xx" {
      status = 503
      text   = "the node said {{{s}}}\n"
      params = { s = ".status" }
    }
  }
  answer {
    body = "{values: (.steps.each | map({key: .item, value: .body.value})), n: .steps.each[0].status}"
  }
}
call "PUT /maybe" {
  step "check" "HEAD /v2/keys/k" {
    when = ".headers[\"x-check\"] != null"
  }
  next "PUT /v2/keys/k" {
    params = { n = ".steps.check.status // 0" }
    headers = { X-Checked = "{n}" }
  }
  response "2xx" {
    params  = { rev = ".body.revision" }
    status  = 202
    headers = { Etag = "r{rev}-{n}" }
    text    = "{rev}"
  }
}
default {
  deny {
    reason = "no"
  }
}
`

func TestSteps(t *testing.T) {
	rules := mustParse(t, appendRules+`
example "append to what is there" {
  request "POST /append" { body = "{\"key\":\"a b\",\"value\":\"2\"}" }
  next "GET /v2/keys/a%20b" {
    headers = { Content-Type = "", If-Match = "" }
    body    = ""
    answer "200" { body = "{\"value\":\"1\",\"revision\":7,\"content_type\":\"text/plain\"}" }
  }
  next "PUT /v2/keys/a%20b" {
    headers = { Content-Type = "application/json" }
    body    = "{\"if_revision\":7,\"value\":\"12\"}"
    answer "200" { body = "{}" }
  }
  response "200" { body = "{\"key\":\"a b\",\"was\":200}" }
}
example "append to nothing: the error of the get is text" {
  request "POST /append" { body = "{\"key\":\"a\",\"value\":\"2\"}" }
  next "GET /v2/keys/a" {
    answer "404" { body = "nothing there" }
  }
  next "PUT /v2/keys/a" {
    body = "{\"if_revision\":0,\"value\":\"2\"}"
    answer "200" { body = "{}" }
  }
  response "200" { body = "{\"key\":\"a\",\"was\":404}" }
}
example "append to what is binary" {
  request "POST /append" { body = "{\"key\":\"a\",\"value\":\"2\"}" }
  next "GET /v2/keys/a" {
    answer "200" { body = "{\"value\":\"AA==\",\"revision\":7,\"content_type\":\"image/png\"}" }
  }
  denied { reason = "the value is binary" }
}
example "append and a race" {
  request "POST /append" { body = "{\"key\":\"a\",\"value\":\"2\"}" }
  next "GET /v2/keys/a" {
    answer "404" {}
  }
  next "PUT /v2/keys/a" {
    answer "412" {}
  }
  denied {
    status = 409
    reason = "somebody else wrote in between: try again"
  }
}
example "a status that nobody expects" {
  request "POST /append" { body = "{\"key\":\"a\",\"value\":\"2\"}" }
  next "GET /v2/keys/a" {
    answer "500" {}
  }
  refused {
    status = 502
    reason = "step \"old\": the node answered 500"
  }
}
example "success that is no JSON" {
  request "POST /append" { body = "{\"key\":\"a\",\"value\":\"2\"}" }
  next "GET /v2/keys/a" {
    answer "200" { body = "<html>" }
  }
  refused {
    status = 502
    reason = "not JSON"
  }
}
example "several gets" {
  request "POST /multi-get" { body = "{\"keys\":[\"a\",\"b/c\"]}" }
  next "GET /v2/keys/a" {
    headers = { X-Item = "a" }
    answer "200" { body = "{\"value\":\"1\"}" }
  }
  next "GET /v2/keys/b%2Fc" {
    headers = { X-Item = "b/c" }
    answer "404" { body = "no" }
  }
  response "200" { body = "{\"values\":[{\"key\":\"a\",\"value\":\"1\"},{\"key\":\"b/c\",\"value\":null}],\"n\":200}" }
}
example "no gets" {
  request "POST /multi-get" { body = "{\"keys\":[]}" }
  response "200" { body = "{\"values\":[],\"n\":null}" }
}
example "one get fails, as text" {
  request "POST /multi-get" { body = "{\"keys\":[\"a\",\"b\"]}" }
  next "GET /v2/keys/a" {
    answer "500" {}
  }
  response "503" {
    headers = { Content-Type = "text/plain; charset=utf-8" }
    body    = "the node said {500}"
  }
}
example "no list" {
  request "POST /multi-get" { body = "{\"keys\":7}" }
  refused {
    status = 400
    reason = "foreach of step \"each\": it is no array"
  }
}
example "a step that is left out" {
  request "PUT /maybe" { body = "not json" }
  next "PUT /v2/keys/k" {
    headers = { X-Checked = "0" }
    body    = "not json"
    answer "200" { body = "{\"revision\":3}" }
  }
  response "202" {
    headers = { Etag = "r3-0" }
    body    = "3"
  }
}
example "a step that is made" {
  request "PUT /maybe" {
    headers = { X-Check = "1", Authorization = "me", If-Match = "x" }
    body    = "not json"
  }
  next "HEAD /v2/keys/k" {
    headers = { Authorization = "me", If-Match = "" }
    body    = ""
    answer "204" {}
  }
  next "PUT /v2/keys/k" {
    headers = { X-Checked = "204", If-Match = "x" }
    answer "200" { body = "{\"revision\":3}" }
  }
  response "202" {}
}
`)
	results := rules.Test()
	for _, r := range results {
		for _, d := range r.Differences {
			t.Errorf("%s: %v", r.Title, d)
		}
	}
	if len(results) != 12 || len(rules.Unreached(results)) != 0 {
		t.Errorf("%d results, not reached: %v", len(results), rules.Unreached(results))
	}
}

// Over real HTTP, in a chain: a get and a put for one append, and what ends it.
func TestStepsInAChain(t *testing.T) {
	n := newNode(t)
	n.give = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			_, _ = io.WriteString(w, `{"value":"1","revision":7,"content_type":"text/plain"}`)
		}
	}
	s := front(t, mustParse(t, appendRules), n)
	resp, err := http.Post(s.URL+"/append", "application/json", strings.NewReader(`{"key":"a","value":"2"}`))
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	want := `GET /v2/keys/a|Accept-Encoding: gzip| & PUT /v2/keys/a|Content-Type: application/json|{"if_revision":7,"value":"12"}`
	if got := strings.ReplaceAll(strings.Join(n.calls(), " & "), "|Accept-Encoding: gzip", ""); got != strings.ReplaceAll(want, "|Accept-Encoding: gzip", "") || string(data) != `{"key":"a","was":200}` {
		t.Errorf("the node got\n  %s, want\n  %s\nthe caller got %s", got, want, data)
	}
}

// One call becomes so many and no more.
func TestForeachIsBounded(t *testing.T) {
	rules := mustParse(t, appendRules)
	for _, c := range []struct{ items, calls, status int }{{MaxNextCalls, MaxNextCalls, 0}, {MaxNextCalls + 1, 0, 400}} {
		made := 0
		body := `{"keys":["k"` + strings.Repeat(`,"k"`, c.items-1) + `]}`
		_, err := rules.Answer(httptest.NewRequest("POST", "/multi-get", strings.NewReader(body)), roundTripper(func(r *http.Request) (*http.Response, error) {
			made++
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("{}"))}, nil
		}))
		var r *Refusal
		if errors.As(err, &r) != (c.status != 0) || r != nil && r.Status != c.status || made != c.calls {
			t.Errorf("%d items: %d calls, %v", c.items, made, err)
		}
	}
	two := mustParse(t, strings.Replace(appendRules, "  answer {", "  step \"more\" \"GET /more\" {}\n  answer {", 1))
	made := 0
	_, err := two.Answer(httptest.NewRequest("POST", "/multi-get", strings.NewReader(`{"keys":["k"`+strings.Repeat(`,"k"`, MaxNextCalls-1)+`]}`)), roundTripper(func(r *http.Request) (*http.Response, error) {
		made++
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("{}"))}, nil
	}))
	var r *Refusal
	if !errors.As(err, &r) || r.Status != http.StatusLoopDetected || made != MaxNextCalls {
		t.Errorf("%d calls, %v", made, err)
	}
}

// closing counts the bodies that nobody has closed.
type closing struct {
	io.Reader
	open   *int
	closed bool
}

func (c *closing) Close() error {
	if !c.closed {
		*c.open--
	}
	c.closed = true
	return nil
}

func TestBodiesAreClosed(t *testing.T) {
	rules := mustParse(t, appendRules)
	for _, answers := range [][]int{{200, 200}, {404, 412}, {500}, {404, 200}} {
		open := 0
		i := 0
		req := httptest.NewRequest("POST", "/append", strings.NewReader(`{"key":"a","value":"2"}`))
		resp, err := rules.Answer(req, roundTripper(func(r *http.Request) (*http.Response, error) {
			open++
			i++
			return &http.Response{StatusCode: answers[i-1], Header: http.Header{}, Body: &closing{strings.NewReader(`{"value":"","content_type":"text/x"}`), &open, false}}, nil
		}))
		if err == nil {
			resp.Body.Close()
		}
		if open != 0 {
			t.Errorf("%v: %d bodies are open", answers, open)
		}
	}
}

// The refusal of an object in another process is nobody's answer: no rule is for it.
func TestRefusalsOfOtherProcessesPass(t *testing.T) {
	rules := mustParse(t, appendRules)
	for _, at := range []int{1, 2} {
		i := 0
		resp, err := rules.Answer(httptest.NewRequest("POST", "/append", strings.NewReader(`{"key":"a","value":"2"}`)), roundTripper(func(r *http.Request) (*http.Response, error) {
			if i++; i == at {
				return Deny(412, "the next object says no").Response(r), nil
			}
			return &http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody}, nil
		}))
		if err != nil || resp.StatusCode != 412 || resp.Header.Get(RefusalHeader) != RefusalDenied || i != at {
			t.Errorf("call %d refused: %v, %v after %d calls", at, resp, err, i)
		}
	}
}
