package wire

import "bytes"

// BodyKind is how the length of a body is told.
type BodyKind uint8

// The kinds of body.
const (
	NoBody     BodyKind = iota
	Sized               // Content-Length
	Chunked             // Transfer-Encoding: chunked
	UntilClose          // to the end of the connection; responses only
)

// Request is what the head of a request says of its framing.
type Request struct {
	Method string // one of the usual ones, or "" for any other
	Body   BodyKind
	Length int64 // of a Sized body, in bytes
	// Expect: the caller waits for an interim response before it sends the body.
	Expect bool
	// Upgrade: the caller asks for another protocol.
	Upgrade bool
	// Close: no other request follows, or the answer may end with the
	// connection.
	Close bool
}

// Response is what the head of a response says of its framing.
type Response struct {
	Status  int
	Body    BodyKind
	Length  int64  // of a Sized body, in bytes
	Close   bool   // the connection ends after it
	Refusal []byte // value of the header that Marked names; part of the head
	Events  bool   // it goes on for as long as things happen
}

// Interim reports whether another response to the same request follows.
func (r Response) Interim() bool { return r.Status >= 100 && r.Status < 200 && r.Status != 101 }

// Switched reports whether another protocol follows.
func (r Response) Switched() bool { return r.Status == 101 }

// HeadEnd returns the length of the head at the start of b, the empty line that
// ends it included; -1: it goes on. seen is how many bytes of b were searched
// before, by an earlier call that found no end.
func HeadEnd(b []byte, seen int) int {
	from := max(0, seen-3)
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return -1
		}
		from += i + 1
		switch {
		case from < len(b) && b[from] == '\n':
			return from + 1
		case from+1 < len(b) && b[from] == '\r' && b[from+1] == '\n':
			return from + 2
		}
	}
}

// ParseRequest reads a whole head, up to and with its empty line. ok is false
// where it is unusual.
func ParseRequest(head []byte) (r Request, ok bool) {
	line, rest, ok := cutLine(head)
	if !ok {
		return r, false
	}
	method, line, ok := bytes.Cut(line, []byte(" "))
	if !ok || !token(method) {
		return r, false
	}
	target, proto, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(target) == 0 || !visible(target) {
		return r, false
	}
	old := false
	switch string(proto) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		old = true
	default:
		return r, false
	}
	r.Method = known(method)
	var f fields
	if !f.read(rest, nil) {
		return r, false
	}
	r.Expect, r.Upgrade = f.expect, f.upgrade
	r.Close = old || f.close
	switch {
	case f.chunked && (f.sized || old):
		return r, false
	case f.chunked:
		r.Body = Chunked
	case f.sized && f.length > 0:
		r.Body, r.Length = Sized, f.length
	}
	return r, true
}

// ParseResponse reads a whole head, up to and with its empty line. method is
// that of the request. marked is the name of the header whose value becomes
// Refusal; nil for none. ok is false where it is unusual.
func ParseResponse(head []byte, method string, marked []byte) (r Response, ok bool) {
	line, rest, ok := cutLine(head)
	if !ok || len(line) < len("HTTP/1.1 200") {
		return r, false
	}
	old := false
	switch string(line[:9]) {
	case "HTTP/1.1 ":
	case "HTTP/1.0 ":
		old = true
	default:
		return r, false
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return r, false
		}
		r.Status = 10*r.Status + int(c-'0')
	}
	if len(line) > 12 && line[12] != ' ' || r.Status < 100 {
		return r, false
	}
	var f fields
	if !f.read(rest, marked) {
		return r, false
	}
	r.Refusal, r.Events = f.marked, f.events
	r.Close = f.close || old && !f.keep
	switch {
	case f.chunked && (f.sized || old):
		return r, false
	case r.Status < 200 || r.Status == 204:
		// A length here is against the rules, and readers differ about it.
		return r, f.length == 0 && !f.chunked
	case r.Status == 304 || method == "HEAD":
	case f.chunked:
		r.Body = Chunked
	case f.sized && f.length > 0:
		r.Body, r.Length = Sized, f.length
	case !f.sized:
		r.Body, r.Close = UntilClose, true
	}
	return r, true
}

// fields is what the header fields say.
type fields struct {
	sized, chunked, expect, upgrade, close, keep, events bool

	length int64
	marked []byte
}

// read reads the field lines and the empty one that ends them.
func (f *fields) read(b []byte, marked []byte) (ok bool) {
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return false
		}
		if len(line) == 0 {
			return len(rest) == 0
		}
		i := bytes.IndexByte(line, ':')
		if i < 1 || !token(line[:i]) {
			return false // also a line that goes on from the one before
		}
		if !f.take(line[:i], trim(line[i+1:]), marked) {
			return false
		}
		b = rest
	}
}

// take reads one field.
func (f *fields) take(name, value, marked []byte) (ok bool) {
	// The first letter and the length sort out nearly all.
	switch len(name) {
	case len("Upgrade"):
		if equalFold(name, "upgrade") {
			f.upgrade = true
		}
	case len("Expect"):
		if equalFold(name, "expect") {
			f.expect = true
		}
	case len("Connection"):
		if equalFold(name, "connection") {
			f.connection(value)
		}
	case len("Content-Length"):
		if equalFold(name, "content-length") {
			n, ok := digits(value)
			if !ok || f.sized {
				return false
			}
			f.sized, f.length = true, n
		}
	case len("Transfer-Encoding"):
		if equalFold(name, "transfer-encoding") {
			if f.chunked || !equalFold(value, "chunked") {
				return false
			}
			f.chunked = true
		}
	case len("Content-Type"):
		if equalFold(name, "content-type") {
			f.events = Events(value)
		}
	}
	if marked != nil && len(name) == len(marked) && bytes.EqualFold(name, marked) {
		f.marked = value
	}
	return clean(value)
}

// Events reports whether an answer of this content type goes on for as long as things
// happen.
func Events(contentType []byte) bool {
	kind, _, _ := bytes.Cut(contentType, []byte(";"))
	kind = trim(kind)
	return equalFold(kind, "text/event-stream") || equalFold(kind, "multipart/x-mixed-replace")
}

func (f *fields) connection(value []byte) {
	for len(value) > 0 {
		one, rest, _ := bytes.Cut(value, []byte(","))
		one = trim(one)
		f.close = f.close || equalFold(one, "close")
		f.keep = f.keep || equalFold(one, "keep-alive")
		value = rest
	}
}

// cutLine splits b after its first line, which must end with CR LF; the line
// comes without these.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// digits reads a number of at most 18 digits, so that it cannot overflow.
func digits(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// equalFold compares with a word in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// token reports whether b is a token of RFC 9110, 5.6.2.
func token(b []byte) bool {
	for _, c := range b {
		if !tokens[c] {
			return false
		}
	}
	return len(b) > 0
}

// tokens are the bytes of a token.
var tokens = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func visible(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// clean reports whether a field's value has no control characters.
func clean(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func known(method []byte) string {
	switch string(method) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "PATCH":
		return "PATCH"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "TRACE":
		return "TRACE"
	case "CONNECT":
		return "CONNECT"
	}
	return ""
}
