package calls

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"moult/simlayer/so"
	"moult/simlayer/wire"
)

// plainRequest is a caller's request as its chain gets it from a ReverseProxy: its
// headers are end to end, and it is addressed to the node. Its memory is used
// again, so nothing may keep it.
type plainRequest struct {
	base   *http.Request // with the context of calls that need none of their own
	req    http.Request
	url    url.URL
	header http.Header
	values []string // memory of header
	body   plainBody
	close  bool // no other request follows
	hops   int  // behind it: see so.Hop
}

// read reads a request whose framing is known. It reports false where the call is
// not plain.
func (r *plainRequest) read(framing wire.Request, head, body []byte) bool {
	if framing.Method == "" || framing.Method == http.MethodConnect || framing.Expect || framing.Upgrade || framing.Body == wire.Chunked {
		return false
	}
	text := string(head) // the parts of which everything else is
	line, fields, _ := strings.Cut(text, "\r\n")
	target, isNew := strings.CutSuffix(line[len(framing.Method)+1:], " HTTP/1.1")
	if !isNew || !r.readTarget(target) {
		return false
	}
	r.req = *r.base
	host, ok := r.readFields(fields)
	if !ok {
		return false
	}
	r.req.Method, r.req.URL, r.req.RequestURI, r.req.Host, r.req.Header = framing.Method, &r.url, target, host, r.header
	r.close = framing.Close
	if len(body) > 0 {
		r.body.set(body)
		r.req.Body, r.req.ContentLength = &r.body, int64(len(body))
	}
	return true
}

// readTarget reads the path and query of a request's line.
func (r *plainRequest) readTarget(target string) bool {
	if target[0] != '/' || strings.HasPrefix(target, "//") {
		return false
	}
	path, query, asked := strings.Cut(target, "?")
	if plainPath(path) && asked == (query != "") {
		r.url = url.URL{Path: path, RawQuery: query}
	} else {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return false
		}
		r.url = *u
		if path != u.EscapedPath() {
			r.url.Opaque = path // as rewrite does
		}
	}
	r.url.Scheme, r.url.Host = "http", "node"
	return true
}

// plainPath reports whether a path is its own escaped form in package url.
func plainPath(path string) bool {
	for i := range len(path) {
		if !inPlainPath[path[i]] {
			return false
		}
	}
	return true
}

var inPlainPath = bytesOf("-_.~$&+,/:;=@")

// bytesOf returns the set of all letters, digits, and more.
func bytesOf(more string) (set [256]bool) {
	for c := byte('0'); c <= '9'; c++ {
		set[c] = true
	}
	for c := byte('a'); c <= 'z'; c++ {
		set[c], set[c-'a'+'A'] = true, true
	}
	for i := range len(more) {
		set[more[i]] = true
	}
	return set
}

// readFields reads the header of a request; ok is false where it has something
// that is no plain call's.
func (r *plainRequest) readFields(text string) (host string, ok bool) {
	hosts := 0
	for len(text) > 2 {
		var name, value string
		name, value, text = cutField(text)
		switch name {
		case "Host":
			host = value
			hosts++
			continue
		case "Connection":
			if !plainConnection(value) {
				return "", false
			}
			continue
		case "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization":
			continue // of one connection
		case "Te", "Trailer", "Transfer-Encoding":
			return "", false
		case "Content-Type":
			if len(value) >= 16 && strings.EqualFold(value[:16], "application/grpc") {
				return "", false // refusals are in its own terms
			}
		}
		r.values = addField(r.header, r.values, name, value)
	}
	if hosts != 1 || host == "" || strings.IndexByte(host, '%') >= 0 || !httpguts.ValidHostHeader(host) {
		return "", false
	}
	oldPragma(r.header)
	if _, named := r.header["User-Agent"]; !named {
		r.header["User-Agent"] = noAgent // so is none sent, as by ReverseProxy
	}
	if r.hops = 0; r.header[so.HopsHeader] != nil {
		r.hops = so.Hops(r.header)
	}
	return host, true
}

var noAgent = []string{""}

// cutField cuts the first line off some that wire has found to be fields.
func cutField(text string) (name, value, rest string) {
	line, rest, _ := strings.Cut(text, "\r\n")
	colon := strings.IndexByte(line, ':')
	return textproto.CanonicalMIMEHeaderKey(line[:colon]), strings.Trim(line[colon+1:], " \t"), rest
}

// addField adds a field to h; values is memory for what it holds.
func addField(h http.Header, values []string, name, value string) []string {
	if old := h[name]; old != nil {
		h[name] = append(old, value)
		return values
	}
	values = append(values, value)
	n := len(values)
	h[name] = values[n-1 : n : n]
	return values
}

// oldPragma is what net/http makes of a header of HTTP/1.0.
func oldPragma(h http.Header) {
	if p := h["Pragma"]; len(p) > 0 && p[0] == "no-cache" && h["Cache-Control"] == nil {
		h["Cache-Control"] = []string{"no-cache"}
	}
}

// plainConnection reports whether a Connection header names no other header.
func plainConnection(value string) bool {
	for one := range strings.SplitSeq(value, ",") {
		if one = strings.Trim(one, " \t"); one != "" && !strings.EqualFold(one, "keep-alive") && !strings.EqualFold(one, "close") {
			return false
		}
	}
	return true
}

// made returns the request with a context.
func (r *plainRequest) made(ctx context.Context) *http.Request {
	if r.req.Context() == ctx {
		return &r.req
	}
	return r.req.WithContext(ctx)
}

func (r *plainRequest) clear() {
	clear(r.header)
	clear(r.values)
	*r = plainRequest{base: r.base, header: r.header, values: r.values[:0]}
}

// plainResponse is an answer of the node. Its memory is used again.
type plainResponse struct {
	resp   http.Response
	header http.Header
	values []string
	body   plainBody
}

// read reads a response whose framing is known. It reports false where
// http.ReadResponse must.
func (r *plainResponse) read(framing wire.Response, req *http.Request, head []byte) bool {
	text := string(head)
	line, fields, _ := strings.Cut(text, "\r\n")
	if !strings.HasPrefix(line, "HTTP/1.1 ") {
		return false
	}
	if !r.readFields(fields) {
		return false
	}
	r.resp = http.Response{
		Status: strings.TrimLeft(line[9:], " "), StatusCode: framing.Status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: r.header, ContentLength: framing.Length, Close: framing.Close, Request: req, Body: http.NoBody,
	}
	if req.Method == http.MethodHead {
		r.resp.ContentLength = declared(r.header)
	}
	return true
}

func (r *plainResponse) readFields(text string) bool {
	connections := 0
	for len(text) > 2 {
		var name, value string
		name, value, text = cutField(text)
		switch name {
		case "Connection":
			if connections++; connections > 1 || !plainConnection(value) || strings.IndexByte(value, ',') >= 0 {
				return false
			}
			if strings.EqualFold(value, "close") {
				continue // as http.ReadResponse does
			}
		case "Trailer", "Transfer-Encoding", "Upgrade":
			return false
		}
		r.values = addField(r.header, r.values, name, value)
	}
	oldPragma(r.header)
	return true
}

// declared is what a header says of the length of its body; -1: nothing.
func declared(h http.Header) int64 {
	if len(h["Content-Length"]) == 0 {
		return -1
	}
	n, err := strconv.ParseInt(h["Content-Length"][0], 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

func (r *plainResponse) clear() {
	clear(r.header)
	clear(r.values)
	*r = plainResponse{header: r.header, values: r.values[:0]}
}

// plainBody is a body in memory. Where less of it has come than was said, err
// follows.
type plainBody struct {
	data []byte
	err  error
}

func (b *plainBody) set(data []byte) { b.data, b.err = data, io.EOF }

// Rest implements so.InMemory.
func (b *plainBody) Rest() ([]byte, bool) { return b.data, b.err == io.EOF }

// Len is how many bytes are left.
func (b *plainBody) Len() int { return len(b.data) }

func (b *plainBody) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

// Close implements io.Closer.
func (*plainBody) Close() error { return nil }
