package wire

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/net/http2"
)

var requests = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET",
	"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\nGET",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\nHost: x\n\n",
	"GET / HTTP/1.1\r\nHost: x\r\n  folded\r\n\r\n",
	"GET / HTTP/1.0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
	"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: w\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
	"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x\x1by\r\nabc\r\n0\r\n\r\n",
}

// control is what is refused here in the extension of a chunk, as RFC 9112 has it; net/http
// passes over it.
func control(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\r\n\t", r) }

// FuzzRequest: where a request counts as usual, net/http finds the same length of
// its head and body, or refuses it.
func FuzzRequest(f *testing.F) {
	for _, r := range requests {
		f.Add([]byte(r))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		end := HeadEnd(in, 0)
		if end < 0 {
			return
		}
		r, ok := ParseRequest(in[:end])
		if !ok {
			return
		}
		body := NewBody(r.Body, r.Length)
		n, ok := body.Feed(in[end:])
		if !ok && bytes.ContainsFunc(in[end:], control) {
			return
		}
		whole := ok && body.Done()
		agree(t, in, end+n, whole, func(br *bufio.Reader) error {
			req, err := http.ReadRequest(br)
			if err != nil {
				return err
			}
			if req.Close && !r.Close && req.ProtoMinor == 1 {
				t.Errorf("%q: net/http closes after it, here it goes on", in)
			}
			_, err = io.Copy(io.Discard, req.Body)
			return err
		})
	})
}

var responses = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n\r\nuntil the end",
	"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
	"HTTP/1.1 200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nabcde",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
}

// FuzzResponse is the same for responses, to GET and to HEAD.
func FuzzResponse(f *testing.F) {
	for _, r := range responses {
		f.Add([]byte(r), false)
		f.Add([]byte(r), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		end := HeadEnd(in, 0)
		if end < 0 {
			return
		}
		r, ok := ParseResponse(in[:end], method, nil)
		if !ok || r.Interim() || r.Switched() {
			return
		}
		body := NewBody(r.Body, r.Length)
		n, ok := body.Feed(in[end:])
		if !ok && bytes.ContainsFunc(in[end:], control) {
			return
		}
		whole := ok && (body.Done() || r.Body == UntilClose)
		agree(t, in, end+n, whole, func(br *bufio.Reader) error {
			resp, err := http.ReadResponse(br, &http.Request{Method: method})
			if err != nil {
				return err
			}
			if resp.Close && !r.Close {
				t.Errorf("%q: net/http closes after it, here it goes on", in)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			return err
		})
	})
}

// agree reads the message with net/http, which must leave the same rest, or fail.
func agree(t *testing.T, in []byte, n int, whole bool, read func(*bufio.Reader) error) {
	t.Helper()
	src := bytes.NewReader(in)
	br := bufio.NewReader(src)
	err := read(br)
	if err != nil {
		return // refused there; here it merely passes
	}
	used := len(in) - src.Len() - br.Buffered()
	if !whole || used != n {
		t.Errorf("%q: %d bytes here (whole: %v), %d bytes for net/http", in, n, whole, used)
	}
}

// FuzzBody: however a body is cut into pieces, its end is the same.
func FuzzBody(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\nT: 1\r\n\r\nrest"), 1)
	f.Add([]byte("A;e=\"v\"\r\n0123456789\r\n0\r\n\r\n"), 3)
	f.Add([]byte("3\r\nabcd"), 2)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		if step < 1 {
			return
		}
		one, many := NewBody(Chunked, 0), NewBody(Chunked, 0)
		n, ok := one.Feed(in)
		m, okMany := 0, true
		for p := in; len(p) > 0 && okMany && !many.Done(); {
			piece := p[:min(step, len(p))]
			// What is certain to come may pass unseen.
			if left := many.Left(); left > 0 {
				piece = p[:min(left, int64(len(p)))]
				many.Skip(int64(len(piece)))
				m, p = m+len(piece), p[len(piece):]
				continue
			}
			k, good := many.Feed(piece)
			m, okMany, p = m+k, good, p[k:]
		}
		if ok != okMany || ok && (n != m || one.Done() != many.Done()) {
			t.Errorf("%q in one piece: %d bytes, %v; in pieces of %d: %d bytes, %v", in, n, ok, step, m, okMany)
		}
	})
}

// FuzzStreams: whatever both sides send, no more than what was given passes, and
// pieces of any length mean the same.
func FuzzStreams(f *testing.F) {
	f.Add([]byte(Preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x05\x00\x00\x00\x01x"), []byte("\x00\x00\x01\x01\x05\x00\x00\x00\x01x"), 3)
	f.Fuzz(func(t *testing.T, client, server []byte, step int) {
		if step < 1 {
			return
		}
		whole, pieces := NewStreams(), NewStreams()
		a := drive(t, whole, client, server, 1<<20)
		b := drive(t, pieces, client, server, step)
		if a != b || whole.Open() != pieces.Open() || whole.Last() != pieces.Last() {
			t.Errorf("%q, %q: %d bytes and %d streams at once, %d and %d in pieces of %d", client, server, a, whole.Open(), b, pieces.Open(), step)
		}
	})
}

func drive(t *testing.T, s *Streams, client, server []byte, step int) (passed int) {
	for have := []byte(nil); ; {
		n, _, e := s.FromClient(have)
		if n < 0 || n > len(have) || len(Block(have)) > len(have) {
			t.Fatalf("%d of %d bytes", n, len(have))
		}
		if e == Opening {
			s.Admit(have)
			continue
		}
		if e == Violated {
			return passed
		}
		passed += n
		have = have[n:]
		if n > 0 {
			continue
		}
		if len(client) == 0 {
			break
		}
		k := min(step, len(client))
		have, client = append(have, client[:k]...), client[k:]
	}
	for have := []byte(nil); ; {
		n, _ := s.FromServer(have)
		passed += n
		have = have[n:]
		if n > 0 {
			continue
		}
		if len(server) == 0 {
			return passed
		}
		k := min(step, len(server))
		have, server = append(have, server[:k]...), server[k:]
	}
}

// TestHeadEnd: the end is found wherever the head is cut.
func TestHeadEnd(t *testing.T) {
	for _, head := range []string{"GET / HTTP/1.1\r\nA: b\r\n\r\n", "GET / HTTP/1.1\nA: b\n\n", "a\r\n\n"} {
		in := []byte(head + "rest\r\n\r\n")
		for cut := range len(head) {
			if n := HeadEnd(in[:cut], 0); n >= 0 {
				t.Errorf("%q ends after %d", in[:cut], n)
			}
			if n := HeadEnd(in, cut); n != len(head) {
				t.Errorf("%q, %d bytes seen: %d, want %d", in, cut, n, len(head))
			}
		}
	}
}

// TestUnusual: what two readers could understand differently is not ok. Each is
// the planted bug of one check: without it the fuzz targets find the difference.
func TestUnusual(t *testing.T) {
	for i, usual := range []bool{true, true, true, false, false, false, false, false, true, false, false, true, true, true} {
		head := requests[i][:HeadEnd([]byte(requests[i]), 0)]
		if _, ok := ParseRequest([]byte(head)); ok != usual {
			t.Errorf("%q: usual %v, want %v", head, ok, usual)
		}
	}
	for _, raw := range requests[12:] {
		_, rest, _ := strings.Cut(raw, "\r\n\r\n")
		b := NewBody(Chunked, 0)
		if _, ok := b.Feed([]byte(rest)); ok {
			t.Errorf("body %q is taken for chunks", rest)
		}
	}
}

func TestGoAwayDrops(t *testing.T) {
	headers := func(id byte, flags http2.Flags) []byte { return []byte{0, 0, 1, 1, byte(flags), 0, 0, 0, id, 'h'} }
	s := NewStreams()
	feed := func(p []byte) (drop bool, e Event) {
		t.Helper()
		n, drop, e := s.FromClient(p)
		if e == Opening {
			s.Admit(p)
			n, drop, e = s.FromClient(p)
		}
		if e != Violated && n != len(p) {
			t.Fatalf("%d of %d bytes", n, len(p))
		}
		return drop, e
	}
	_, _ = feed([]byte(Preface))
	_, _ = feed(headers(1, http2.FlagHeadersEndHeaders))
	s.Shut()
	if drop, _ := feed(headers(3, http2.FlagHeadersEndHeaders)); !drop || s.Open() != 1 || s.Last() != 1 {
		t.Errorf("a stream after the end: dropped %v, %d open, last %d", drop, s.Open(), s.Last())
	}
	if drop, _ := feed([]byte{0, 0, 1, 0, byte(http2.FlagDataEndStream), 0, 0, 0, 1, 'd'}); drop {
		t.Error("the stream before it was dropped")
	}
	// Its trailers cannot be read any more by the server, whose table of headers
	// lacks what was dropped.
	if _, e := feed(headers(1, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream)); e != Violated {
		t.Errorf("headers after dropped ones: %v, want %v", e, Violated)
	}
	if _, e := s.FromServer(headers(1, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream)); e != Closed || s.Open() != 0 {
		t.Errorf("%v, %d open", e, s.Open())
	}
}
