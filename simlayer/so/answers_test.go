package so

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"moult/store/bundle"
)

// Authors answer in their own protocol's shape. Each file has examples that tell.
var shapedFiles = map[string]string{
	"refusals": `
call "GET /denied" {
  deny {
    status  = 422
    reason  = "not in version 2"
    params  = { who = ".query.who // \"nobody\"" }
    headers = { X-Who = "{who}" }
    body    = "{code: 7, message: \"no\", path: .path}"
  }
}
call "GET /plain" {
  deny {
    status = ".query.s | tonumber"
    reason = "as asked"
    text   = "no, {{it}} is not\n"
  }
}
call "GET /listed" {
  next "GET /v2/listed" {}
  response "200" {
    deny {
      when   = ".body.secret"
      status = ".body.code"
      reason = "it is secret"
    }
  }
}
call "GET /broken" {
  answer { body = ".method | error" }
}
refusal {
  status  = "if .denied then .status else 503 end"
  params  = { r = ".reason" }
  headers = { X-Reason = "{r}" }
  body    = "{errors: [{detail: .reason, denied: .denied}]}"
}
default {
  deny { reason = "no such call" }
}
example "a denial in a form of its own" {
  request "GET /denied?who=me" {}
  denied {
    status  = 422
    reason  = "not in version 2"
    headers = { x-who = "me", content-type = "application/json", moult-refusal = "denied", x-reason = "" }
    body    = "{\"code\":7,\"message\":\"no\",\"path\":\"/denied\"}"
  }
}
example "text, and a status of its own" {
  request "GET /plain?s=418" {}
  denied {
    status  = 418
    headers = { content-type = "text/plain; charset=utf-8" }
    body    = "no, {it} is not\n"
  }
}
example "a status that is none" {
  request "GET /plain?s=200" {}
  refused {
    status = 503
    reason = "status: want a number from 400 to 599"
  }
}
example "a denial in the form of the file" {
  request "GET /nosuch" {}
  denied {
    status  = 501
    reason  = "no such call"
    headers = { x-reason = "no such call", moult-refusal = "denied" }
    body    = "{\"errors\":[{\"detail\":\"no such call\",\"denied\":true}]}"
  }
}
example "status by the answer" {
  request "GET /listed" {}
  next "GET /v2/listed" {
    answer "200" { body = "{\"secret\":true,\"code\":451}" }
  }
  denied { status = 451 }
}
example "what failed has it, too" {
  request "GET /broken" {}
  refused {
    status  = 503
    headers = { moult-refusal = "error" }
  }
}`,
	"when": `
call "POST /rpc" {
  when = ".body.method == \"get\""
  params = { key = ".body.key" }
  next "GET /v2/{key}" {}
}
call "POST /rpc" {
  when = ".body.method == \"ping\""
  answer { body = "\"pong\"" }
}
call "POST /rpc" {
  pass = true
}
call "GET /maybe" {
  answer {
    when = ".query.a"
    text = "a"
  }
  answer {
    when   = ".query.b"
    status = ".query.b | tonumber"
    text   = "b"
  }
  next "GET /v2/maybe" {}
}
call "GET /last" {
  answer {
    when = ".query.a"
    text = "a"
  }
  answer { text = "z" }
}
default {
  deny { reason = "no" }
}
example "the first that is for it" {
  request "POST /rpc" { body = "{\"method\":\"get\",\"key\":\"k\"}" }
  next "GET /v2/k" {
    answer "200" {}
  }
  response "200" {}
}
example "the second" {
  request "POST /rpc" { body = "{\"method\":\"ping\"}" }
  response "200" { body = "\"pong\"" }
}
example "none: the body goes on as it stands" {
  request "POST /rpc" { body = "{\"method\":  \"put\"}" }
  next "POST /rpc" {
    body = "{\"method\":  \"put\"}"
    answer "204" {}
  }
  response "204" {}
}
example "an answer" {
  request "GET /maybe?a=1&b=202" {}
  response "200" { body = "a" }
}
example "another, with a status of its own" {
  request "GET /maybe?b=202" {}
  response "202" { body = "b" }
}
example "none" {
  request "GET /maybe" {}
  next "GET /v2/maybe" {
    answer "200" {}
  }
  response "200" {}
}
example "the last needs no when" {
  request "GET /last" {}
  response "200" { body = "z" }
}`,
	"lists and forms": `
call "GET /find" {
  params = { f = ".query_all.f", one = ".query.one", n = "[1, true, \"a&b\"]" }
  next "GET /v2/find?filter={f...}&n={n...}&one={one}" {}
}
call "GET /wrong" {
  params = { f = "\"text\"" }
  next "GET /v2/find?filter={f...}" {}
}
call "POST /to-form" {
  params = { name = ".body.name", tags = ".body.tags", none = "null" }
  next "POST /v2/form" { form = "name={name}&tag={tags...}&none={none}&fixed=1" }
}
call "POST /from-form" {
  next "POST /v2/json" { body = "{name: .form.name, tags: .form_all.tag, query: .query.q}" }
  response "200" { body = "{name: .request.form.name, id: .body.id}" }
}
call "POST /kept-form" {
  deny {
    when   = ".form.admin"
    reason = "not admin"
  }
  next "POST /v2/kept" {}
}
default {
  deny { reason = "no" }
}
example "none of a list" {
  request "GET /find?one=x" {}
  next "GET /v2/find?n=1&n=true&n=a%26b&one=x" {
    answer "200" {}
  }
  response "200" {}
}
example "many of a list" {
  request "GET /find?f=a&f=&f=c+d" {}
  next "GET /v2/find?filter=a&filter=&filter=c+d&n=1&n=true&n=a%26b" {
    answer "200" {}
  }
  response "200" {}
}
example "no list" {
  request "GET /wrong" {}
  refused {
    status = 400
    reason = "is no array"
  }
}
example "a form is made" {
  request "POST /to-form" { body = "{\"name\":\"a b&c\",\"tags\":[\"x\",\"y\"]}" }
  next "POST /v2/form" {
    headers = { content-type = "application/x-www-form-urlencoded", content-length = "32" }
    body    = "name=a+b%26c&tag=x&tag=y&fixed=1"
    answer "200" {}
  }
  response "200" {}
}
example "a form is read" {
  request "POST /from-form?q=1" {
    headers = { content-type = "application/x-www-form-urlencoded; charset=utf-8" }
    body    = "name=a+b&tag=x&tag=y;z"
  }
  next "POST /v2/json" {
    body = "{\"name\":\"a b\",\"tags\":[\"x\",\"y;z\"],\"query\":\"1\"}"
    answer "200" { body = "{\"id\":1}" }
  }
  response "200" { body = "{\"name\":\"a b\",\"id\":1}" }
}
example "what is no form has none" {
  request "POST /from-form" { body = "{}" }
  next "POST /v2/json" {
    body = "{\"name\":null,\"tags\":null,\"query\":null}"
    answer "404" {}
  }
  response "404" {}
}
example "a form that was read goes on as it stands" {
  request "POST /kept-form" {
    headers = { content-type = "application/x-www-form-urlencoded" }
    body    = "a=%41"
  }
  next "POST /v2/kept" {
    body = "a=%41"
    answer "200" {}
  }
  response "200" {}
}
example "but not where servers read it in several ways" {
  request "POST /kept-form" {
    headers = { content-type = "application/x-www-form-urlencoded" }
    body    = "a=1;admin=1"
  }
  refused { status = 400 }
}
example "nor what is not UTF-8" {
  request "POST /from-form" {
    headers = { content-type = "application/x-www-form-urlencoded" }
    body    = "name=%E9"
  }
  refused { status = 400 }
}`,
	"tags and digests": `
call "GET /a" {
  next "GET /b" {}
  response "200" { body = ".body" }
}
call "GET /kept" {
  next "GET /b" {}
}
default {
  deny { reason = "no" }
}
example "are of the bytes that were" {
  request "GET /a" {}
  next "GET /b" {
    answer "200" {
      headers = { etag = "\"v1\"", repr-digest = "sha-256=:x:", content-md5 = "x", accept-ranges = "bytes" }
      body    = "[1]"
    }
  }
  response "200" { headers = { etag = "W/\"v1\"", repr-digest = "", content-md5 = "", accept-ranges = "" } }
}
example "a weak one may stay" {
  request "GET /a" {}
  next "GET /b" {
    answer "200" {
      headers = { etag = "W/\"v1\"" }
      body    = "[1]"
    }
  }
  response "200" { headers = { etag = "W/\"v1\"" } }
}
example "and so they may where the bytes are the same" {
  request "GET /kept" {}
  next "GET /b" {
    answer "200" {
      headers = { etag = "\"v1\"", repr-digest = "sha-256=:x:" }
      body    = "[1]"
    }
  }
  response "200" { headers = { etag = "\"v1\"", repr-digest = "sha-256=:x:" } }
}`,
}

func TestShaped(t *testing.T) {
	for name, text := range shapedFiles {
		t.Run(name, func(t *testing.T) {
			for _, r := range mustParse(t, text).Test() {
				for _, d := range r.Differences {
					t.Errorf("%s: %s", r.Title, d)
				}
			}
		})
	}
}

// The callers' own object says the form of a refusal, wherever that is from.
func TestShapeOfAChain(t *testing.T) {
	first := mustParse(t, `
call "GET /own" {
  deny {
    reason = "own"
    text   = "own"
  }
}
refusal { text = "first" }
default { pass = true }`)
	second := mustParse(t, `
call "GET /deny" {
  deny {
    reason = "second's"
    text   = "in second's form"
  }
}
refusal { text = "second" }
default { pass = true }`)
	down := roundTripper(func(r *http.Request) (*http.Response, error) { return nil, Fail(503, nil, "down") })
	for _, c := range []struct {
		objects []Object
		path    string
		want    string
	}{
		{[]Object{first, second}, "/own", "own"},
		{[]Object{first, second}, "/deny", "first"},
		{[]Object{first, second}, "/", "first"},
		{[]Object{Compatible(), second}, "/", "second"},
		{[]Object{Compatible(), second}, "/deny", "in second's form"},
		{[]Object{Compatible(), Compatible()}, "/", `"error":"down"`},
	} {
		chain, err := NewChain(1, 3, map[bundle.Version]Object{1: c.objects[0], 2: c.objects[1]})
		if err != nil {
			t.Fatal(err)
		}
		_, err = chain.Answer(httptest.NewRequest("GET", c.path, nil), down)
		_, h, body := AsRefusal(err).form(nil)
		if !strings.Contains(string(body), c.want) || h.Get(RefusalHeader) == "" {
			t.Errorf("%s: %s %v, want %s", c.path, body, h, c.want)
		}
	}
}

func TestParseShapeErrors(t *testing.T) {
	const rest = "\ndefault { pass = true }\n"
	for _, c := range []struct{ name, file, want string }{
		{"two answers without when", "call \"GET /a\" {\n answer {}\n answer {}\n}", "never reached"},
		{"answers with when alone", "call \"GET /a\" {\n answer { when = \".query.a\" }\n}", "have none"},
		{"refusal twice", "refusal { text = \"a\" }\nrefusal { text = \"b\" }", "refusal comes twice"},
		{"status", "call \"GET /a\" {\n answer { status = \". |\" }\n}", "status: not a jq program"},
		{"list in a path", "call \"GET /{a...}\" {\n next \"GET /b?x=y{a...}\" {}\n}", "not a query value"},
		{"two bodies", "call \"GET /a\" {\n answer {\n form = \"a=1\"\n text = \"x\"\n}\n}", "want one of them"},
		{"form", "call \"GET /a\" {\n answer { form = \"=1\" }\n}", "want name={value}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseRules([]byte(c.file+rest), "test.hcl")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}
