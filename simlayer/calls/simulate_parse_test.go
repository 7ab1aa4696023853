package calls

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/wire"
)

var plainRequests = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a%2Fb/c?x=1&y=%20 HTTP/1.1\r\nHost: a.example:80\r\nAccept: */*\r\naccept: b\r\nUser-Agent: u\r\n\r\n",
	"PUT /v1/keys/k HTTP/1.1\r\nhost: x\r\nContent-Length: 5\r\nX-FORWARDED-for: 1.2.3.4\r\nForwarded: for=x\r\n\r\nhello",
	"POST /!'()*[]/\"<> HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
	"DELETE /? HTTP/1.1\r\nHost: x\r\nConnection: close\r\nPragma: no-cache\r\nPragma: x\r\n\r\n",
	"HEAD /x?a?b#c HTTP/1.1\r\nHost: x\r\nMoult-Hops: 3\r\n  \r\n\r\n",
	"GET //double/./../x HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: [fe80::1%25en0]\r\n\r\n",
	"GET / HTTP/1.1\r\nHost:\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nTe: trailers\r\nConnection: te\r\n\r\n",
	"PATCH /\x80\xff HTTP/1.1\r\nHost: x\r\nX: \t v \t\r\nEmpty:\r\nx: w\r\n\r\n",
	"GET /;a=1,b/$&+:@ HTTP/1.1\r\nHost: x\r\nCookie: a\r\nCookie: b\r\nconnection: Keep-Alive, close\r\n\r\n",
}

// byProxy returns the request that a ReverseProxy makes of one, and how it is sent.
func byProxy(in *http.Request) (out *http.Request, sent []byte) {
	var b bytes.Buffer
	p := proxy.New(proxy.Config{
		Host: theNode,
		Transport: tripper(func(r *http.Request) (*http.Response, error) {
			out = r
			if err := r.Write(&b); err != nil {
				return nil, err
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		}),
		Refuse: func(http.Header, *http.Request, error) *so.Refusal { return so.Deny(0, "not written") },
		Log:    slog.New(slog.DiscardHandler),
	})
	p.Serve(nobody{}, in, &call{}, 0)
	return out, b.Bytes()
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// nobody takes an answer and forgets it.
type nobody struct{}

func (nobody) Header() http.Header         { return http.Header{} }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}

// A request that is taken as plain is what net/http and a ReverseProxy make of it,
// and goes to the node as by a Transport.
func checkPlainRequest(t *testing.T, text []byte) (plain bool) {
	end := wire.HeadEnd(text, 0)
	if end < 0 {
		return false
	}
	framing, ok := wire.ParseRequest(text[:end])
	if !ok || framing.Length > int64(len(text)-end) {
		return false
	}
	text = text[:end+int(framing.Length)]
	// The second use of the memory.
	r := &plainRequest{base: &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, header: http.Header{"Old": {"x"}}, values: []string{"x"}, close: true, hops: 9}
	r.clear()
	if !r.read(framing, text[:end], text[end:]) {
		return false
	}
	in, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatalf("%q is taken, and net/http says: %v", text, err)
	}
	got := &r.req
	want, wantSent := byProxy(in)
	if want == nil {
		t.Fatalf("%q is taken, and refused by ReverseProxy", text)
	}
	if want.Method != got.Method || want.Host != got.Host || want.ContentLength != got.ContentLength || want.RequestURI != got.RequestURI ||
		!reflect.DeepEqual(want.URL, got.URL) || !reflect.DeepEqual(want.Header, got.Header) || r.close != in.Close {
		t.Fatalf("%q:\n%+v\n%+v, want\n%+v\n%+v", text, got, got.URL, want, want.URL)
	}
	sent, err := appendRequest(nil, got)
	if err != nil {
		t.Fatalf("%q is not sent: %v", text, err)
	}
	seen, a := readWhole(t, sent)
	wanted, z := readWhole(t, wantSent)
	if a != z || !reflect.DeepEqual(seen.Header, wanted.Header) || seen.Host != wanted.Host || seen.RequestURI != wanted.RequestURI || seen.Method != wanted.Method || seen.ContentLength != wanted.ContentLength {
		t.Fatalf("%q goes on as\n%q, want\n%q", text, sent, wantSent)
	}
	return true
}

func readWhole(t *testing.T, text []byte) (*http.Request, string) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r, string(body)
}

func TestPlainRequest(t *testing.T) {
	plain := 0
	for _, text := range plainRequests {
		if checkPlainRequest(t, []byte(text)) {
			plain++
		}
	}
	if plain != 7 {
		t.Errorf("%d of %d are plain, want 7", plain, len(plainRequests))
	}
}

func FuzzPlainRequest(f *testing.F) {
	for _, text := range plainRequests {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkPlainRequest(t, text) })
}

var plainResponses = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
	"HTTP/1.1 200 \r\nContent-Length: 0\r\nconnection: close\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n",
	"HTTP/1.1 404\r\nContent-Length: 1\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nx",
	"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nEtag: x\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\nConnection: x\r\nX: y\r\n\r\nabc",
	"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 2\r\n\r\nab",
	"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n\r\nuntil close",
	"HTTP/1.1 299 odd one\r\nX-A:\r\nContent-Length:  2  \r\n\r\nab",
}

// A response that is taken as plain is what net/http makes of it.
func checkPlainResponse(t *testing.T, method string, text []byte) (plain bool) {
	end := wire.HeadEnd(text, 0)
	if end < 0 {
		return false
	}
	framing, ok := wire.ParseResponse(text[:end], method, nil)
	if !ok || framing.Status < 200 || framing.Body > wire.Sized || framing.Length > int64(len(text)-end) {
		return false
	}
	req := &http.Request{Method: method}
	r := &plainResponse{header: http.Header{"Old": {"x"}}, values: []string{"x"}}
	r.clear()
	if !r.read(framing, req, text[:end]) {
		return false
	}
	want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), req)
	if err != nil {
		t.Fatalf("%s %q is taken, and net/http says: %v", method, text, err)
	}
	body, err := io.ReadAll(want.Body)
	if err != nil {
		t.Fatalf("%s %q is taken, and net/http says: %v", method, text, err)
	}
	got := &r.resp
	if want.Status != got.Status || want.StatusCode != got.StatusCode || want.ContentLength != got.ContentLength || want.Close != got.Close ||
		!reflect.DeepEqual(want.Header, got.Header) || int64(len(body)) != framing.Length || len(want.TransferEncoding) != 0 {
		t.Fatalf("%s %q:\n%+v, want\n%+v", method, text, got, want)
	}
	return true
}

func TestPlainResponse(t *testing.T) {
	plain := 0
	for _, text := range plainResponses {
		for _, method := range []string{"GET", "HEAD"} {
			if checkPlainResponse(t, method, []byte(text)) {
				plain++
			}
		}
	}
	if plain != 15 {
		t.Errorf("%d are plain, want 15", plain)
	}
}

func FuzzPlainResponse(f *testing.F) {
	for _, text := range plainResponses {
		f.Add(true, []byte(text))
		f.Add(false, []byte(text))
	}
	f.Fuzz(func(t *testing.T, head bool, text []byte) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		checkPlainResponse(t, method, text)
	})
}

// What is written can hold no more than it should.
func TestSimulatedWrites(t *testing.T) {
	for _, h := range []http.Header{{"X": {"a\r\nY: b"}}, {"X\r\nY": {"a"}}, {"X": {"a\x00"}}} {
		if b := appendFields([]byte{}, h, nil); b != nil {
			t.Errorf("%q is written as %q", h, b)
		}
		r := &http.Request{Method: "GET", URL: mustParse(t, "http://node/"), Header: h}
		if _, err := appendRequest(nil, r); err == nil || !strings.Contains(err.Error(), "header") {
			t.Errorf("%q: %v", h, err)
		}
	}
	r := &http.Request{Method: "GET", URL: mustParse(t, "http://node/"), Header: http.Header{}}
	r.URL.RawQuery = "a b"
	if _, err := appendRequest(nil, r); err == nil {
		t.Error("a query with a space is sent")
	}
}

func mustParse(t *testing.T, text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
