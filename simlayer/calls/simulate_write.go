package calls

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"moult/simlayer/so"
)

// errField says that a request or a response cannot be written.
var errField = errors.New("it has a character that must not be there")

// appendRequest appends r as it goes to the node.
func appendRequest(b []byte, r *http.Request) ([]byte, error) {
	path := r.URL.Opaque
	if path == "" {
		if path = r.URL.EscapedPath(); path == "" {
			path = "/"
		}
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	b = append(append(append(b, method...), ' '), path...)
	if r.URL.ForceQuery || r.URL.RawQuery != "" {
		b = append(append(b, '?'), r.URL.RawQuery...)
	}
	if !visibleLine(b[len(method)+1:]) {
		return b, fmt.Errorf("the target of a request: %w", errField)
	}
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), r.Host...), "\r\n"...)
	length := r.ContentLength
	if r.Body == nil || r.Body == http.NoBody {
		length = 0
	}
	if length > 0 || length == 0 && (method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch) {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), length, 10), "\r\n"...)
	}
	b = appendFields(b, r.Header, func(name string, values []string) bool {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			return false
		case "User-Agent":
			return len(values) != 1 || values[0] != ""
		}
		return true
	})
	if b == nil {
		return nil, fmt.Errorf("a header of a request: %w", errField)
	}
	b = append(b, "\r\n"...)
	if length == 0 {
		return b, nil
	}
	return appendBody(b, r)
}

// appendBody appends the body of r, which says how long it is.
func appendBody(b []byte, r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > max(MaxReplay, so.MaxBody) {
		return b, fmt.Errorf("the body of a request says that it has %d bytes", r.ContentLength)
	}
	n := len(b)
	b = append(b, make([]byte, r.ContentLength)...)
	if _, err := io.ReadFull(r.Body, b[n:]); err != nil {
		return b, fmt.Errorf("the body of a request: %w", err)
	}
	return b, nil
}

// appendFields appends the fields of h for which is holds, or all. nil: one has a
// character that would end it.
func appendFields(b []byte, h http.Header, is func(name string, values []string) bool) []byte {
	for name, values := range h {
		if is != nil && !is(name, values) {
			continue
		}
		for _, value := range values {
			b = append(append(append(b, name...), ": "...), value...)
			if !cleanField(name) || !cleanField(value) {
				return nil
			}
			b = append(b, "\r\n"...)
		}
	}
	return b
}

// visibleLine reports whether nothing ends a target early.
func visibleLine(target []byte) bool {
	for _, one := range target {
		if one <= ' ' || one == 0x7f {
			return false
		}
	}
	return true
}

// cleanField reports whether a part of a field has no control characters.
func cleanField(text string) bool {
	for i := range len(text) {
		if one := text[i]; one < ' ' && one != '\t' || one == 0x7f {
			return false
		}
	}
	return true
}
