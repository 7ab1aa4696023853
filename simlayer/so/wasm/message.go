package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// message is one side of an exchange, as guests see it: headers, a body that is
// read when somebody asks for it, and trailers.
type message struct {
	header http.Header
	owned  bool // header is not somebody else's
	// source is the body as it came, until it is read into data.
	source io.ReadCloser
	length int64 // of source, below zero if it is not known
	loaded bool
	data   []byte
	pos    int // what the guest has read of data
	// written says that the guest has made a body of its own.
	written bool
	out     []byte
	// trailer is what follows the body; those of source are there when it is read.
	trailer        http.Header
	trailerChanged bool
	changed        bool
}

// own makes the headers the message's own.
func (m *message) own() http.Header {
	m.changed = true
	if !m.owned {
		m.header, m.owned = m.header.Clone(), true
		if m.header == nil {
			m.header = http.Header{}
		}
	}
	return m.header
}

// body returns the body that goes on: what the guest wrote or what it read.
func (m *message) body() []byte {
	if m.written {
		return m.out
	}
	return m.data
}

var errTooLarge = errors.New("too large")

// load reads the whole body, at most limit bytes; what was read is not lost when
// it is larger.
func (m *message) load(limit int) error {
	if m.loaded || m.source == nil {
		m.loaded = true
		return nil
	}
	data, err := m.readAll(limit)
	if err == nil && len(data) > limit {
		err = errTooLarge
	}
	if err != nil {
		rest := m.source
		m.source = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(data), rest), rest}
		return err
	}
	m.loaded, m.data = true, data
	return m.source.Close()
}

// readAll reads at most one byte more than limit.
func (m *message) readAll(limit int) ([]byte, error) {
	if m.length <= 0 || m.length > int64(limit) {
		return io.ReadAll(io.LimitReader(m.source, int64(limit)+1))
	}
	// One byte more, so that the end is found, or a length that is wrong.
	buf := make([]byte, m.length+1)
	n, err := io.ReadFull(m.source, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		if int64(n) < m.length {
			return buf[:n], io.ErrUnexpectedEOF
		}
		return buf[:n], nil
	}
	if err == nil {
		err = fmt.Errorf("it is longer than the %d bytes that it says", m.length)
	}
	return buf[:n], err
}

// loadWithin is load for as long as ctx lasts. After an error of ctx the message
// must not be used again: the reading goes on until the body is closed.
func (m *message) loadWithin(ctx context.Context, limit int) error {
	done := make(chan error, 1)
	go func() { done <- m.load(limit) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read gives the guest the next part of the body, in the terms of the ABI.
func (m *message) read(in *instance, buf, limit uint64) uint64 {
	if uint32(limit) == 0 {
		misuse("a body is read into 0 bytes")
	}
	n := copy(in.bytes(buf, limit), m.data[m.pos:])
	m.pos += n
	out := uint64(n)
	if m.pos == len(m.data) {
		out |= 1 << 32
	}
	return out
}

// write appends to the body that the guest makes.
func (m *message) write(in *instance, p []byte) {
	if len(m.out)+len(p) > in.o.config.Limits.Body {
		misuse("the guest writes a body of more than %d bytes", in.o.config.Limits.Body)
	}
	m.written, m.changed = true, true
	m.out = append(m.out, p...)
}

// setHeader sets or adds a header that a guest names.
func setHeader(in *instance, h http.Header, name, value string, add bool) {
	if !validName(name) {
		misuse("the guest sets a header %.40q, which is not a name", name)
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		misuse("the guest sets the header %s to a value with a line end or NUL in it", name)
	}
	if in.call.headerBytes += len(name) + len(value); in.call.headerBytes > MaxHeaderBytes {
		misuse("the guest sets more than %d bytes of headers", MaxHeaderBytes)
	}
	if add {
		h.Add(name, value)
	} else {
		h.Set(name, value)
	}
}

// validName says whether s is a token (RFC 9110, 5.6.2).
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// names returns the names in h, in lower case and in order.
func names(h http.Header, more ...string) []string {
	out := slices.Clone(more)
	for name := range h {
		out = append(out, strings.ToLower(name))
	}
	slices.Sort(out)
	return out
}

// hopByHop are the headers of one connection (RFC 9110, 7.6.1).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// endToEnd removes from h what belongs to one connection.
func endToEnd(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// setRequestBody gives r a body and trailers of its own.
func setRequestBody(r *http.Request, data []byte, trailer http.Header) {
	r.TransferEncoding, r.Trailer = nil, nil
	r.Header.Del("Content-Length")
	r.Header.Del("Expect")
	r.ContentLength = int64(len(data))
	r.Body, r.GetBody = http.NoBody, nil
	if len(data) > 0 || len(trailer) > 0 {
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		r.Body, _ = r.GetBody()
	}
	if len(trailer) > 0 {
		r.ContentLength, r.Trailer = -1, trailer
	}
}

// setResponseBody gives resp a body and trailers of its own, as far as the method
// and the status have any.
func setResponseBody(resp *http.Response, method string, data []byte, trailer http.Header) {
	resp.TransferEncoding, resp.Trailer, resp.Uncompressed = nil, nil, false
	resp.Header.Del("Content-Length")
	resp.ContentLength = int64(len(data))
	if s := resp.StatusCode; s == http.StatusNoContent || s == http.StatusNotModified {
		data, trailer, resp.ContentLength = nil, nil, 0
	} else if len(trailer) > 0 {
		resp.ContentLength, resp.Trailer = -1, trailer
	} else {
		resp.Header.Set("Content-Length", strconv.Itoa(len(data)))
	}
	if method == http.MethodHead {
		data = nil
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
}

func setStatus(resp *http.Response, status int) {
	resp.StatusCode = status
	resp.Status = fmt.Sprintf("%d %s", status, http.StatusText(status))
}
