package so

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What rules read and write is what was sent, or the call is refused. Each file has
// examples that tell.
var exactFiles = map[string]string{
	"a query is read as it stands": `
call "GET /find" {
  params = { q = ".query.q" }
  next "GET /v2/find?text={q}&max=5" {}
}
default {
  deny { reason = "no such call" }
}
example "a semicolon is part of the value" {
  request "GET /find?q=a;b" {}
  next "GET /v2/find?text=a%3Bb&max=5" {
    answer "200" {}
  }
  response "200" {}
}
example "a bare percent sign" {
  request "GET /find?q=100%" {}
  next "GET /v2/find?text=100%25&max=5" {
    answer "200" {}
  }
  response "200" {}
}
example "beside escapes" {
  request "GET /find?q=%41%zz+%4" {}
  next "GET /v2/find?text=A%25zz+%254&max=5" {
    answer "200" {}
  }
  response "200" {}
}
example "empty is not absent" {
  request "GET /find?q=" {}
  next "GET /v2/find?text=&max=5" {
    answer "200" {}
  }
  response "200" {}
}
example "absent is not empty" {
  request "GET /find" {}
  next "GET /v2/find?max=5" {
    answer "200" {}
  }
  response "200" {}
}`,
	"what a rule did not see does not go on": `
call "GET /list" {
  deny {
    when   = ".query.all == \"yes\""
    reason = "not all"
  }
  next "GET /v2/list" { keep_query = true }
}
call "GET /by-name" {
  query = ["all"]
  deny { reason = "not all" }
}
call "GET /unread" {
  next "GET /v2/unread" { keep_query = true }
}
default { pass = true }
example "a semicolon" {
  request "GET /list?all=yes;&n=1" {}
  refused {
    status = 400
    reason = "servers read such a query in several ways"
  }
}
example "a percent sign" {
  request "GET /list?all=yes&n=%zz" {}
  denied {}
}
example "a condition has read it, too" {
  request "GET /by-name?x=1;all" {}
  refused { status = 400 }
}
example "what nobody has read goes on as it stands" {
  request "GET /unread?a;b=%&c" {}
  next "GET /v2/unread?a;b=%&c" {
    answer "200" {}
  }
  response "200" {}
}
example "and without a rule" {
  request "GET /other?a;b=%" {}
  next "GET /other?a;b=%" {
    answer "200" {}
  }
  response "200" {}
}`,
	"what is not UTF-8 is refused as in a body": `
call "GET /query" {
  next "POST /b" { body = "{q: .query.q}" }
}
call "GET /all" {
  next "POST /b" { body = "{q: .query_all.q} | . as $x | $x" }
}
call "GET /header" {
  next "POST /b" { body = "{q: .headers.\"x-a\"}" }
}
call "GET /path/{p}" {
  next "POST /b" { body = "{q: .params.p}" }
}
call "GET /whole/{p}" {
  next "POST /b" { body = "{q: .path}" }
}
call "GET /exact/{p}" {
  next "GET /b/{p}" {}
}
call "GET /general" {
  answer { body = "{m: .method} | . as $x | $x" }
}
call "GET /answer" {
  next "GET /b" {}
  response "200" { body = "{a: .headers.\"x-a\"}" }
}
call "GET /bytes" {
  answer { body = "{a: (\"6Q==\" | @base64d)}" }
}
default {
  deny { reason = "no" }
}
example "query" {
  request "GET /query?q=%E9" {}
  refused {
    status = 400
    reason = "\"q\" is not UTF-8"
  }
}
example "another parameter is no harm" {
  request "GET /query?q=a&x=%E9" {}
  next "POST /b" {
    body = "{\"q\":\"a\"}"
    answer "200" {}
  }
  response "200" {}
}
example "every value" {
  request "GET /all?q=a&q=%E9" {}
  refused { status = 400 }
}
example "header" {
  request "GET /header" { headers = { X-A = "LATIN" } }
  refused { status = 400 }
}
example "parameter of the path" {
  request "GET /path/%E9" {}
  refused { status = 400 }
}
example "path" {
  request "GET /whole/%E9" {}
  refused { status = 400 }
}
example "templates are exact" {
  request "GET /exact/%E9" {}
  next "GET /b/%E9" {
    answer "200" {}
  }
  response "200" {}
}
example "what an expression does not mention is no harm" {
  request "GET /general?q=%E9" { headers = { X-A = "LATIN" } }
  response "200" { body = "{\"m\":\"GET\"}" }
}
example "header of the answer" {
  request "GET /answer" {}
  next "GET /b" {
    answer "200" { headers = { X-A = "LATIN" } }
  }
  refused { status = 502 }
}
example "made by an expression" {
  request "GET /bytes" {}
  refused { status = 500 }
}`,
	"lengths are those of the body": `
call "* /a" {
  next "* /b" {}
  response "200" { body = "{v: .body.v}" }
}
call "GET /head" {
  next "HEAD /b" {}
}
call "GET /fresh" {
  next "GET /b" {}
  response "304" { status = 200 }
}
call "GET /reset" {
  next "GET /b" {}
  response "200" { status = 205 }
}
call "GET /same" {
  next "GET /b" {}
  response "*" { body = "{}" }
}
default {
  deny { reason = "no" }
}
example "a HEAD has no length that GET would not have" {
  request "HEAD /a" {}
  next "HEAD /b" {
    answer "200" { headers = { content-length = "16" } }
  }
  response "200" {
    headers = { content-length = "" }
    body    = ""
  }
}
example "a GET has one" {
  request "GET /a" {}
  next "GET /b" {
    answer "200" { body = "{\"v\":1}" }
  }
  response "200" {
    headers = { content-length = "7" }
    body    = "{\"v\":1}"
  }
}
example "the answer to a HEAD has no body for a GET" {
  request "GET /head" {}
  next "HEAD /b" {
    answer "200" { headers = { content-length = "16", content-encoding = "gzip" } }
  }
  response "200" {
    headers = { content-length = "0", content-encoding = "" }
    body    = ""
  }
}
example "nor has a 304 for a 200" {
  request "GET /fresh" {}
  next "GET /b" {
    answer "304" { headers = { content-length = "16" } }
  }
  response "200" {
    headers = { content-length = "0" }
    body    = ""
  }
}
example "a 205 has no body" {
  request "GET /reset" {}
  next "GET /b" {
    answer "200" { body = "{}" }
  }
  response "205" {
    headers = { content-length = "0", content-type = "" }
    body    = ""
  }
}
example "a 304 has neither body nor length" {
  request "GET /same" {}
  next "GET /b" {
    answer "304" { headers = { content-length = "16" } }
  }
  response "304" {
    headers = { content-length = "", content-type = "" }
    body    = ""
  }
}
example "nor has a 205 of the node's" {
  request "GET /same" {}
  next "GET /b" {
    answer "205" {}
  }
  response "205" {
    headers = { content-length = "0" }
    body    = ""
  }
}`,
	"absent is absent": `
call "GET /a" {
  headers = ["user-agent"]
  answer { body = ".headers.\"user-agent\"" }
}
call "GET /b" {
  answer { body = ".headers | has(\"user-agent\")" }
}
call "GET /c" {
  next "GET /d" { headers = { User-Agent = "" } }
}
default {
  deny { reason = "no agent named" }
}
example "no User-Agent, so the first call is not for it" {
  request "GET /a" {}
  denied {}
}
example "one that is there" {
  request "GET /a" { headers = { user-agent = "me" } }
  response "200" { body = "\"me\"" }
}
example "not for an expression either" {
  request "GET /b" {}
  response "200" { body = "false" }
}
example "removed is not net/http's own" {
  request "GET /c" { headers = { user-agent = "me" } }
  next "GET /d" {
    headers = { user-agent = "" }
    answer "200" {}
  }
  response "200" {}
}`,
	"headers of one connection are nobody's": `
call "GET /a" {
  headers = ["keep-alive"]
  answer {}
}
call "GET /b" {
  headers = ["x-hop"]
  answer {}
}
default {
  deny { reason = "not there" }
}
example "by name" {
  request "GET /a" { headers = { keep-alive = "timeout=5" } }
  denied {}
}
example "named by Connection" {
  request "GET /b" { headers = { connection = "X-Hop", x-hop = "1" } }
  denied {}
}`,
	"paths go on as they stand": `
default { pass = true }
example "unusual but allowed" {
  request "GET /a[b]|c?x={y}" {}
  next "GET /a[b]|c?x={y}" {
    answer "200" {}
  }
  response "200" {}
}`,
}

func TestExact(t *testing.T) {
	for name, text := range exactFiles {
		t.Run(name, func(t *testing.T) {
			rules := mustParse(t, strings.ReplaceAll(text, "LATIN", `caf\u00e9`))
			for _, e := range rules.examples { // HCL itself is UTF-8
				e.request.latin()
				for i := range e.next {
					e.next[i].answer.latin()
				}
			}
			for _, r := range rules.Test() {
				for _, d := range r.Differences {
					t.Errorf("%s: %s", r.Title, d)
				}
			}
		})
	}
}

// latin writes é in one byte.
func (s *sample) latin() {
	for i := range s.headers {
		s.headers[i].value = strings.ReplaceAll(s.headers[i].value, "é", "\xe9")
	}
}

// A proxy puts an empty User-Agent where a caller has sent none.
func TestNoAgentIsServed(t *testing.T) {
	rules := mustParse(t, exactFiles["absent is absent"])
	r := httptest.NewRequest("GET", "/a", nil)
	r.Header["User-Agent"] = []string{""}
	if _, err := rules.Answer(r, nil); err == nil || !AsRefusal(err).Denied {
		t.Errorf("%v, want the denial of a call that names no agent", err)
	}
	r.Header = http.Header{"User-Agent": {"me"}}
	if resp, err := rules.Answer(r, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %v", resp, err)
	}
}
