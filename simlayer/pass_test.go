package simlayer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"moult/simlayer/calls"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// passed is a call of HTTP/1.1 and its answer, as bytes that are put together: heads as
// they are given, bodies framed as they say.
type passed struct {
	method, target, fields, body string
	framing                      uint8
	status                       uint16
	answerFields, answer         string
	answerFraming                uint8
}

// Framings of a body.
const (
	noFraming = iota // a request has no body then, an answer goes on to the end of the connection
	sized
	chunks // in two pieces
	trailed
	framings
)

// framed returns the bytes of a message with this first line.
func framedText(line, fields, body string, framing uint8) string {
	head := line + "\r\n" + fields
	switch framing % framings {
	case sized:
		return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	case chunks, trailed:
		text := head + "Transfer-Encoding: chunked\r\n\r\n"
		for _, piece := range []string{body[:len(body)/2], body[len(body)/2:]} {
			if piece != "" {
				text += fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece)
			}
		}
		if framing%framings == trailed {
			return text + "0\r\nX-Sum: 7\r\n\r\n"
		}
		return text + "0\r\n\r\n"
	}
	return head + "\r\n" + body
}

// fit reports whether a call is one of which both ends know where it ends: what frames a
// message, or asks for another protocol, is not left to chance. Of fields, lines are
// whole.
func (p passed) fit() bool {
	for _, fields := range []string{p.fields, p.answerFields} {
		if fields != "" && !strings.HasSuffix(fields, "\r\n") || strings.Contains(fields, "\r\n\r\n") || strings.HasPrefix(fields, "\r\n") || strings.Contains(strings.ReplaceAll(fields, "\r\n", ""), "\n") {
			return false
		}
		for line := range strings.SplitSeq(fields, "\r\n") {
			name, _, _ := strings.Cut(strings.ToLower(line), ":")
			switch strings.TrimSpace(name) {
			case "content-length", "transfer-encoding", "trailer", "expect", "upgrade", "connection", "host":
				return false
			}
		}
	}
	form := p.target[:min(1, len(p.target))] == "/" || p.target == "*" && p.method == "OPTIONS" || strings.HasPrefix(p.target, "http://x/")
	return form && p.status >= 200 && p.status < 600 && !strings.ContainsAny(p.method+p.target, " \r\n") && p.method != "CONNECT" && p.method != "" && p.target != "" &&
		(p.framing%framings != noFraming || p.body == "") && len(p.fields)+len(p.answerFields)+len(p.body)+len(p.answer)+len(p.target) < 200<<10
}

func (p passed) request() string {
	return framedText(p.method+" "+p.target+" HTTP/1.1\r\nHost: x", p.fields, p.body, p.framing)
}

func (p passed) response() string {
	line := fmt.Sprintf("HTTP/1.1 %d %s", p.status, http.StatusText(int(p.status)))
	if p.method == http.MethodHead || p.status == 204 || p.status == 304 {
		return line + "\r\n" + p.answerFields + "\r\n" // there is no body
	}
	return framedText(line, p.answerFields, p.answer, p.answerFraming)
}

// oneWay is a layer that leads to a node of its own, which answers as it is told.
type oneWay struct {
	name   string
	layer  *Layer
	answer chan string // to the next call
	seen   chan string // what the node reads
}

// startWay starts one for callers of version 1.
func startWay(t testing.TB, name string, objects map[bundle.Version]Object, change func(*Config)) *oneWay {
	w := &oneWay{name: name, answer: make(chan string, 1), seen: make(chan string, 1)}
	node := tcpNode(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if errors.Is(err, io.EOF) {
				return
			}
			answer := ""
			select {
			case answer = <-w.answer:
			default: // the call was made again
			}
			if err != nil || answer == "" {
				w.tell(fmt.Sprintf("no request: %v", err))
				return
			}
			body, err := io.ReadAll(r.Body)
			if agent := r.Header["User-Agent"]; len(agent) == 1 && agent[0] == "" {
				delete(r.Header, "User-Agent") // to name none is the same
			}
			target := r.RequestURI
			target = strings.TrimPrefix(target, "http://x") // the same in another form
			w.tell(fmt.Sprintf("%s %q of %q, %s and %s, body %q, %v", r.Method, target, r.Host, endToEnd(r.Header), endToEnd(r.Trailer), body, err))
			_, _ = io.WriteString(c, answer)
			goesOn := r.Method != http.MethodHead && !strings.Contains(answer, " 204 ") && !strings.Contains(answer, " 304 ")
			if goesOn && !strings.Contains(answer, "\r\nContent-Length:") && !strings.Contains(answer, "\r\nTransfer-Encoding:") {
				return
			}
		}
	})
	native := bundle.Version(1)
	if objects != nil {
		native = 2
	}
	w.layer = startLayer(t, bundle.ProtocolHTTP, change)
	apply(t, w.layer, Routing{Native: native, Backends: backends(node.Addr().String()), Objects: objects, External: 1})
	return w
}

// tell tells what the node has read first.
func (w *oneWay) tell(what string) {
	select {
	case w.seen <- what:
	default:
	}
}

// endToEnd writes header fields but those that are of one connection, and the day.
func endToEnd(h http.Header) string {
	h = h.Clone()
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Date"} {
		delete(h, name)
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		all = append(all, fmt.Sprintf("%s: %q", name, h[name]))
	}
	return strings.Join(all, ", ")
}

// call makes a call, and tells what the node and the caller saw of it. refused: the layer
// has answered itself.
func (w *oneWay) call(t *testing.T, p passed) (node, caller string, refused bool) {
	w.answer <- p.response()
	c, err := net.Dial("tcp", w.layer.Addresses()["api"].Public)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // where it hangs, that is what is told
	_, _ = io.WriteString(c, p.request())
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: p.method})
	if err != nil {
		caller = fmt.Sprintf("no answer: %v", err)
	} else {
		body, err := io.ReadAll(resp.Body)
		refused = resp.Header.Get(so.RefusalHeader) != "" || resp.StatusCode == 400 && len(w.answer) > 0
		caller = fmt.Sprintf("%d, %s and %s, body %q, %v", resp.StatusCode, endToEnd(resp.Header), endToEnd(resp.Trailer), body, err)
	}
	select {
	case <-w.answer: // the node has seen nothing
	case node = <-w.seen:
	}
	return node, caller, refused
}

// inOrder reports whether a call and its answer are as RFC 9110 and 3986 have them, so
// that nobody may refuse them.
func (p passed) inOrder() bool {
	for _, fields := range []string{p.fields, p.answerFields} {
		h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(fields + "\r\n"))).ReadMIMEHeader()
		if err != nil || calls.NamesFit(http.Header(h)) != nil || strings.ContainsFunc(fields, func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' && r != '\n' || r == 0x7f }) {
			return false
		}
	}
	_, err := url.ParseRequestURI(p.target)
	odd := func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", c) }
	return httpguts.ValidHeaderFieldName(p.method) && err == nil && !strings.ContainsFunc(p.target, odd)
}

// differs tells how what comes of a call by other differs from what comes of it by w.
// What is not in order may be refused, but not changed.
func (w *oneWay) differs(t *testing.T, p passed, other *oneWay) string {
	node, caller, refused := w.call(t, p)
	otherNode, otherCaller, otherRefused := other.call(t, p)
	if otherRefused && (refused || !p.inOrder()) {
		return ""
	}
	var all []string
	if node != otherNode {
		all = append(all, fmt.Sprintf("the node saw\n %s\nby %s, and\n %s\nby %s", node, w.name, otherNode, other.name))
	}
	if caller != otherCaller {
		all = append(all, fmt.Sprintf("the caller saw\n %s\nby %s, and\n %s\nby %s", caller, w.name, otherCaller, other.name))
	}
	return strings.Join(all, "\n")
}

var passSeeds = []passed{
	{method: "GET", target: "/", status: 200, answer: "hello", answerFraming: sized},
	{method: "GET", target: "/a%2Fb//c/../d;e?x=1&&y=%zz;z&=v", fields: "Accept: a, b\r\nX-Odd: \xff\x80\r\nx-odd: 2\r\n", status: 200, answerFields: "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nETag: \"x\"\r\n", answer: "hello", answerFraming: chunks},
	{method: "POST", target: "/p?", fields: "Content-Type: text/plain\r\n", body: "what is said", framing: sized, status: 201, answerFields: "Location: /p/1\r\n", answer: "made", answerFraming: noFraming},
	{method: "PUT", target: "/t", body: "in two pieces", framing: chunks, status: 204},
	{method: "PATCH", target: "/t", body: "with a trailer", framing: trailed, status: 200, answer: "and back", answerFraming: trailed},
	{method: "HEAD", target: "/h", status: 200, answerFields: "Content-Type: a/b\r\n"},
	{method: "DELETE", target: "/d#x", status: 304, answerFields: "ETag: \"y\"\r\nContent-Type: a/b\r\n"},
	{method: "OPTIONS", target: "*", status: 200, answer: "", answerFraming: sized},
	{method: "BREW", target: "/pot", fields: "User-Agent:\r\nAccept-Encoding: gzip\r\nRange: bytes=0-1\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\n", status: 418, answer: "short", answerFraming: sized},
	{method: "GET", target: "http://x/abs?q", status: 205, answerFields: "Retry-After: 1\r\nServer: s\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n", answerFraming: sized},
	{method: "POST", target: "/empty", framing: sized, status: 500, answer: strings.Repeat("x", 5000), answerFraming: chunks},
	{method: "GET", target: "/utf8/\xc3\xa9/\xff?\xff", status: 200, answerFields: "X: \xff\r\nContent-Encoding: gzip\r\n", answer: "\x1f\x8b", answerFraming: sized},
	{method: "GET", target: "/", fields: "Moult-Hops: 3\r\nTe: trailers\r\nKeep-Alive: 5\r\n", status: 200, answerFields: "Moult-Refusal: denied\r\n", answer: "not moult's", answerFraming: sized},
	{method: "GET", target: "/agents", fields: "user-agent: a\r\nUSER-AGENT: b\r\nX-Empty:\r\nX-Empty: \r\nCookie: a=1\r\nCookie: b=2\r\nAccept:\ta\t\r\n", status: 200, answerFields: "X-Empty:\r\nVary: a\r\nvary: b\r\nWww-Authenticate: Basic\r\n", answer: "a\r\n\r\nb", answerFraming: sized},
	{method: "GET", target: "/many?" + strings.Repeat("q=1&", 500), fields: strings.Repeat("X-Many: 1\r\n", 60), status: 299, answerFields: strings.Repeat("X-Many: 2\r\n", 60), answer: "x", answerFraming: noFraming},
	{method: "PUT", target: "/long", body: strings.Repeat("long ", 14_000), framing: sized, status: 200, answer: strings.Repeat("long ", 14_000), answerFraming: sized},
	{method: "PUT", target: "/longer", body: strings.Repeat("long ", 14_000), framing: chunks, status: 200, answer: strings.Repeat("long ", 14_000), answerFraming: noFraming},
	{method: "GET", target: "/reset", status: 205, answer: "not empty", answerFraming: sized},
	{method: "HEAD", target: "/headless", body: "h", framing: sized, status: 404, answerFields: "Accept-Ranges: none\r\n"},
	{method: "GET", target: "/body", body: "of a GET", framing: chunks, status: 599, answer: "", answerFraming: chunks},
	{method: "DELETE", target: "/body", body: "", framing: trailed, status: 200, answer: "", answerFraming: trailed},
	{method: "GET", target: "/folded", fields: "X-Fold: a\r\n b\r\nNo colon\r\n", status: 200, answerFields: "X-Fold: a\r\n\tb\r\n", answer: "x", answerFraming: sized},
	{method: "HEAD", target: "//\xe5\xbah", status: 200},
	{method: "PUT", target: "http://x/ab\xf5", body: "x", framing: chunks, status: 301, answerFraming: chunks},
	{method: "get", target: "/lower", status: 200, answerFields: "Bad Name: x\r\n", answer: "x", answerFraming: sized},
	{method: "TRACE", target: "/[brackets]?{a}|^`", fields: "Max-Forwards: 0\r\nOrigin: null\r\nPriority: u=1\r\n", status: 200, answerFields: "Content-Type: message/http\r\nContent-Length-X: 1\r\n", answer: "x", answerFraming: chunks},
	{method: "POST", target: "/early", body: strings.Repeat("y", 5000), framing: chunks, status: 413, answer: "no", answerFraming: noFraming},
}

// FuzzPass: by rules with `pass = true` a call comes to the node, and its answer back, as
// without any rules.
func FuzzPass(f *testing.F) {
	for _, p := range passSeeds {
		f.Add(p.method, p.target, p.fields, p.body, p.framing, p.status, p.answerFields, p.answer, p.answerFraming)
	}
	plain := startWay(f, "no rules", nil, nil)
	ways := []*oneWay{startWay(f, "rules", passAll(f), nil), startWay(f, "rules by net/http", passAll(f), func(c *Config) { c.byProxy = true })}
	f.Fuzz(func(t *testing.T, method, target, fields, body string, framing uint8, status uint16, answerFields, answer string, answerFraming uint8) {
		p := passed{method, target, fields, body, framing, status, answerFields, answer, answerFraming}
		if !p.fit() {
			t.Skip("where it ends is not known")
		}
		for _, w := range ways {
			if d := plain.differs(t, p, w); d != "" {
				t.Errorf("%q\n%q\n%s", p.request(), p.response(), d)
			}
		}
	})
}

// The comparison finds what rules change: of the call, and of its answer.
func TestPassCatches(t *testing.T) {
	plain := startWay(t, "no rules", nil, nil)
	changing := parsedRules(t, `
call "GET /" {
  next "GET /else" {}
}
call "HEAD /h" {
  answer {
    headers = { X = "y" }
  }
}
default {
  deny { reason = "no" }
}`)
	other := startWay(t, "rules", InProcess(map[bundle.Version]so.Object{1: changing}), nil)
	for i, want := range map[int]string{0: "the node saw", 5: "the caller saw"} {
		if d := plain.differs(t, passSeeds[i], other); !strings.Contains(d, want) {
			t.Errorf("%+v: %q, want %q", passSeeds[i], d, want)
		}
	}
}
