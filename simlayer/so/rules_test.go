package so

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
)

// node is a server that records what reaches it and answers as it is told.
type node struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string // "METHOD URI|header lines|body"
	give func(w http.ResponseWriter, r *http.Request)
}

func newNode(t *testing.T) *node {
	n := &node{}
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		n.mu.Lock()
		line := r.Method + " " + r.RequestURI
		for _, name := range []string{"Content-Type", "X-A", "X-B", "Accept-Encoding", "Range", "Upgrade", "X-Hop"} {
			if v := r.Header.Get(name); v != "" {
				line += "|" + name + ": " + v
			}
		}
		n.got = append(n.got, line+"|"+string(data))
		give := n.give
		n.mu.Unlock()
		give(w, r)
	}))
	n.Client().Transport.(*http.Transport).DisableCompression = true
	t.Cleanup(n.Close)
	return n
}

func (n *node) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = "http", strings.TrimPrefix(n.URL, "http://")
	return n.Client().Transport.RoundTrip(out)
}

func (n *node) calls() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.got
	n.got = nil
	return got
}

// front serves an object's callers over real HTTP.
func front(t *testing.T, o Object, next http.RoundTripper) *httptest.Server {
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(*httputil.ProxyRequest) {},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return o.Answer(r, next) }),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			AsRefusal(err).Write(w)
		},
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	return s
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// docFiles returns the rules files in the package's documentation.
func docFiles(t testing.TB) []string {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	var lines strings.Builder
	for line := range strings.Lines(string(doc)) {
		if text, ok := strings.CutPrefix(line, "//\t"); ok {
			lines.WriteString(text)
			continue
		}
		lines.WriteString("\n")
		if line != "//\n" {
			if text := lines.String(); strings.Contains(text, "\ndefault {") {
				files = append(files, text)
			}
			lines.Reset()
		}
	}
	return files
}

// docRules returns the first of docFiles.
func docRules(t testing.TB) string { return docFiles(t)[0] }

func mustParse(t *testing.T, text string) *Rules {
	t.Helper()
	r, err := ParseRules([]byte(text), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// exchangeTest is one call through an object: what comes in, what the node must
// get and gives, what must come out.
type exchangeTest struct {
	name    string
	rules   string // "" is that of the whole table
	call    string // "METHOD URI|Header: v|…|body"
	next    string // as recorded by node; "" for no call
	gives   string // "STATUS|Header: v|…|body"
	want    string // "STATUS|Content-Type|body"
	refusal string // of RefusalHeader
}

func (e exchangeTest) run(t *testing.T, o Object, n *node) {
	n.give = func(w http.ResponseWriter, _ *http.Request) {
		parts := strings.Split(e.gives, "|")
		for _, h := range parts[1 : len(parts)-1] {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		var status int
		fmt.Sscan(parts[0], &status)
		w.WriteHeader(status)
		io.WriteString(w, parts[len(parts)-1])
	}
	n.calls()
	parts := strings.Split(e.call, "|")
	method, uri, _ := strings.Cut(parts[0], " ")
	req, err := http.NewRequest(method, front(t, o, n).URL+uri, strings.NewReader(parts[len(parts)-1]))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range parts[1:max(1, len(parts)-1)] {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.calls(), " & "); got != e.next {
		t.Errorf("the node got\n  %q, want\n  %q", got, e.next)
	}
	got := fmt.Sprintf("%d|%s|%s", resp.StatusCode, resp.Header.Get("Content-Type"), data)
	if e.refusal == "" && got != e.want || !strings.Contains(got, e.want) {
		t.Errorf("the caller got\n  %q, want\n  %q", got, e.want)
	}
	if r := resp.Header.Get(RefusalHeader); r != e.refusal {
		t.Errorf("%s: %q, want %q", RefusalHeader, r, e.refusal)
	}
}

// oneLine lets a test write {{ … }} for a block around a block, which in HCL must
// stand on several lines.
var oneLine = strings.NewReplacer("{{ ", "{\n", " }}", "\n}")

const jsonType = "Content-Type: application/json"

func TestDocumentationExample(t *testing.T) {
	n := newNode(t)
	rules := mustParse(t, docRules(t))
	for _, e := range []exchangeTest{
		{name: "mapped both ways", call: "GET /get?k=a%2Fb|", next: "GET /v2/keys/a%2Fb|",
			gives: `200|` + jsonType + `|{"key":"a/b","value":"<v>","revision":3,"content_type":"text/plain"}`,
			want:  `200|application/json|{"key":"a/b","value":"<v>"}`},
		{name: "denied by the response", call: "GET /get?k=a|", next: "GET /v2/keys/a|",
			gives: `200|` + jsonType + `|{"key":"a","value":"AA==","content_type":"image/png"}`,
			want:  `501|application/json|{"error":"the value is binary, which version 1 cannot show","moult":{"denied":true,`, refusal: "denied"},
		{name: "other statuses go back unchanged", call: "GET /get?k=a|", next: "GET /v2/keys/a|",
			gives: `404|Content-Type: text/plain|nothing there`, want: `404|text/plain|nothing there`},
		{name: "without the parameter: default", call: "GET /get|", want: "404|application/json|", refusal: "denied"},
		{name: "the parameter is empty", call: "GET /get?k=|", want: `parameter \"key\" is empty`, refusal: "error"},
		{name: "a key that would walk", call: "GET /get?k=..|", want: `400|application/json|`, refusal: "error"},
		{name: "body mapped", call: `PUT /set|` + jsonType + `|{"key":"a","value":"v"}`,
			next:  `PUT /v2/keys/a|` + jsonType + `|{"value":"v"}`,
			gives: `200|` + jsonType + `|{"key":"a","revision":9}`, want: `200|application/json|{"key":"a"}`},
		{name: "body is not JSON", call: `PUT /set|{"key":`, want: "400|application/json|", refusal: "error"},
		{name: "body of another shape", call: `PUT /set|{"value":"v"}`, want: `parameter \"key\" is missing`, refusal: "error"},
		{name: "no mapping of the response", call: "GET /list|", next: "GET /v2/keys|",
			gives: `200|` + jsonType + `|{"keys": [1.50, 1e400]}`, want: `200|application/json|{"keys": [1.50, 1e400]}`},
		{name: "constant answer", call: "GET /version|", want: `200|application/json|{"version":1}`},
		{name: "pass", call: "GET /healthz?x=1|X-A: 1|", next: "GET /healthz?x=1|X-A: 1|", gives: `200|Content-Type: text/plain|ok`, want: `200|text/plain|ok`},
		{name: "denied by path", call: "POST /admin/a/b|", want: `501|application/json|{"error":"version 2 has no admin calls"`, refusal: "denied"},
		{name: "another method", call: "DELETE /get?k=a|", want: `404|application/json|`, refusal: "denied"},
	} {
		t.Run(e.name, func(t *testing.T) { e.run(t, rules, n) })
	}
}

func TestRules(t *testing.T) {
	n := newNode(t)
	big := strings.Repeat("x", MaxBody)
	for _, e := range []exchangeTest{
		{name: "headers both ways",
			rules: `call "GET /a" {
			  next "GET /b" { headers = { X-A = "v-{p}", "X-B" = "" } }
			  params = { p = ".headers[\"x-b\"]" }
			  response "2xx" {
			    headers = { "Content-Type" = "text/html" }
			  }
			}`,
			call: "GET /a|X-B: b|", next: "GET /b|X-A: v-b|", gives: "200|Content-Type: text/plain|t", want: "200|text/html|t"},
		{name: "headers of one connection",
			rules: `call "GET /a" {{ next "GET /b" {} }}`,
			call:  "GET /a|Connection: X-Hop, Upgrade|Upgrade: websocket|X-Hop: 1|X-A: 1|", next: "GET /b|X-A: 1|", gives: "200|", want: "200||"},
		{name: "encodings and ranges only where the body is left alone",
			rules: `call "GET /a" {{ next "GET /b" {} }}`,
			call:  "GET /a|Accept-Encoding: br|Range: bytes=0-1|", next: "GET /b|Accept-Encoding: br|Range: bytes=0-1|", gives: "200|", want: "200||"},
		{name: "no encodings and ranges where it is read",
			rules: `call "GET /a" {
			  next "GET /b" {}
			  response "200" { body = ".body" }
			}`,
			call: "GET /a|Accept-Encoding: br|Range: bytes=0-1|", next: "GET /b|", gives: "200|[1]", want: "200|application/json|[1]"},
		{name: "encoded all the same",
			rules: `call "GET /a" {
			  next "GET /b" {}
			  response "200" { body = ".body" }
			}`,
			call: "GET /a|", next: "GET /b|", gives: "200|Content-Encoding: br|[1]", want: "502|", refusal: "error"},
		{name: "query kept and added",
			rules: `call "GET /a/{x}" {
			  params = { none = "null", n = ".query.n | tonumber + 1" }
			  next "* /b?x={x}&gone={none}&n={n}&c=1" { keep_query = true }
			}`,
			call: "GET /a/%26?n=41|", next: "GET /b?x=%26&n=42&c=1&n=41|", gives: "200|", want: "200||"},
		{name: "rest keeps its encoding",
			rules: `call "GET /a/{rest...}" {{ next "GET /b/{rest...}" {} }}`,
			call:  "GET /a/x%2Fy/z|", next: "GET /b/x%2Fy/z|", gives: "200|", want: "200||"},
		{name: "rest that walks",
			rules: `call "GET /a/{rest...}" {{ next "GET /b/{rest...}" {} }}`,
			call:  "GET /a/x/%2e%2E/z|", want: "400|", refusal: "error"},
		{name: "status and no body",
			rules: `call "DELETE /a" {
			  next "DELETE /b" {}
			  response "200" { status = 204 }
			}`,
			call: "DELETE /a|", next: "DELETE /b|", gives: "200|" + jsonType + "|{}", want: "204||"},
		{name: "first response that is for the status",
			rules: `call "GET /a" {
			  next "GET /b" {}
			  response "404" { status = 410 }
			  response "4xx" { status = 400 }
			  response "*" { status = 500 }
			}`,
			call: "GET /a|", next: "GET /b|", gives: "403|", want: "400||"},
		{name: "large numbers keep their digits",
			rules: `call "PUT /a" {{ next "PUT /b" { body = "{n: .body.n}" } }}`,
			call:  `PUT /a|{"n":12345678901234567890.10}`, next: `PUT /b|` + jsonType + `|{"n":12345678901234567890.10}`, gives: "200|", want: "200||"},
		{name: "an expression that yields nothing makes no body",
			rules: `call "PUT /a" {{ next "PUT /b" { body = "empty" } }}`,
			call:  `PUT /a|Content-Type: text/plain|not json`, next: `PUT /b|`, gives: "200|", want: "200||"},
		{name: "two values are too many",
			rules: `call "GET /a" {{ answer { body = "1, 2" } }}`, call: "GET /a|", want: "500|", refusal: "error"},
		{name: "an expression that fails",
			rules: `call "GET /a" {{ answer { body = ".params.x + error(\"no\")" } }}`, call: "GET /a|", want: "500|application/json|", refusal: "error"},
		{name: "an expression over the response that fails",
			rules: `call "GET /a" {
			  next "GET /b" {}
			  response "200" { body = ".body.x" }
			}`,
			call: "GET /a|", next: "GET /b|", gives: "200|[]", want: "502|", refusal: "error"},
		{name: "the answer is not JSON",
			rules: `call "GET /a" {
			  next "GET /b" {}
			  response "200" { body = ".body.x" }
			}`,
			call: "GET /a|", next: "GET /b|", gives: "200|<html>", want: "502|", refusal: "error"},
		{name: "no JSON needed where no expression says body",
			rules: `call "PUT /a" {
			  params = { m = ".method" }
			  next "POST /b/{m}" {}
			  response "200" {
			    deny {
			      when   = ".request.params.m == \"GET\""
			      reason = "r"
			    }
			  }
			}`,
			call: "PUT /a|<xml>", next: "POST /b/PUT|<xml>", gives: "200|<html>", want: "200|text/html; charset=utf-8|<html>"},
		{name: "the caller's body in a response",
			rules: `call "PUT /a" {
			  next "PUT /b" {}
			  response "200" { body = "{mine: .request.body.k}" }
			}`,
			call: `PUT /a|{"k":7}`, next: `PUT /b|{"k":7}`, gives: "200|<html>", want: `200|application/json|{"mine":7}`},
		{name: "encoded request",
			rules: `call "PUT /a" {{ next "PUT /b" { body = ".body" } }}`,
			call:  `PUT /a|Content-Encoding: gzip|x`, want: "415|", refusal: "error"},
		{name: "request too large",
			rules: `call "PUT /a" {{ next "PUT /b" { body = ".body" } }}`,
			call:  `PUT /a|"` + big + `"`, want: "413|", refusal: "error"},
		{name: "answer too large",
			rules: `call "GET /a" {
			  next "GET /b" {}
			  response "200" { body = ".body" }
			}`,
			call: `GET /a|`, next: "GET /b|", gives: `200|"` + big + `"`, want: "502|", refusal: "error"},
		{name: "half a surrogate would change",
			rules: `call "PUT /a" {{ next "PUT /b" { body = ".body" } }}`,
			call:  `PUT /a|"\ud83d"`, want: "400|", refusal: "error"},
		{name: "a conditional denial, then the action",
			rules: `call "PUT /a" {
			  deny {
			    when   = ".body.if_revision != null"
			    status = 422
			    reason = "no conditional writes"
			  }
			  next "PUT /b" {}
			}`,
			call: `PUT /a|{"if_revision":0}`, want: `422|application/json|{"error":"no conditional writes"`, refusal: "denied"},
		{name: "one value more than once in the query",
			rules: `call "GET /a" {{ answer { body = "[.query.k, .query_all.k]" } }}`, call: "GET /a?k=1&k=2|", want: `200|application/json|["1",["1","2"]]`},
	} {
		t.Run(e.name, func(t *testing.T) {
			e.run(t, mustParse(t, oneLine.Replace(e.rules)+"\ndefault { pass = true }\n"), n)
		})
	}
}

// Calls at once, whose memory is that of calls before, do not see each other's.
func TestMemoryIsNotShared(t *testing.T) {
	rules := mustParse(t, `
call "PUT /a/{key}" {
  step "one" "PUT /b/{key}" {
    body = ".body | . + {title: .name} | del(.name)"
  }
  next "PUT /c/{key}" {
    body = "{old: .steps.one.body, new: (.body | .size = 2)}"
  }
  response "200" {
    body = "{all: .body.old.title, size: .body.new.size, who: .request.params.key}"
  }
}
default { pass = true }
`)
	echo := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: r.Body, ContentLength: r.ContentLength, Request: r}, nil
	})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := range 300 {
				name := fmt.Sprintf("%d/%d", worker, i)
				body := fmt.Sprintf(`{"name":%q,"more":%s}`, name, manyNames(rng))
				resp, err := rules.Answer(httptest.NewRequest("PUT", fmt.Sprintf("/a/w%d", worker), strings.NewReader(body)), echo)
				if err != nil {
					t.Error(err)
					return
				}
				data, err := io.ReadAll(resp.Body)
				if want := fmt.Sprintf(`{"all":%q,"size":2,"who":"w%d"}`, name, worker); err != nil || string(data) != want {
					t.Errorf("%s, %v; want %s", data, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// manyNames writes an object with up to 100 names.
func manyNames(rng *rand.Rand) string {
	var b strings.Builder
	for i := range rng.IntN(100) + 1 {
		fmt.Fprintf(&b, `,"name%d":{"n":%d}`, i, i)
	}
	return "{" + b.String()[1:] + "}"
}

// A program that would run or grow without end fails its call only.
func TestRunaway(t *testing.T) {
	for name, program := range map[string]string{
		"loops":              `last(range(infinite))`,
		"prints without end": `reduce range(40) as $i ([1]; [., .])`,
		"is too deep":        `reduce range(200000) as $i (1; [.])`,
	} {
		t.Run(name, func(t *testing.T) {
			rules := mustParse(t, "call \"GET /a\" {\n answer {\n body = \""+program+"\"\n}\n}\ndefault { pass = true }")
			_, err := rules.Answer(httptest.NewRequest("GET", "/a", nil), nil)
			var r *Refusal
			if !errors.As(err, &r) || r.Status != 500 || r.Denied {
				t.Fatalf("got %v, want a refusal", err)
			}
		})
	}
}

func TestParseRulesErrors(t *testing.T) {
	const rest = "\ndefault { pass = true }\n"
	for _, c := range []struct{ name, file, want string }{
		{"no default", `call "GET /a" { pass = true }`, "no default block"},
		{"default twice", rest + rest, "default comes twice"},
		{"unknown attribute", `call "GET /a" { passs = true }` + rest, `test.hcl:1,17: Unsupported argument: An argument named "passs" is not expected here`},
		{"syntax", `call "GET /a" {` + rest, "test.hcl:"},
		{"no action", `call "GET /a" {}` + rest, "exactly one of next, answer, pass and a deny without when, have none"},
		{"two actions", "call \"GET /a\" {\n pass = true\n answer {}\n}" + rest, "have pass, answer"},
		{"label", `call "/a" { pass = true }` + rest, "want a method or *"},
		{"pattern", `call "GET /a{b}" { pass = true }` + rest, "whole segment"},
		{"rest not last", `call "GET /{a...}/b" { pass = true }` + rest, "must come last"},
		{"unknown parameter", `call "GET /{a}" {{ next "GET /{b}" {} }}` + rest, "{b}: no such parameter"},
		{"jq", `call "GET /a" {{ answer { body = ".a | | .b" } }}` + rest, "not a jq program"},
		{"jq function", `call "GET /a" {{ answer { body = "nosuch" } }}` + rest, "not a jq program"},
		{"jq input", `call "GET /a" {{ answer { body = "input" } }}` + rest, "not a jq program"},
		{"jq module", `call "GET /a" {{ answer { body = "import \"x\" as x; 1" } }}` + rest, "not a jq program"},
		{"interpolation", `call "GET /a" {{ answer { body = "${x}" } }}` + rest, "Variables not allowed"},
		{"reason missing", `call "GET /a" {{ deny {} }}` + rest, "want a reason"},
		{"status", "call \"GET /a\" {\ndeny {\nreason = \"r\"\nstatus = 200\n}\n}" + rest, "want a number from 400 to 599"},
		{"shadowed", `call "* /{x}" { pass = true }` + "\n" + `call "GET /a" { pass = true }` + rest, "never reached: the one at test.hcl:1"},
		{"shadowed response", "call \"GET /a\" {\nnext \"GET /b\" {}\nresponse \"*\" {}\nresponse \"404\" {}\n}" + rest, "never reached"},
		{"response without next", "call \"GET /a\" {\npass = true\nresponse \"*\" {}\n}" + rest, "there is no next"},
		{"header", `call "GET /a" {{ next "GET /b" { headers = { Host = "x" } } }}` + rest, "set by moult alone"},
		{"body of 204", "call \"GET /a\" {\nanswer {\nstatus = 204\nbody = \"1\"\n}\n}" + rest, "has none"},
		{"param of the path", "call \"GET /{a}\" {\nparams = { a = \"1\" }\npass = true\n}" + rest, "the path has a parameter of that name"},
		{"too deep", strings.Repeat("(", 1<<19), "deep"},
		{"too large", strings.Repeat("#", MaxFileBytes+1), "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseRules([]byte(oneLine.Replace(c.file)), "test.hcl")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"/a", "/a", true}, {"/a", "/b", false}, {"/{x}", "/a", true}, {"/a", "/{x}", false},
		{"/{x}", "/", false}, {"/{x...}", "/a/b", true}, {"/{x...}", "/", false}, {"/{x...}", "/a/{y...}", true},
		{"/{x}", "/{y...}", false}, {"/a/{x...}", "/a", false}, {"/a/{x...}", "/a/", false}, {"/a/{x...}", "/a//b", true},
	} {
		p, err := parsePattern(c.a)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parsePattern(c.b)
		if err != nil {
			t.Fatal(err)
		}
		if p.covers(q) != c.want {
			t.Errorf("%s covers %s: %v", c.a, c.b, !c.want)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	for _, text := range docFiles(f) {
		f.Add(text)
	}
	f.Add(`call "GET /a/{x}" {{ next "GET /b?x={x}" {} }}` + "\ndefault { pass = true }")
	f.Add("default {\n deny { reason = \"r\" }\n}")
	f.Add(appendRules)
	f.Add(tested)
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules([]byte(text), "fuzz.hcl")
		if err != nil {
			return
		}
		for _, r := range rules.Test() {
			if r.Place == "" || r.Title == "" {
				t.Fatalf("a result of no example: %v", r)
			}
		}
		req := httptest.NewRequest("GET", "/a/b", nil)
		resp, err := rules.Answer(req, roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("no node")
		}))
		if (resp == nil) == (err == nil) {
			t.Fatalf("response %v with error %v", resp, err)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/a/b%2Fc", "x")
	f.Add("/a/..", "..")
	p, err := parsePattern("/a/{x}")
	if err != nil {
		f.Fatal(err)
	}
	u, err := parseURLTemplate("/b/{x}/c?k={y}", []string{"x", "y"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, value string) {
		params, ok := p.match(path)
		if !ok {
			return
		}
		out, err := u.expand(map[string]any{"x": params["x"], "y": value})
		if err != nil {
			return
		}
		back, err := url.Parse(out.String())
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.Split(back.EscapedPath(), "/"); len(s) != 4 || back.Query().Get("k") != value {
			t.Fatalf("%q and %q became %q", path, value, out)
		}
	})
}
