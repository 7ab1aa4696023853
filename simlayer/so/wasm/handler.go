package wasm

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"

	hostapi "github.com/http-wasm/http-wasm-host-go/api"
	"github.com/http-wasm/http-wasm-host-go/api/handler"
)

// supported are the features of http-wasm that there are here.
const supported = handler.FeatureBufferRequest | handler.FeatureBufferResponse | handler.FeatureTrailers

// handlerModule is the host side of http-wasm's handler ABI.
var handlerModule = hostModule{handler.HostModule, []hostFunction{
	{name: handler.FuncEnableFeatures, params: "i", results: "i", anytime: true, run: enableFeatures},
	{name: handler.FuncGetConfig, params: "ii", results: "i", anytime: true, run: func(in *instance, s []uint64) {
		s[0] = put(in, s[0], s[1], in.o.config.Guest)
	}},
	{name: handler.FuncLogEnabled, params: "i", results: "i", anytime: true, run: logEnabled},
	{name: handler.FuncLog, params: "iii", anytime: true, run: logLine},
	{name: handler.FuncGetMethod, params: "ii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = put(in, s[0], s[1], in.call.sentMethod())
	}},
	{name: handler.FuncSetMethod, params: "ii", run: func(in *instance, s []uint64) {
		in.call.beforeNext("set the method")
		in.call.method = method(in, s[0], s[1])
	}},
	{name: handler.FuncGetURI, params: "ii", results: "i", run: getURI},
	{name: handler.FuncSetURI, params: "ii", run: func(in *instance, s []uint64) {
		in.call.beforeNext("set the URI")
		in.call.uri = uri(in, s[0], s[1])
	}},
	{name: handler.FuncGetProtocolVersion, params: "ii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = put(in, s[0], s[1], in.call.req.Proto)
	}},
	{name: handler.FuncGetHeaderNames, params: "iii", results: "I", run: getHeaderNames},
	{name: handler.FuncGetHeaderValues, params: "iiiii", results: "I", run: getHeaderValues},
	{name: handler.FuncSetHeaderValue, params: "iiiii", run: func(in *instance, s []uint64) { changeHeader(in, s, false) }},
	{name: handler.FuncAddHeaderValue, params: "iiiii", run: func(in *instance, s []uint64) { changeHeader(in, s, true) }},
	{name: handler.FuncRemoveHeader, params: "iii", run: func(in *instance, s []uint64) {
		in.call.mutable(handler.HeaderKind(s[0])).Del(in.text(s[1], s[2]))
	}},
	{name: handler.FuncReadBody, params: "iii", results: "I", run: readBody},
	{name: handler.FuncWriteBody, params: "iii", run: writeBody},
	{name: handler.FuncGetStatusCode, results: "i", run: getStatus},
	{name: handler.FuncSetStatusCode, params: "i", run: setStatusCode},
	{name: handler.FuncGetSourceAddr, params: "ii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = put(in, s[0], s[1], in.call.req.RemoteAddr)
	}},
}}

func enableFeatures(in *instance, s []uint64) {
	want := handler.Features(s[0]) & supported
	if in.call == nil {
		in.features |= want
		s[0] = uint64(in.features)
		return
	}
	in.call.features |= want
	s[0] = uint64(in.call.features)
}

// level returns the level of a log line.
func level(n uint64) (slog.Level, bool) {
	switch hostapi.LogLevel(int32(n)) {
	case hostapi.LogLevelDebug:
		return slog.LevelDebug, true
	case hostapi.LogLevelInfo:
		return slog.LevelInfo, true
	case hostapi.LogLevelWarn:
		return slog.LevelWarn, true
	case hostapi.LogLevelError:
		return slog.LevelError, true
	}
	return 0, false
}

func logEnabled(in *instance, s []uint64) {
	l, ok := level(s[0])
	s[0] = 0
	if ok && in.o.config.Log.Enabled(context.Background(), l) {
		s[0] = 1
	}
}

func logLine(in *instance, s []uint64) {
	l, ok := level(s[0])
	text := in.bytes(s[1], s[2])
	if ok && in.mayLog() {
		in.o.config.Log.Log(context.Background(), l, "wasmGuestLog", "object", in.o.name(), "line", string(text[:min(len(text), MaxLogLine)]))
	}
}

// beforeNext ends a guest that changes the request when it has been sent.
func (c *call) beforeNext(what string) {
	if c.after {
		misuse("the guest wants to %s when the call has been sent on", what)
	}
}

// buffered ends a guest that uses the response of next without having asked for it.
func (c *call) buffered(what string) {
	if c.after && !c.features.IsEnabled(handler.FeatureBufferResponse) {
		misuse("the guest wants to %s without the feature buffer_response", what)
	}
}

func method(in *instance, at, n uint64) string {
	m := in.text(at, n)
	if !validName(m) || len(m) > 64 {
		misuse("the guest uses the method %.40q", m)
	}
	return m
}

// uri reads the path and query of a call; empty is "/".
func uri(in *instance, at, n uint64) *url.URL {
	if uint32(n) > MaxURI {
		misuse("the guest uses a URI of %d bytes, at most %d", uint32(n), MaxURI)
	}
	text := in.text(at, n)
	if text == "" {
		text = "/"
	}
	u, err := url.ParseRequestURI(text)
	if err != nil || u.Host != "" || u.Scheme != "" {
		misuse("the guest uses the URI %.80q: want a path, and maybe a query", text)
	}
	return u
}

func getURI(in *instance, s []uint64) {
	u := in.call.uri
	if u == nil {
		u = in.call.req.URL
	}
	text := u.EscapedPath()
	if text == "" {
		text = "/"
	}
	if u.ForceQuery || u.RawQuery != "" {
		text += "?" + u.RawQuery
	}
	s[0] = put(in, s[0], s[1], text)
}

// headers returns the headers of a kind, to be read.
func (c *call) headers(kind handler.HeaderKind) http.Header {
	switch kind {
	case handler.HeaderKindRequest:
		return c.request.header
	case handler.HeaderKindResponse:
		return c.response.header
	case handler.HeaderKindRequestTrailers:
		c.loadRequest()
		return c.request.trailer
	case handler.HeaderKindResponseTrailers:
		if c.after {
			c.buffered("read trailers")
			c.loadResponse(&c.response, c.came)
		}
		return c.response.trailer
	}
	misuse("there are no headers of kind %d", kind)
	return nil
}

// mutable returns the headers of a kind, to be changed.
func (c *call) mutable(kind handler.HeaderKind) http.Header {
	h := c.headers(kind)
	switch kind {
	case handler.HeaderKindRequest:
		c.beforeNext("change headers")
		return c.request.own()
	case handler.HeaderKindResponse:
		c.buffered("change headers")
		return c.response.own()
	case handler.HeaderKindRequestTrailers:
		c.beforeNext("change trailers")
		c.request.trailer = ownTrailer(&c.request, h)
		return c.request.trailer
	}
	c.response.trailer = ownTrailer(&c.response, h)
	return c.response.trailer
}

func ownTrailer(m *message, h http.Header) http.Header {
	if m.trailerChanged {
		return h
	}
	m.trailerChanged, m.changed = true, true
	if h = h.Clone(); h == nil {
		h = http.Header{}
	}
	return h
}

func getHeaderNames(in *instance, s []uint64) {
	kind := handler.HeaderKind(s[0])
	h := in.call.headers(kind)
	var list []string
	if kind == handler.HeaderKindRequest && in.call.req.Host != "" {
		list = names(h, "host")
	} else {
		list = names(h)
	}
	s[0] = putList(in, s[1], s[2], list)
}

func getHeaderValues(in *instance, s []uint64) {
	kind := handler.HeaderKind(s[0])
	h := in.call.headers(kind)
	name := http.CanonicalHeaderKey(in.text(s[1], s[2]))
	values := h[name]
	if kind == handler.HeaderKindRequest && name == "Host" {
		values = []string{in.call.req.Host}
		if in.call.host != "" {
			values = []string{in.call.host}
		}
	}
	s[0] = putList(in, s[3], s[4], values)
}

func changeHeader(in *instance, s []uint64, add bool) {
	kind := handler.HeaderKind(s[0])
	h := in.call.mutable(kind)
	name, value := in.text(s[1], s[2]), in.text(s[3], s[4])
	if kind == handler.HeaderKindRequest && http.CanonicalHeaderKey(name) == "Host" {
		if !slices.ContainsFunc([]byte(value), func(b byte) bool { return b <= ' ' || b == '/' || b >= 0x7f }) {
			in.call.host = value
			return
		}
		misuse("the guest sets the host %.40q", value)
	}
	setHeader(in, h, name, value, add)
}

func readBody(in *instance, s []uint64) {
	c := in.call
	switch handler.BodyKind(s[0]) {
	case handler.BodyKindRequest:
		c.loadRequest()
		s[0] = c.request.read(in, s[1], s[2])
	case handler.BodyKindResponse:
		c.buffered("read the response's body")
		c.loadResponse(&c.response, c.came)
		s[0] = c.response.read(in, s[1], s[2])
	default:
		misuse("there is no body of kind %d", uint32(s[0]))
	}
}

func writeBody(in *instance, s []uint64) {
	c := in.call
	switch handler.BodyKind(s[0]) {
	case handler.BodyKindRequest:
		c.beforeNext("write the request's body")
		c.request.write(in, in.bytes(s[1], s[2]))
	case handler.BodyKindResponse:
		c.buffered("write the response's body")
		c.response.write(in, in.bytes(s[1], s[2]))
	default:
		misuse("there is no body of kind %d", uint32(s[0]))
	}
}

func getStatus(in *instance, s []uint64) {
	c := in.call
	switch {
	case c.status != 0:
		s[0] = uint64(c.status)
	case c.came != nil:
		s[0] = uint64(c.came.StatusCode)
	default:
		s[0] = http.StatusOK
	}
}

func setStatusCode(in *instance, s []uint64) {
	in.call.buffered("set the status")
	status := uint32(s[0])
	if status < 200 || status > 599 {
		misuse("the guest sets the status %d, want 200 to 599", status)
	}
	in.call.status = int(status)
}
