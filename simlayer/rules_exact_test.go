package simlayer

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/testdata/kit"
)

func parsedRules(t testing.TB, text string) *so.Rules {
	rules, err := so.ParseRules([]byte(text), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// What `moult rules test` says of a call is what a caller gets, and a node: these are
// examples that so's own tests hold up to rules.
func TestRulesAreExactWhenServed(t *testing.T) {
	rules := parsedRules(t, `
call "GET /agent" {
  headers = ["user-agent"]
  answer { text = "named" }
}
call "GET /find" {
  params = { q = ".query.q" }
  next "GET /v2/find?text={q}" {}
}
call "GET /list" {
  deny {
    when   = ".query.all == \"yes\""
    reason = "not all"
  }
  next "GET /v2/list" { keep_query = true }
}
call "GET /utf8" {
  next "POST /b" { body = "{q: .query.q}" }
}
call "HEAD /head" {
  next "HEAD /b" {}
  response "200" { body = "{v: .body.v}" }
}
call "GET /head" {
  next "HEAD /b" {}
}
call "GET /reset" {
  next "GET /b" {}
  response "200" { status = 205 }
}
default {
  deny { reason = "not for it" }
}`)
	bothWays(t, func(t *testing.T, change func(*Config)) {
		n := startOddNode(t)
		l := startLayer(t, bundle.ProtocolHTTP, change)
		apply(t, l, Routing{Native: 2, Backends: backends(n.Addr().String()), Objects: InProcess(map[bundle.Version]so.Object{1: rules})})
		for i, c := range []struct{ method, target, node, status, length string }{
			{"GET", "/agent", "", "501", ""},
			{"GET", "/find?q=a;b", "GET /v2/find?text=a%3Bb ", "200", ""},
			{"GET", "/find?q=", "GET /v2/find?text= ", "200", ""},
			{"GET", "/list?all=yes;", "", "400", ""},
			{"GET", "/utf8?q=%E9", "", "400", ""},
			{"HEAD", "/head", "HEAD /b ", "200", "none"},
			{"GET", "/head", "HEAD /b ", "200", "0"},
			{"GET", "/reset", "GET /b ", "205", "0"},
		} {
			id := fmt.Sprint(i)
			conn := rawTo(t, strings.TrimPrefix(versionURL(t, l, 1), "http://"))
			conn.say(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nX-Id: %s\r\nX-Do: sized\r\n\r\n", c.method, c.target, id))
			resp, err := http.ReadResponse(conn.br, &http.Request{Method: c.method})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(resp.Status, c.status) {
				t.Errorf("%s: %s, want %s", c.target, resp.Status, c.status)
			}
			length := resp.Header.Get("Content-Length")
			if c.length == "none" && length != "" || c.length == "0" && length != "0" {
				t.Errorf("%s: Content-Length %q, want %s", c.target, length, c.length)
			}
			if got := strings.Join(n.sight(id), " & "); !strings.HasPrefix(got, c.node) || c.node == "" && got != "" {
				t.Errorf("%s: the node saw %q, want %q", c.target, got, c.node)
			}
			conn.Close()
		}
	})
}

func (n *oddNode) sight(id string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.seen[id])
}

// What moult itself refuses has the form that the callers' rules say, too.
func TestRefusalsInTheAuthorsForm(t *testing.T) {
	rules := parsedRules(t, `
call "GET /denied" {
  deny { reason = "not here" }
}
refusal {
  status = ".status + 1"
  body   = "{error: {text: .reason, denied: .denied, from: .from, to: .to}}"
}
default { pass = true }`)
	objects := InProcess(map[bundle.Version]so.Object{1: rules})
	bothWays(t, func(t *testing.T, change func(*Config)) {
		for name, c := range map[string]struct {
			routing Routing
			path    string
			status  int
			body    string
		}{
			"denied":        {Routing{Native: 2, Backends: backends(pathAddr(t)), Objects: objects}, "/denied", 502, `{"error":{"denied":true,"from":1,"text":"not here","to":2}}`},
			"held too long": {Routing{Native: 2, Down: true, HoldTimeout: 20 * time.Millisecond, Objects: objects}, "/", 504, `{"error":{"denied":false,"from":1,"text":"the node is down for longer`},
			"not reachable": {Routing{Native: 2, Backends: backends(kit.ClosedPort(t)), HoldTimeout: 20 * time.Millisecond, Objects: objects}, "/", 504, `{"error":{"denied":false,"from":1,"text":"the node did not take calls`},
		} {
			t.Run(name, func(t *testing.T) {
				l := startLayer(t, bundle.ProtocolHTTP, change)
				apply(t, l, c.routing)
				r := mustDo(t, newClient(t), "GET", versionURL(t, l, 1)+c.path, "")
				if r.status != c.status || !strings.HasPrefix(r.body, c.body) || r.refusal == "" {
					t.Errorf("%+v, want %d %s", r, c.status, c.body)
				}
			})
		}
	})
}

func pathAddr(t testing.TB) string { return addrOf(pathNode(t)) }

// A caller may say what the relay does not understand, and leave in the middle of it.
func TestCallerOfOddRequestsLeaves(t *testing.T) {
	n := startOddNode(t)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 2, Backends: backends(n.Addr().String()), Objects: InProcess(map[bundle.Version]so.Object{1: so.Compatible()})})
	for i := range 8 {
		c := rawTo(t, strings.TrimPrefix(versionURL(t, l, 1), "http://"))
		c.say(fmt.Sprintf("GET /a[b]|\"^{} HTTP/1.1\r\nHost: h.example\r\nX-A: 1\r\nX-Id: %d\r\nX-Do: chunked\r\n\r\n", i))
		if i%2 == 0 {
			told(c.br, "GET")
		}
		c.Close()
	}
}
