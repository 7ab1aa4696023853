package so

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"moult/simlayer/so/jq"
)

// body is a body that was read whole, as bytes and as the JSON value in it. The
// zero body is null.
type body struct {
	jq.Document
	read   bool
	data   []byte
	parsed bool // its JSON was read, or found to be none
}

// formType is the type of a body that is written like a query.
const formType = "application/x-www-form-urlencoded"

// isForm reports whether a request has such a body.
func isForm(r *http.Request) bool {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), formType)
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
	data, err := readBounded(r.Body, r.ContentLength)
	switch {
	case errors.Is(err, errTooLarge):
		return Fail(http.StatusRequestEntityTooLarge, nil, "the call cannot be translated: its body is over %d bytes", MaxBody)
	case err != nil && r.Context().Err() != nil:
		return r.Context().Err()
	case err != nil:
		return Fail(http.StatusBadRequest, err, "the body of the call cannot be read: %v", err)
	}
	b.read, b.data = true, data
	return nil
}

// parse reads the JSON in the caller's body.
func (b *body) parse(memory *jq.Memory) error {
	if b.parsed {
		return nil
	}
	b.parsed = true
	if err := b.Read(b.data, memory); err != nil {
		return Fail(http.StatusBadRequest, err, "the call cannot be translated: its body is not JSON: %v", err)
	}
	return nil
}

// readResponse reads the body of r, which then has it in memory.
func (b *body) readResponse(r *http.Response, memory *jq.Memory) error {
	if e := encoding(r.Header); e != "" {
		return Fail(http.StatusBadGateway, nil, "the answer cannot be translated: the node sent Content-Encoding %.40q without being asked", e)
	}
	data, err := readBounded(r.Body, r.ContentLength)
	switch {
	case errors.Is(err, errTooLarge):
		return Fail(http.StatusBadGateway, nil, "the answer cannot be translated: its body is over %d bytes", MaxBody)
	case err != nil:
		return fmt.Errorf("read the node's answer: %w", err)
	}
	b.read, b.data = true, data
	if _, ok := r.Body.(InMemory); !ok {
		r.Body.Close()
		r.Body = newMemory(data)
	}
	if err = b.Read(data, memory); err != nil {
		return Fail(http.StatusBadGateway, err, "the answer cannot be translated: its body is not JSON: %v", err)
	}
	return nil
}

var errTooLarge = errors.New("too large")

// readBounded reads a body that says that it has length bytes, or -1. What it
// says is believed only so far.
func readBounded(r io.Reader, length int64) ([]byte, error) {
	if length > MaxBody {
		return nil, errTooLarge
	}
	if m, ok := r.(InMemory); ok {
		if data, whole := m.Rest(); whole && len(data) <= MaxBody {
			return data, nil
		}
	}
	data := make([]byte, 0, max(512, min(length+1, believedLength)))
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case len(data) > MaxBody:
			return nil, errTooLarge
		case err == io.EOF:
			return data, nil
		case err != nil:
			return data, err
		case len(data) == cap(data):
			data = append(data, 0)[:len(data)]
		}
	}
}

// InMemory is a body that is in memory, and need not be copied. Rest returns what
// is left of it without reading it; that does not change as long as the body's
// message is in use. whole is false where the body breaks off after it.
type InMemory interface {
	Rest() (data []byte, whole bool)
}

// memory is a body in memory.
type memory struct {
	bytes.Reader
	data []byte
}

func newMemory(data []byte) *memory {
	m := &memory{data: data}
	m.Reset(data)
	return m
}

// Rest implements InMemory.
func (m *memory) Rest() ([]byte, bool) { return m.data[len(m.data)-m.Len():], true }

// Close implements io.Closer.
func (*memory) Close() error { return nil }

func encoding(h http.Header) string {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return e
	}
	return ""
}

// restoreRequestBody gives r the bytes that were read from it.
func restoreRequestBody(r *http.Request, data []byte) {
	r.ContentLength = int64(len(data))
	r.TransferEncoding = nil
	if len(data) == 0 {
		r.Body, r.GetBody = http.NoBody, nil
		return
	}
	r.GetBody = func() (io.ReadCloser, error) { return newMemory(data), nil }
	r.Body, _ = r.GetBody()
}

// setRequestBody gives r a body of its own.
func setRequestBody(r *http.Request, data []byte) {
	restoreRequestBody(r, data)
	r.Trailer = nil
	delete(r.Header, "Expect")
}

// setResponseBody gives resp, which answers a request of a method, a body of its own,
// or none where it has none. What a HEAD says of the body that a GET would get is left
// open: the body was made without the node's. The old body is not closed.
func setResponseBody(resp *http.Response, method string, data []byte, contentType string) {
	resp.TransferEncoding, resp.Trailer, resp.Uncompressed = nil, nil, false
	allowed := bodyAllowed(resp.StatusCode)
	if !allowed {
		data = nil
	}
	describeBody(resp.Header, len(data), contentType)
	if tag := resp.Header.Get("Etag"); strings.HasPrefix(tag, `"`) {
		resp.Header["Etag"] = []string{"W/" + tag} // it is strong for the old bytes only
	}
	switch {
	case allowed && method == http.MethodHead:
		resp.Body, resp.ContentLength = http.NoBody, -1
		return
	case allowed, resp.StatusCode == http.StatusResetContent:
		resp.Header["Content-Length"] = []string{strconv.Itoa(len(data))}
	}
	resp.Body, resp.ContentLength = newMemory(data), int64(len(data))
}

// ofOldBody are headers about bytes that a rule has replaced, in the form of
// http.Header, as all of these lists.
var ofOldBody = []string{
	"Content-Length", "Content-Encoding", "Content-Md5", "Content-Digest", "Repr-Digest",
	"Digest", "Content-Range", "Accept-Ranges", "Content-Type",
}

// describeBody sets the headers about a body of n bytes that replaces another.
func describeBody(h http.Header, n int, contentType string) {
	without(h, ofOldBody)
	if n > 0 {
		h["Content-Type"] = []string{contentType}
	}
}

func setStatus(resp *http.Response, status int) {
	resp.StatusCode = status
	resp.Status = fmt.Sprintf("%d %s", status, http.StatusText(status))
}

// bodyAllowed reports whether an answer of a status may have a body (RFC 9110, 15.3.6,
// 15.4.5).
func bodyAllowed(status int) bool {
	switch status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
		return false
	}
	return status >= 200
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
	ofConnection(out)
	return out
}

// ofConnection removes the headers of one connection from h.
func ofConnection(h http.Header) {
	// gRPC's callers say that they take trailers, and its servers may ask for it.
	trailers := slices.ContainsFunc(h["Te"], takesTrailers)
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	without(h, hopByHop)
	if trailers {
		h.Set("Te", "trailers")
	}
}

func takesTrailers(te string) bool {
	for word := range strings.SplitSeq(te, ",") {
		if strings.EqualFold(strings.TrimSpace(word), "trailers") {
			return true
		}
	}
	return false
}

// ofOneCall are headers of a caller's call that do not go on with a step, beside
// those about its body: they are about what the caller gets.
var ofOneCall = []string{
	"Accept-Encoding", "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Expect",
}

// ofStep returns the headers of a step's request: the caller's, without what is
// about its own call.
func ofStep(h http.Header) http.Header {
	out := endToEnd(h)
	without(out, ofOldBody)
	without(out, ofOneCall)
	return out
}

// without removes headers by their names in h.
func without(h http.Header, names []string) {
	if len(h) < len(names) {
		for name := range h {
			if slices.Contains(names, name) {
				delete(h, name)
			}
		}
		return
	}
	for _, name := range names {
		delete(h, name)
	}
}
