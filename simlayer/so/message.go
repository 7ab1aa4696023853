package so

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// body is a body that was read whole, as bytes and as the JSON value in it.
type body struct {
	read  bool
	data  []byte
	value any
}

// readRequest reads the caller's body.
func (b *body) readRequest(r *http.Request) error {
	if e := encoding(r.Header); e != "" {
		return Fail(http.StatusUnsupportedMediaType, nil, "the call cannot be translated: its body has Content-Encoding %.40q; send it plain", e)
	}
	if r.Body == nil {
		b.read = true
		return nil
	}
	data, err := readBounded(r.Body)
	switch {
	case errors.Is(err, errTooLarge):
		return Fail(http.StatusRequestEntityTooLarge, nil, "the call cannot be translated: its body is over %d bytes", MaxBody)
	case err != nil && r.Context().Err() != nil:
		return r.Context().Err()
	case err != nil:
		return Fail(http.StatusBadRequest, err, "the body of the call cannot be read: %v", err)
	}
	b.read, b.data = true, data
	if b.value, err = parseJSON(data); err != nil {
		return Fail(http.StatusBadRequest, err, "the call cannot be translated: its body is not JSON: %v", err)
	}
	return nil
}

// readResponse reads the body of r, which then has it in memory.
func (b *body) readResponse(r *http.Response) error {
	if e := encoding(r.Header); e != "" {
		return Fail(http.StatusBadGateway, nil, "the answer cannot be translated: the node sent Content-Encoding %.40q without being asked", e)
	}
	data, err := readBounded(r.Body)
	switch {
	case errors.Is(err, errTooLarge):
		return Fail(http.StatusBadGateway, nil, "the answer cannot be translated: its body is over %d bytes", MaxBody)
	case err != nil:
		return fmt.Errorf("read the node's answer: %w", err)
	}
	r.Body.Close()
	b.data = data
	r.Body = io.NopCloser(bytes.NewReader(data))
	if b.value, err = parseJSON(data); err != nil {
		return Fail(http.StatusBadGateway, err, "the answer cannot be translated: its body is not JSON: %v", err)
	}
	return nil
}

var errTooLarge = errors.New("too large")

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if err == nil && len(data) > MaxBody {
		err = errTooLarge
	}
	return data, err
}

func encoding(h http.Header) string {
	if e := h.Get("Content-Encoding"); !strings.EqualFold(e, "identity") {
		return e
	}
	return ""
}

// requestInput is what e sees over the request.
func (x *exchange) requestInput(e *expr) any {
	return x.requestView(e.body)
}

func (x *exchange) requestView(withBody bool) map[string]any {
	if x.input == nil {
		query := x.req.URL.Query()
		x.input = map[string]any{
			"method":    x.req.Method,
			"path":      x.req.URL.Path,
			"params":    orEmpty(x.params),
			"query":     firsts(query),
			"query_all": all(query),
			"headers":   headerView(x.req.Header),
		}
	}
	if !withBody {
		return x.input
	}
	view := make(map[string]any, len(x.input)+1)
	for name, v := range x.input {
		view[name] = v
	}
	view["body"] = x.body.value
	return view
}

// responseInput returns what expressions see over a response.
func (x *exchange) responseInput(resp *http.Response, b *body) func(*expr) any {
	headers := headerView(resp.Header)
	return func(e *expr) any {
		view := map[string]any{
			"status":  resp.StatusCode,
			"headers": headers,
			"request": x.requestView(e.callerBody),
		}
		if e.body {
			view["body"] = b.value
		}
		return view
	}
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

func firsts(query url.Values) map[string]any {
	out := make(map[string]any, len(query))
	for name, values := range query {
		out[name] = values[0]
	}
	return out
}

func all(query url.Values) map[string]any {
	out := make(map[string]any, len(query))
	for name, values := range query {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		out[name] = list
	}
	return out
}

func headerView(h http.Header) map[string]any {
	out := make(map[string]any, len(h))
	for name, values := range h {
		out[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return out
}

// unchanged returns the caller's request; its body is put back if it was read.
func (x *exchange) unchanged() *http.Request {
	if !x.body.read {
		return x.req
	}
	out := x.req.WithContext(x.req.Context())
	restoreRequestBody(out, x.body.data)
	return out
}

// restoreRequestBody gives r the bytes that were read from it.
func restoreRequestBody(r *http.Request, data []byte) {
	r.ContentLength = int64(len(data))
	r.TransferEncoding = nil
	if len(data) == 0 {
		r.Body, r.GetBody = http.NoBody, nil
		return
	}
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	r.Body, _ = r.GetBody()
}

// setRequestBody gives r a body of its own.
func setRequestBody(r *http.Request, data []byte) {
	restoreRequestBody(r, data)
	r.Trailer = nil
	r.Header.Del("Expect")
}

// setResponseBody gives resp a body of its own, or none where its status has
// none. The old body is not closed.
func setResponseBody(resp *http.Response, data []byte) {
	if !bodyAllowed(resp.StatusCode) {
		data = nil
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	resp.ContentLength = int64(len(data))
	resp.TransferEncoding, resp.Trailer, resp.Uncompressed = nil, nil, false
	describeBody(resp.Header, len(data))
	if bodyAllowed(resp.StatusCode) {
		resp.Header.Set("Content-Length", strconv.Itoa(len(data)))
	}
}

// ofOldBody are headers about bytes that a rule has replaced.
var ofOldBody = []string{
	"Content-Length", "Content-Encoding", "Content-Md5", "Content-Digest", "Repr-Digest",
	"Digest", "Content-Range", "Accept-Ranges", "Content-Type",
}

// describeBody sets the headers about a body of n bytes of JSON that replaces another.
func describeBody(h http.Header, n int) {
	for _, name := range ofOldBody {
		h.Del(name)
	}
	if n > 0 {
		h.Set("Content-Type", "application/json")
	}
}

func setStatus(resp *http.Response, status int) {
	resp.StatusCode = status
	resp.Status = fmt.Sprintf("%d %s", status, http.StatusText(status))
}

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// hopByHop are the headers of one connection (RFC 9110, 7.6.1).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// endToEnd returns a copy of h without the headers of one connection.
func endToEnd(h http.Header) http.Header {
	out := h.Clone()
	if out == nil {
		return http.Header{}
	}
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		out.Del(name)
	}
	return out
}
