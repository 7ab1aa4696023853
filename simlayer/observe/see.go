package observe

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
)

// seenBody is what was seen of a body that goes by. The observer's lock protects it.
type seenBody struct {
	data    []byte
	trailer func() http.Header // what has come after the body; nil: nothing
	ended   bool
	cut     bool // there was more
}

// Seeing is a call that is on its way to the node, and is seen.
type Seeing struct {
	o *Observer
	s *sighting
}

// See begins to see a call; the request that goes to the node is r from now on.
func (o *Observer) See(service string, r *http.Request) (*Seeing, *http.Request) {
	s := &sighting{o: o, event: so.Observed{
		Event: so.ObservedCall, Service: service, Method: r.Method, URI: r.URL.RequestURI(), Host: r.Host,
	}}
	s.event.Request.Header, s.event.Request.Truncated = seenHeader(r.Header)
	s.bytes = sizeOf(s.event.Request.Header) + len(s.event.URI)
	switch {
	case r.Body == nil || r.Body == http.NoBody:
	case r.GetBody != nil:
		// It is here, and the transport may send it twice.
		body, err := r.GetBody()
		if err == nil {
			s.event.Request.Body, err = io.ReadAll(io.LimitReader(body, MaxBody+1))
		}
		if err != nil || len(s.event.Request.Body) > MaxBody {
			s.event.Request.Body, s.event.Request.Truncated = s.event.Request.Body[:min(len(s.event.Request.Body), MaxBody)], true
		}
		s.bytes += len(s.event.Request.Body)
	default:
		s.request = &seenBody{trailer: func() http.Header { return r.Trailer }}
		out := r.WithContext(r.Context())
		out.Body = &seenReader{s, s.request, r.Body}
		r = out
	}
	return &Seeing{o, s}, r
}

// Answered takes in what came of the call, and returns what its caller gets.
func (c *Seeing) Answered(resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		if !proxy.IsDialError(err) && !proxy.Safe(c.s.event.Method) {
			c.note(&http.Response{Body: http.NoBody})
		}
		return nil, err
	}
	body := c.note(resp)
	if body == nil {
		return resp, nil
	}
	if resp.ContentLength < 0 || resp.ContentLength > MaxBody {
		resp.Body = body
		return resp, nil
	}
	// A short one is read at once: a caller that takes its time delays nobody.
	data, err := io.ReadAll(body)
	left := io.Reader(bytes.NewReader(data))
	if err != nil {
		left = io.MultiReader(left, failing{err})
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{left, body}
	return resp, nil
}

// note gives the call its place in the order. It returns by what the answer's body
// must be read to be seen, nil where there is nothing to see of it. The body of the
// request may still be on its way.
func (c *Seeing) note(resp *http.Response) *seenReader {
	s := c.s
	header, cut := seenHeader(resp.Header)
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	s.event.Status = resp.StatusCode
	s.event.Response.Header, s.event.Response.Truncated = header, cut
	s.bytes += sizeOf(header)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		s.event.Response.Truncated, s.done = true, true
	case resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength == 0 || s.event.Method == http.MethodHead:
		s.done = true
	default:
		s.response = &seenBody{trailer: func() http.Header { return resp.Trailer }}
	}
	if !c.o.add(s) || s.done {
		return nil
	}
	return &seenReader{s, s.response, resp.Body}
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// seenReader is a body that is seen as it goes by.
type seenReader struct {
	s    *sighting
	seen *seenBody
	io.ReadCloser
}

func (b *seenReader) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.s.saw(b.seen, p[:n], errors.Is(err, io.EOF), err != nil)
	return n, err
}

func (b *seenReader) Close() error {
	err := b.ReadCloser.Close()
	b.s.saw(b.seen, nil, false, true)
	return err
}

// saw notes the next bytes of a body. whole says that they are its last, and over
// that none follow.
func (s *sighting) saw(b *seenBody, p []byte, whole, over bool) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if b.ended || s.done && b == s.response {
		return // it is told already, or all is known
	}
	room := MaxBody - len(b.data)
	if o.bytes >= maxBytes {
		room = 0
	}
	if len(p) > room {
		p, b.cut = p[:room], true
	}
	b.data = append(b.data, p...)
	s.bytes += len(p)
	if !s.until.IsZero() {
		o.bytes += len(p) // it is in the queue
	}
	if over {
		b.ended = true
		b.cut = b.cut || !whole
	}
	if b == s.response && (b.ended || b.cut) {
		s.done = true
		o.nudge()
	}
}

// finish makes what was seen of the bodies the event's. The lock is held.
func (s *sighting) finish() {
	for _, side := range []struct {
		seen *seenBody
		to   *so.ObservedMessage
	}{{s.request, &s.event.Request}, {s.response, &s.event.Response}} {
		if side.seen == nil {
			continue
		}
		side.to.Body = side.seen.data
		side.to.Truncated = side.to.Truncated || side.seen.cut || !side.seen.ended
		if side.seen.ended && !side.seen.cut {
			side.to.Trailer, _ = seenHeader(side.seen.trailer())
		}
		side.seen.ended = true // whatever comes is too late
	}
	s.request, s.response, s.done = nil, nil, true
}

// seenHeader copies headers, as far as there is room.
func seenHeader(h http.Header) (seen http.Header, cut bool) {
	if len(h) == 0 {
		return nil, false
	}
	if sizeOf(h) <= maxHeader {
		return h.Clone(), false
	}
	seen = http.Header{}
	left := maxHeader
	for name, values := range h {
		for _, v := range values {
			if left -= len(name) + len(v); left >= 0 {
				seen[name] = append(seen[name], v)
			}
		}
	}
	return seen, true
}

func sizeOf(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}
