package so

import (
	"strings"
	"testing"
)

const tested = `
call "GET /get" {
  params = { key = ".query.k" }
  next "GET /v2/keys/{key}" {}
  response "200" {
    deny {
      when   = ".body.secret"
      reason = "it is secret"
    }
    headers = { X-A = "a" }
    body    = "{key: .body.key, list: .body.list}"
  }
}
call "GET /untested" { pass = true }
default {
  deny { reason = "no such call" }
}
`

// Every kind of difference is found, and told at its line.
func TestExamplesFail(t *testing.T) {
	const request = "example \"e\" {\n  request \"GET /get?k=a\" {}\n"
	const next = "  next \"GET /v2/keys/a\" {\n    answer \"200\" { body = \"{\\\"key\\\":\\\"a\\\",\\\"list\\\":[1,2.0]}\" }\n  }\n"
	const secret = "  next \"GET /v2/keys/a\" {\n    answer \"200\" { body = \"{\\\"secret\\\":1}\" }\n  }\n"
	for _, c := range []struct{ name, example, want string }{
		{"holds", request + next + "response \"200\" {\n body = \"{\\\"list\\\":[1.0,2],\\\"key\\\":\\\"a\\\"}\"\n headers = { X-A = \"a\", X-B = \"\" }\n}", ""},
		{"denied holds", request + secret + "denied {\n status = 501\n reason = \"it is secret\"\n}", ""},
		{"another call", strings.Replace(request+next, "keys/a", "keys/b", 1) + `response "200" {}`, `test.hcl:24: call 1 of next: expected GET /v2/keys/b, got GET /v2/keys/a`},
		{"header of next", request + strings.Replace(next, "answer", "headers = { X-C = \"c\" }\nanswer", 1) + `response "200" {}`, `call 1 of next: header X-C: expected "c", got none`},
		{"body of next", request + strings.Replace(next, "answer", "body = \"x\"\nanswer", 1) + `response "200" {}`, `call 1 of next: body: expected "x", got ""`},
		{"no call", request + next + next + `response "200" {}`, `test.hcl:27: call of next: expected GET /v2/keys/a, got no call`},
		{"a call too many", request + `response "200" {}`, `test.hcl:22: call of next: expected no more calls, got GET /v2/keys/a`},
		{"status", request + next + `response "404" {}`, `test.hcl:27: status: expected 404, got 200`},
		{"header", request + next + `response "200" { headers = { X-A = "b" } }`, `response: header X-A: expected "b", got "a"`},
		{"body", request + next + `response "200" { body = "{\"key\":\"a\",\"list\":[1,3]}" }`, `response: body at .list[1]: expected 3, got 2.0`},
		{"missing field", request + next + `response "200" { body = "{\"key\":\"a\",\"list\":[1,2],\"q q\":1}" }`, `response: body at .["q q"]: expected 1, got nothing`},
		{"no denial", request + next + "denied {}", `outcome: expected denied (any status): any reason, got a response of status 200`},
		{"another reason", request + secret + "denied { reason = \"x\" }", `expected denied (any status): x, got denied (501): it is secret`},
		{"denied, not refused", request + secret + "refused {}", `expected error (any status): any reason, got denied (501): it is secret`},
		{"no response", request + secret + "response \"200\" {}", `outcome: expected a response of status 200, got denied (501): it is secret`},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := mustParse(t, strings.TrimSuffix(tested, "}\n")+"}\n\n\n\n\n"+c.example+"\n}\n")
			results := rules.Test()
			got := ""
			for _, d := range results[0].Differences {
				got += d.String() + "\n"
			}
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (Failed(results) == nil) != (c.want == "") {
				t.Errorf("Failed: %v", Failed(results))
			}
			if r := results[0]; r.Reaches != "GET /get" || r.ReachesPlace != "test.hcl:2" {
				t.Errorf("reaches %q at %s", r.Reaches, r.ReachesPlace)
			}
			if list := rules.Unreached(results); len(list) != 1 || list[0] != (CallPlace{"GET /untested", "test.hcl:14"}) {
				t.Errorf("not reached: %v", list)
			}
		})
	}
}

// The documentation's rules file carries examples, and they hold.
func TestDocumentationExamplesHold(t *testing.T) {
	for _, text := range docFiles(t) {
		rules, err := ParseRules([]byte(text), "doc.hcl")
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		results := rules.Test()
		if err := Failed(results); err != nil || len(results) == 0 {
			t.Errorf("%d examples: %v", len(results), err)
		}
		if !rules.Bounded() {
			t.Errorf("not bounded: %v", rules.Unbounded())
		}
	}
}

func TestParseExampleErrors(t *testing.T) {
	for _, c := range []struct{ name, example, want string }{
		{"no request", `example "e" { response "200" {} }`, "want one request, have 0"},
		{"no end", `example "e" { request "GET /a" {} }`, "want one of response, denied and refused, have 0"},
		{"two ends", "example \"e\" {\n request \"GET /a\" {}\n denied {}\n refused {}\n}", "have 2"},
		{"any method", "example \"e\" {\n request \"* /a\" {}\n denied {}\n}", "want a method"},
		{"no answer", "example \"e\" {\n request \"GET /a\" {}\n next \"GET /b\" {}\n denied {}\n}", "want one answer"},
		{"status", "example \"e\" {\n request \"GET /a\" {}\n response \"2xx\" {}\n}", "want a status from 200 to 599"},
		{"unknown", "example \"e\" {\n request \"GET /a\" { boddy = \"\" }\n denied {}\n}", `An argument named "boddy"`},
		{"no title", "example \"\" {\n request \"GET /a\" {}\n denied {}\n}", "want a title"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.ReplaceAll(c.example, "{ response \"200\" {} }", "{\n response \"200\" {}\n}")
			text = strings.ReplaceAll(text, "{ request \"GET /a\" {} }", "{\n request \"GET /a\" {}\n}")
			_, err := ParseRules([]byte(tested+text+"\n"), "test.hcl")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestParseStepErrors(t *testing.T) {
	const rest = "\ndefault { pass = true }\n"
	for _, c := range []struct{ name, file, want string }{
		{"name", "call \"GET /a\" {\n step \"x y\" \"GET /b\" {}\n pass = true\n}", "want a name of letters"},
		{"twice", "call \"GET /a\" {\n step \"x\" \"GET /b\" {}\n step \"x\" \"GET /b\" {}\n pass = true\n}", `step "x" comes twice`},
		{"parameter", "call \"GET /a\" {\n step \"x\" \"GET /{b}\" {}\n pass = true\n}", "no such parameter"},
		{"parameters of a step are its own", "call \"GET /a\" {\n step \"x\" \"GET /{b}\" { params = { b = \"1\" } }\n next \"GET /{b}\" {}\n}", "no such parameter"},
		{"never reached", "call \"GET /a\" {\n step \"x\" \"GET /b\" {\n response \"204\" {}\n}\n pass = true\n}", "never reached: the step expects"},
		{"never made", "call \"GET /a\" {\n step \"x\" \"GET /b\" {}\n deny { reason = \"r\" }\n}", "the steps are never made"},
		{"deny of a step", "call \"GET /a\" {\n step \"x\" \"GET /b\" {\n deny { reason = \"r\" }\n}\n pass = true\n}", "never reached"},
		{"expect", "call \"GET /a\" {\n step \"x\" \"GET /b\" { expect = [\"ok\"] }\n pass = true\n}", `expect "ok"`},
		{"body and text", "call \"GET /a\" {\n answer {\n body = \"1\"\n text = \"x\"\n}\n}", "want one of them"},
		{"brace", "call \"GET /a\" {\n answer { text = \"{x\" }\n}", "{{ and }} stand for braces"},
		{"text of 204", "call \"GET /a\" {\n answer {\n status = 204\n text = \"x\"\n}\n}", "has none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseRules([]byte(c.file+rest), "test.hcl")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}
