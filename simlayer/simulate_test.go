package simlayer

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// bothWays runs a test with calls that are simulated here, and by net/http.
func bothWays(t *testing.T, test func(t *testing.T, change func(*Config))) {
	for _, here := range []bool{true, false} {
		t.Run(fmt.Sprintf("here=%v", here), func(t *testing.T) {
			test(t, func(c *Config) { c.byProxy = !here })
		})
	}
}

// plainRules has all that rules can do.
const plainRules = `
call "PUT /v1/map/{key}" {
  next "PUT /v2/map/{key}" {
    body = "{value: .body.data, key: .body.key}"
  }
  response "2xx" {
    body = "{data: .body.value, status: .status, type: .headers.\"content-type\"}"
  }
}
call "GET /v1/map/{key}" {
  next "GET /v2/map/{key}" {}
  response "200" {
    status = 203
    body   = "{data: .body.value, kept: .headers.connection}"
  }
}
call "POST /v1/two/{key}" {
  step "first" "GET /v2/first/{key}" {
    expect = ["2xx", "304", "404"]
  }
  next "POST /v2/second/{key}" {
    body = "{first: .steps.first.status, agent: .headers.\"user-agent\", q: .query.q, body: .body}"
  }
}
call "GET /v1/const" {
  answer {
    status = 201
    body   = "{const: true}"
  }
}
call "* /v1/denied" {
  deny {
    reason = "not in version 2"
  }
}
call "GET /v1/head/{key}" {
  next "HEAD /v2/{key}" {}
}
call "HEAD /v1/got/{key}" {
  next "GET /v2/{key}" {}
}
default { pass = true }
`

// oddNode answers each call as its header X-Do says, by hand, and remembers what it
// saw of it under its header X-Id.
type oddNode struct {
	net.Listener
	mu   sync.Mutex
	seen map[string][]string
}

func startOddNode(t testing.TB) *oddNode {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &oddNode{Listener: ln, seen: map[string][]string{}}
	var wg sync.WaitGroup
	var all stream.Set
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Add(c)
			wg.Go(func() {
				defer all.Remove(c)
				n.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Close()
		wg.Wait()
	})
	return n
}

// oddAnswers are what a node can say, by X-Do. It ends no connection unannounced
// that seems to be of further use: there it is chance what net/http finds out in
// time.
var oddAnswers = map[string]string{
	"sized":    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: then\r\nContent-Length: LEN\r\nX-A: 1\r\nx-a: 2\r\n\r\nBODY",
	"undated":  "HTTP/1.1 200 Fine\r\nContent-Type: application/json\r\nContent-Length: LEN\r\nKeep-Alive: timeout=5\r\n\r\nBODY",
	"pieces":   "HTTP/1.1 200 OK\r\nContent-|Length: LEN\r\n\r\nBO|DY",
	"chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\nCHUNKS0\r\n\r\n",
	"trailers": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\nCHUNKS0\r\nX-T: end\r\n\r\n",
	"toEnd":    "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nBODYCLOSE",
	"old":      "HTTP/1.0 200 OK\r\nContent-Length: LEN\r\n\r\nBODYCLOSE",
	"last":     "HTTP/1.1 200 OK\r\nContent-Length: LEN\r\nConnection: close\r\n\r\nBODYCLOSE",
	"named":    "HTTP/1.1 200 OK\r\nContent-Length: LEN\r\nConnection: x-gone\r\nX-Gone: 1\r\n\r\nBODY",
	"none":     "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
	"same":     "HTTP/1.1 304 Not Modified\r\nContent-Type: a/b\r\nEtag: x\r\n\r\n",
	"empty":    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"missing":  "HTTP/1.1 404 Not Found\r\nContent-Length: LEN\r\nContent-Type: application/json\r\n\r\nBODY",
	"refusal":  "HTTP/1.1 501 Not Implemented\r\nMoult-Refusal: denied\r\nContent-Length: LEN\r\n\r\nBODY",
	"strange":  "HTTP/1.1 299 Odd\r\nContent-Length: LEN\r\n\r\nBODY",
	"early":    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n|HTTP/1.1 200 OK\r\nContent-Length: LEN\r\n\r\nBODY",
	"folded":   "HTTP/1.1 200 OK\r\nX-F: a\r\n  b\r\nContent-Length: LEN\r\n\r\nBODY",
	"lines":    "HTTP/1.1 200 OK\nContent-Length: LEN\n\nBODY",
	"notJSON":  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{nope",
	"long":     "HTTP/1.1 200 OK\r\nContent-Length: LONGLEN\r\n\r\nLONG",
	"longHead": "HTTP/1.1 200 OK\r\nX-Long: LONG\r\nContent-Length: LEN\r\n\r\nBODY",

	"badHead":   "HTTP/1.1 abc\r\nContent-Length: LEN\r\n\r\nBODYCLOSE",
	"noHead":    "HTTP/1.1 200 OK\r\nContent-LenCLOSE",
	"nothing":   "CLOSE",
	"reset":     "HTTP/1.1 200 RESET",
	"half":      "HTTP/1.1 200 OK\r\nContent-Length: LONGLEN\r\n\r\nBODYCLOSE",
	"halfShort": "HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\nBODYCLOSE",
	"halfChunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nCHUNKS9\r\nhaCLOSE",
	"halfReset": "HTTP/1.1 200 OK\r\nContent-Length: LONGLEN\r\n\r\nBODY|RESET",
	"switch":    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nCLOSE",
}

func (n *oddNode) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		n.see(r, body)
		answer := n.answerTo(r)
		rest, reset := strings.CutSuffix(answer, "RESET")
		rest, closed := strings.CutSuffix(rest, "CLOSE")
		for piece := range strings.SplitSeq(rest, "|") {
			if _, err := io.WriteString(c, piece); err != nil {
				return
			}
		}
		if reset {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		if closed || reset || r.Close {
			return
		}
	}
}

func (n *oddNode) see(r *http.Request, body []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one := fmt.Sprintf("%s %s host=%s %v %q", r.Method, r.RequestURI, r.Host, headerText(r.Header), body)
	id := r.Header.Get("X-Id")
	if list := n.seen[id]; !slices.Contains(list, one) { // how often it was tried is of no interest
		n.seen[id] = append(list, one)
	}
}

func (n *oddNode) answerTo(r *http.Request) string {
	do := r.Header.Get("X-Do")
	answer := oddAnswers[do]
	body := fmt.Sprintf(`{"value":"of %s","n":1.50}`, r.RequestURI)
	long := strings.Repeat("long", 8<<10)
	if r.Method == http.MethodHead {
		interim, final, early := strings.Cut(answer, "|HTTP")
		if !early {
			interim, final = "", answer
		} else {
			interim, final = interim+"|", "HTTP"+final
		}
		head, _, _ := strings.Cut(final, "\r\n\r\n")
		head = interim + head
		closes := strings.HasSuffix(answer, "CLOSE") && (do == "last" || do == "old" || !strings.Contains(answer, "\r\n\r\n"))
		answer = strings.TrimSuffix(head, "CLOSE") + "\r\n\r\n"
		if closes {
			answer += "CLOSE"
		}
	}
	chunks := fmt.Sprintf("%x\r\n%s\r\n%x;e\r\n%s\r\n", len(body)/2, body[:len(body)/2], len(body)-len(body)/2, body[len(body)/2:])
	return strings.NewReplacer("LONGLEN", strconv.Itoa(len(long)), "LONG", long, "LEN", strconv.Itoa(len(body)), "BODY", body, "BO", body[:3], "DY", body[3:], "CHUNKS", chunks).Replace(answer)
}

func headerText(h http.Header) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s=%q ", name, h[name])
	}
	return b.String()
}

// oddRequest is one request as a caller might make it.
type oddRequest struct{ method, text string }

func makeRequest(rng *rand.Rand, id string) oddRequest {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	kinds := slices.Sorted(maps.Keys(oddAnswers))
	path := pick("/v1/map/k", "/v1/map/k%2Fl", "/v1/two/k?q=1&q=2", "/v1/const", "/v1/denied", "/v1/head/x", "/v1/got/x",
		"/other", "/other/%7e!'()", "/other?", "/other?a=%zz;b", "/../x//y", "//x", "http://x/abs", "/v1/map/")
	method := pick("GET", "GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
	switch {
	case strings.HasPrefix(path, "/v1/map") && rng.IntN(3) > 0:
		method = pick("GET", "PUT")
	case strings.HasPrefix(path, "/v1/two"):
		method = "POST"
	case strings.HasPrefix(path, "/v1/got"):
		// Bodies that nobody asked for are not looked at.
		method, kinds = "HEAD", []string{"sized", "chunked", "long", "none", "nothing", "reset"}
	case strings.HasPrefix(path, "/v1/head"):
		method, kinds = "GET", []string{"none", "same", "empty", "chunked", "nothing"}
	}
	body := ""
	if method != "GET" && method != "HEAD" || rng.IntN(9) == 0 {
		body = pick(`{"data":"d","key":"k"}`, `{"data":[1,2.50]}`, "", "no json", `{"data":"`+strings.Repeat("l", 20_000)+`"}`)
	}
	if len(body) > DefaultLimits().Replay {
		kinds = []string{"sized", "chunked", "long"} // what net/http makes of the others is a matter of time
	}
	proto := "HTTP/1.1"
	if rng.IntN(20) == 0 {
		proto = "HTTP/1.0"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\nHost: h.example\r\nX-Id: %s\r\nX-Do: %s\r\n", method, path, proto, id, kinds[rng.IntN(len(kinds))])
	for range rng.IntN(4) {
		b.WriteString(pick("user-agent: me\r\n", "X-FORWARDED-FOR: 1.2.3.4\r\n", "x-dup: 1\r\nX-Dup: 2\r\n", "Accept-Encoding: gzip\r\n", "X-Empty:\r\n",
			"Connection: keep-alive\r\n", "Keep-Alive: 3\r\n", "Cookie: a=b\r\n", "Content-Type: application/json\r\n", "Pragma: no-cache\r\n", "If-None-Match: x\r\n", "Moult-Hops: 2\r\n"))
	}
	switch rng.IntN(30) {
	case 0:
		b.WriteString("Connection: close\r\n")
	case 1:
		b.WriteString("Connection: x-named\r\nX-Named: 1\r\n")
	case 2:
		b.WriteString("TE: trailers\r\n")
	}
	switch {
	case body == "":
		b.WriteString("\r\n")
	case rng.IntN(8) == 0 && proto == "HTTP/1.1":
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	return oddRequest{method, b.String()}
}

// told is what a caller got for a request, in words; over: the connection ended.
func told(br *bufio.Reader, method string) (text string, over bool) {
	for early := false; ; {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return text + "no answer", true
		}
		body, err := io.ReadAll(resp.Body)
		if early = early || resp.StatusCode < 200; early {
			resp.Header.Del("Content-Type") // net/http's server guesses one behind an interim response
		}
		if resp.Header.Get("Date") != "then" {
			resp.Header["Date"] = []string{"some"}
		}
		said := string(body)
		if said == "" && (resp.TransferEncoding != nil || resp.ContentLength == 0) {
			// How nothing is framed is a matter of time in net/http's server.
			resp.TransferEncoding = nil
			resp.Header.Del("Content-Length")
		}
		if resp.StatusCode >= 500 && resp.Header.Get(so.RefusalHeader) != "" {
			// How a connection broke is told in other words.
			resp.Header.Del("Content-Length")
			resp.Header["Reason"] = []string{said}
			said, _, _ = strings.Cut(said, ": ")
			said, _, _ = strings.Cut(said, "not known")
		}
		text += fmt.Sprintf("%s %s close=%v te=%v %s %q broken=%v trailer=%s\n", resp.Proto, resp.Status, resp.Close, resp.TransferEncoding, headerText(resp.Header), said, err != nil, headerText(resp.Trailer))
		if resp.StatusCode >= 200 {
			return text, err != nil || resp.Close
		}
	}
}

// oddRun makes the calls of one seed, and returns what the callers and the node
// saw, and the layer counted.
func oddRun(t *testing.T, seed uint64, text string, change func(*Config)) (saw oddSight) {
	const calls = 40
	n := startOddNode(t)
	l := startLayer(t, bundle.ProtocolHTTP, change)
	rules, err := so.ParseRules([]byte(text), "plain.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if !rules.Bounded() {
		t.Fatalf("not bounded: %v", rules.Unbounded())
	}
	apply(t, l, Routing{Native: 2, Backends: backends(n.Addr().String()), External: 1, Objects: InProcess(map[bundle.Version]so.Object{1: rules})})
	rng := rand.New(rand.NewPCG(seed, 1))
	var c *rawCaller
	for i := 0; i < calls; {
		if c == nil {
			c = rawTo(t, l.Addresses()["api"].Public)
		}
		var batch []oddRequest
		var text strings.Builder
		for range 1 + rng.IntN(2)*rng.IntN(3) {
			one := makeRequest(rng, fmt.Sprint(i))
			batch = append(batch, one)
			text.WriteString(one.text)
			i++
		}
		c.say(text.String())
		over := false
		for _, one := range batch {
			if over {
				break
			}
			var said string
			said, over = told(c.br, one.method)
			saw.callers = append(saw.callers, fmt.Sprintf("%.200q\n  -> %s", one.text, said))
		}
		if over {
			c.Close()
			c = nil
		}
	}
	if c != nil {
		c.Close()
	}
	eventually(t, "calls over", func() bool { return l.Stats().InFlight == 0 })
	for _, id := range slices.Sorted(maps.Keys(n.seen)) {
		saw.node = append(saw.node, fmt.Sprintf("%s: %s", id, strings.Join(n.seen[id], " | ")))
	}
	counted := l.Stats().Services["api"][1]
	// Where a connection broke, it depends on who finds out first.
	counted.Errors, counted.Canceled = counted.Errors+counted.Canceled, 0
	counted.Total, counted.LongestHold, counted.Waited, counted.Held, counted.Last = 0, 0, 0, 0, time.Time{}
	saw.counted = fmt.Sprintf("%+v", counted)
	return saw
}

// oddSight is what was seen of the calls of one seed.
type oddSight struct {
	callers, node []string
	counted       string
}

// unreasoned leaves out how a connection broke.
func unreasoned(text string) string {
	for {
		before, rest, found := strings.Cut(text, "Reason=")
		if !found {
			return text
		}
		_, after, _ := strings.Cut(rest, "]")
		text = before + after
	}
}

// differs tells the first difference, or "".
func (s oddSight) differs(from oddSight) string {
	for _, side := range []struct {
		name      string
		got, want []string
	}{{"a caller", s.callers, from.callers}, {"the node", s.node, from.node}, {"the layer", []string{s.counted}, []string{from.counted}}} {
		for i := range max(len(side.got), len(side.want)) {
			a, b := "nothing", "nothing"
			if i < len(side.got) {
				a = side.got[i]
			}
			if i < len(side.want) {
				b = side.want[i]
			}
			if unreasoned(a) != unreasoned(b) {
				return fmt.Sprintf("%s saw\n%.1500s\ninstead of\n%.1500s", side.name, a, b)
			}
		}
	}
	return ""
}

// Callers, and the node, cannot tell this way from net/http's.
func TestSimulatedIsTheSame(t *testing.T) {
	planted := strings.Replace(plainRules, "status = 203", "status = 202", 1)
	caught := false
	for seed := range uint64(10) {
		want := oddRun(t, seed, plainRules, func(c *Config) { c.byProxy = true })
		got := oddRun(t, seed, plainRules, nil)
		if diff := got.differs(want); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
		if !caught {
			caught = oddRun(t, seed, planted, nil).differs(want) != ""
		}
	}
	if !caught {
		t.Error("a status that differs would not be seen")
	}
}
