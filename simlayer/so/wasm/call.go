package wasm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/http-wasm/http-wasm-host-go/api/handler"

	"moult/simlayer/so"
)

// call is one call that is being answered.
type call struct {
	o    *Object
	in   *instance
	req  *http.Request // the caller's
	next http.RoundTripper

	features handler.Features
	// method, uri and host are what the guest has set, "" for the caller's.
	method, host string
	uri          *url.URL
	request      message
	response     message
	status       int            // that the guest has set, 0 for none
	came         *http.Response // from next
	after        bool           // next has answered
	observed     *so.Observed   // what the guest is told of, where this is no call of its callers

	denied      *so.Refusal
	raised      error // the failure of a next call that the guest passes on
	headerBytes int
	calls       int
	handles     []*outgoing
}

func newCall(o *Object, r *http.Request, next http.RoundTripper) *call {
	c := &call{o: o, req: r, next: next}
	c.request = message{header: r.Header, source: r.Body, length: r.ContentLength, trailer: r.Trailer}
	return c
}

// prefetch reads a body that is known to be small before an instance is taken for
// the call, so that a slow caller holds none.
func (c *call) prefetch() error {
	if c.req.ContentLength < 1 || c.req.ContentLength > int64(c.o.config.Limits.Body) {
		return nil
	}
	if err := c.request.load(c.o.config.Limits.Body); err != nil {
		return c.callerBody(err)
	}
	return nil
}

// callerBody says why the caller's body cannot be used.
func (c *call) callerBody(err error) error {
	switch {
	case c.req.Context().Err() != nil:
		return c.req.Context().Err()
	case errors.Is(err, errTooLarge):
		return so.Fail(http.StatusRequestEntityTooLarge, nil, "the call cannot be translated: its body is over %d bytes", c.o.config.Limits.Body)
	case errors.Is(err, context.DeadlineExceeded):
		return so.Fail(http.StatusRequestTimeout, nil, "the call cannot be translated: its body did not come within %v", c.o.config.Limits.WaitTime)
	}
	return so.Fail(http.StatusBadRequest, err, "the body of the call cannot be read: %v", err)
}

// loadRequest reads the caller's body for the guest, outside of its time.
func (c *call) loadRequest() {
	if c.request.loaded {
		return
	}
	var err error
	c.in.pause(func() {
		ctx, cancel := context.WithTimeout(c.req.Context(), c.o.config.Limits.WaitTime)
		defer cancel()
		err = c.request.loadWithin(ctx, c.o.config.Limits.Body)
	})
	if err != nil {
		stop(c.callerBody(err))
	}
	c.request.trailer = c.req.Trailer
}

// loadResponse reads the body that next has sent, outside of the guest's time.
func (c *call) loadResponse(m *message, resp *http.Response) {
	if m.loaded {
		return
	}
	var err error
	// The context of the call ends this too: that is what transports do.
	c.in.pause(func() { err = m.load(c.o.config.Limits.Body) })
	switch {
	case err == nil:
	case c.req.Context().Err() != nil:
		stop(c.req.Context().Err())
	case errors.Is(err, errTooLarge):
		stop(so.Fail(http.StatusBadGateway, nil, "the answer cannot be translated: its body is over %d bytes", c.o.config.Limits.Body))
	default:
		stop(err)
	}
	if resp != nil {
		m.trailer = resp.Trailer
	}
}

// answer lets the guest answer the call.
func (c *call) answer(in *instance) (*http.Response, error) {
	defer c.closeHandles()
	c.features = in.features
	result, err := in.handleRequest()
	if err != nil {
		return nil, err
	}
	if err := c.verdict(); err != nil {
		return nil, err
	}
	if result&1 == 0 {
		return c.own(), nil
	}
	req := c.outgoing()
	if err := c.count(); err != nil {
		return nil, err
	}
	resp, nextErr := c.next.RoundTrip(req)
	c.after = true
	if nextErr == nil {
		c.take(resp)
	}
	guestErr := in.handleResponse(uint32(result>>32), nextErr != nil)
	if nextErr != nil && c.denied == nil {
		return nil, nextErr
	}
	if err = guestErr; err == nil {
		err = c.verdict()
	}
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		return nil, err
	}
	return c.changed(), nil
}

// verdict returns the guest's denial, or the failure that it passes on.
func (c *call) verdict() error {
	if c.denied != nil {
		return c.denied
	}
	return c.raised
}

// count counts a call to next.
func (c *call) count() error {
	if c.calls++; c.calls > c.o.config.Limits.NextCalls {
		return so.Fail(http.StatusLoopDetected, nil, "%s made more than %d calls to answer one", c.o.name(), c.o.config.Limits.NextCalls)
	}
	return nil
}

// outgoing returns the caller's request as the guest has changed it.
func (c *call) outgoing() *http.Request {
	buffered := c.features.IsEnabled(handler.FeatureBufferResponse)
	if !c.request.changed && c.method == "" && c.uri == nil && c.host == "" && !buffered && !c.request.loaded {
		return c.req
	}
	out := c.req.WithContext(c.req.Context())
	out.Header = c.request.own()
	endToEnd(out.Header)
	if buffered {
		// A guest that reads the answer wants it plain and whole.
		for _, name := range []string{"Accept-Encoding", "Range", "If-Range"} {
			if !c.setByGuest(name) {
				out.Header.Del(name)
			}
		}
	}
	if c.method != "" {
		out.Method = c.method
	}
	if c.host != "" {
		out.Host = c.host
	}
	if c.uri != nil {
		u := *c.req.URL
		u.Path, u.RawPath, u.RawQuery, u.ForceQuery = c.uri.Path, c.uri.RawPath, c.uri.RawQuery, c.uri.ForceQuery
		out.URL, out.RequestURI = &u, ""
	}
	if c.request.written || c.request.loaded {
		setRequestBody(out, c.request.body(), c.request.trailer)
	}
	if c.request.written && c.request.source != nil && !c.request.loaded {
		// The caller's own body is of no use to anybody.
		_ = c.request.source.Close()
	}
	return out
}

// setByGuest says whether the guest has given the header a value of its own.
func (c *call) setByGuest(name string) bool {
	now, old := c.request.header.Values(name), c.req.Header.Values(name)
	return len(now) > 0 && (len(old) == 0 || now[0] != old[0])
}

// take makes what next has answered the response that the guest sees. As in
// http-wasm's own host, headers that the guest has set before are kept where next
// sets none, and a body that it has written before comes before that of next.
func (c *call) take(resp *http.Response) {
	early, start := c.response.header, c.response.out
	c.came = resp
	if len(start) > 0 && c.req.Method != http.MethodHead {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(start), resp.Body), resp.Body}
		if resp.ContentLength >= 0 {
			resp.ContentLength += int64(len(start))
		}
		resp.Header.Del("Content-Length")
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	c.response = message{header: resp.Header, owned: true, source: resp.Body, length: bodyLength(resp, c.sentMethod()), trailer: resp.Trailer}
	for name, values := range early {
		if _, ok := resp.Header[name]; !ok {
			resp.Header[name] = values
		}
	}
	c.status = 0
}

// sentMethod is the method of the call that was sent on.
func (c *call) sentMethod() string {
	if c.method != "" {
		return c.method
	}
	return c.req.Method
}

// bodyLength returns the length of the body that resp has, below zero if it is
// not known. That which the answer to a HEAD tells is of another body.
func bodyLength(resp *http.Response, method string) int64 {
	if method == http.MethodHead {
		return -1
	}
	return resp.ContentLength
}

// changed returns what next has answered as the guest has changed it.
func (c *call) changed() *http.Response {
	resp, m := c.came, &c.response
	if c.status != 0 {
		setStatus(resp, c.status)
	}
	if !m.written && !m.loaded && !m.trailerChanged {
		return resp
	}
	if m.written && !m.loaded {
		// What the guest has replaced is of no use to anybody.
		_ = m.source.Close()
	}
	if m.written {
		endToEnd(resp.Header)
	}
	data, length := m.body(), resp.ContentLength
	setResponseBody(resp, c.req.Method, data, m.trailer)
	if c.req.Method == http.MethodHead && !m.written {
		// The length that a HEAD tells is not that of what came.
		resp.ContentLength = length
		resp.Header.Del("Content-Length")
	}
	return resp
}

// own returns the response that the guest has made itself.
func (c *call) own() *http.Response {
	status := c.status
	if status == 0 {
		status = http.StatusOK
	}
	resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: c.response.own(), Request: c.req}
	setStatus(resp, status)
	setResponseBody(resp, c.req.Method, c.response.out, c.response.trailer)
	return resp
}

// closeHandles frees what the guest has not closed itself.
func (c *call) closeHandles() {
	for _, h := range c.handles {
		h.close()
	}
}

// drain is how much of a body that nobody wants is read, so that its connection
// can be used again.
const drain = 64 << 10

func discard(body io.ReadCloser) {
	// Whether it comes to its end or not, it is closed.
	_, _ = io.CopyN(io.Discard, body, drain)
	_ = body.Close()
}
