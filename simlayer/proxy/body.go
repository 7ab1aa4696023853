package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"

	"moult/simlayer/so"
)

// callerBody is a caller's body.
type callerBody struct {
	data []byte    // of a short one
	in   io.Reader // of a long one

	mu     sync.Mutex
	used   bool // something was read from in
	closed bool
	ended  bool // all has been read from in
}

// take reads a short body of r, up to limit, or takes over a long one.
func (b *callerBody) take(w http.ResponseWriter, r *http.Request, limit int) error {
	switch {
	case r.ContentLength == 0 || r.Body == nil:
	case r.ContentLength > 0 && r.ContentLength <= int64(limit):
		b.data = make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, b.data); err != nil {
			return so.Fail(http.StatusBadRequest, err, "the body of the call cannot be read: %v", err)
		}
		r.Header.Del("Expect") // it was answered by reading
	default:
		b.in = r.Body
		// The answer may begin before the body has ended. HTTP/2 needs no asking.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	return nil
}

func (b *callerBody) renew(r *http.Request) {
	switch {
	case b.data != nil:
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.data)), nil }
		r.Body, _ = r.GetBody()
	case b.in != nil:
		r.Body = io.NopCloser(b)
	}
}

// whole reports whether the body can be sent from its start.
func (b *callerBody) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.used
}

// Read implements io.Reader for a long body. The lock is not held while it waits
// for the caller: a transport may go on reading for an instant after a call has
// ended, and must then not hinder end.
func (b *callerBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.used = true
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return 0, errors.New("the call has ended")
	}
	n, err := b.in.Read(p)
	if err == io.EOF {
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
	}
	return n, err
}

// lingers reports whether the caller still sends the body.
func (b *callerBody) lingers() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.in != nil && !b.ended
}

// end lets nothing more be read.
func (b *callerBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}
