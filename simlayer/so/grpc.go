package so

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// gRPC's statuses that refusals become.
const (
	grpcUnknown            = 2
	grpcInvalidArgument    = 3
	grpcDeadlineExceeded   = 4
	grpcNotFound           = 5
	grpcPermissionDenied   = 7
	grpcFailedPrecondition = 9
	grpcAborted            = 10
	grpcUnimplemented      = 12
	grpcInternal           = 13
	grpcUnavailable        = 14
	grpcUnauthenticated    = 16
)

// grpcStatuses are for statuses of HTTP that have one of their own.
var grpcStatuses = map[int]int{
	http.StatusBadRequest: grpcInvalidArgument, http.StatusUnauthorized: grpcUnauthenticated,
	http.StatusForbidden: grpcPermissionDenied, http.StatusNotFound: grpcNotFound,
	http.StatusConflict: grpcAborted, http.StatusPreconditionFailed: grpcFailedPrecondition,
	http.StatusTooManyRequests: grpcUnavailable, http.StatusServiceUnavailable: grpcUnavailable,
	http.StatusGatewayTimeout: grpcDeadlineExceeded,
}

// grpcStatus is the status for a caller by gRPC.
func (r *Refusal) grpcStatus() int {
	status, own := grpcStatuses[r.Status]
	switch {
	case own:
		return status
	case r.Denied, r.Status == http.StatusNotImplemented:
		return grpcUnimplemented
	case r.Status >= 500:
		return grpcInternal
	}
	return grpcUnknown
}

// grpcType returns the content type of a call by gRPC, or "".
func grpcType(req *http.Request) string {
	if req == nil {
		return ""
	}
	full := req.Header.Get("Content-Type")
	kind, _, _ := strings.Cut(full, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+") || strings.HasPrefix(kind, "application/grpc-") {
		return full
	}
	return ""
}

// grpcMessage encodes a reason for the header grpc-message: all bytes but the
// printable ones of ASCII, and the percent sign, become %XX.
func grpcMessage(reason string) string {
	var b strings.Builder
	for i := range len(reason) {
		if c := reason[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// grpcHeader is the whole of a response by gRPC that has trailers only.
func (r *Refusal) grpcHeader(contentType string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", contentType)
	h.Set("Grpc-Status", strconv.Itoa(r.grpcStatus()))
	h.Set("Grpc-Message", grpcMessage(r.Reason))
	h.Set(RefusalHeader, r.word())
	if r.RetryAfter > 0 {
		h.Set("Grpc-Retry-Pushback-Ms", strconv.FormatInt(r.RetryAfter.Milliseconds(), 10))
	}
	return h
}

// form returns the refusal in the terms of req's protocol; req may be nil.
func (r *Refusal) form(req *http.Request) (status int, h http.Header, body []byte) {
	if contentType := grpcType(req); contentType != "" {
		return http.StatusOK, r.grpcHeader(contentType), nil
	}
	if r.shaper != nil {
		r = r.shaper.shaped(r)
	}
	return r.Status, r.header(), r.body()
}

// WriteTo answers the call req with the refusal, in the terms of its protocol: for
// gRPC a response of trailers only, otherwise status and JSON. req may be nil.
func (r *Refusal) WriteTo(w http.ResponseWriter, req *http.Request) {
	status, h, body := r.form(req)
	for name, values := range h {
		w.Header()[name] = values
	}
	if body != nil {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	// A caller that has gone away needs no answer.
	_, _ = w.Write(body)
}

// Response returns the refusal as the response to req, in the terms of its
// protocol: see WriteTo. req may be nil.
func (r *Refusal) Response(req *http.Request) *http.Response {
	status, h, body := r.form(req)
	resp := &http.Response{
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        h,
		Body:          http.NoBody,
		ContentLength: int64(len(body)),
		Request:       req,
	}
	setStatus(resp, status)
	if body != nil {
		resp.Body = io.NopCloser(strings.NewReader(string(body)))
	}
	return resp
}
