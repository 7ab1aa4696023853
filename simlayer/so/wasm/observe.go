package wasm

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/http-wasm/http-wasm-host-go/api/handler"

	"moult/simlayer/so"
)

// HandleObserved is the export of guests that observe: see the package's doc.
const HandleObserved = "handle_observed"

// Kinds of event, as guests know them.
var observedKinds = map[string]uint64{so.ObservedBegin: 0, so.ObservedCall: 1, so.ObservedMissed: 2}

var _ so.Observer = (*Object)(nil)

// Observe implements so.Observer. An event counts as taken in when the guest
// returns without having denied it.
func (o *Object) Observe(ctx context.Context, event *so.Observed, next http.RoundTripper) error {
	kind, known := observedKinds[event.Event]
	if !o.config.Observe || !known {
		return so.Fail(http.StatusNotImplemented, nil, "%s cannot be told of the event %.40q", o.name(), event.Event)
	}
	c := newObserved(ctx, o, event, next)
	in, err := o.acquire(ctx)
	if err != nil {
		return err
	}
	in.begin(c)
	c.features = in.features | handler.FeatureBufferResponse
	err = in.handleObserved(kind)
	if err == nil {
		err = c.verdict()
	}
	c.closeHandles()
	in.end()
	o.release(in)
	return err
}

// newObserved makes of an event what a guest sees of a call that was answered.
func newObserved(ctx context.Context, o *Object, event *so.Observed, next http.RoundTripper) *call {
	path, query, asked := strings.Cut(event.URI, "?")
	u, err := url.ParseRequestURI(event.URI)
	if err != nil {
		u = &url.URL{Path: path, RawQuery: query, ForceQuery: asked}
	}
	r := (&http.Request{
		Method: event.Method, URL: u, Host: event.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: headerOf(event.Request), Body: http.NoBody,
	}).WithContext(ctx)
	c := newCall(o, r, next)
	c.observed = event
	c.request = message{header: r.Header, owned: true, loaded: true, data: event.Request.Body, trailer: event.Request.Trailer}
	c.came = &http.Response{StatusCode: event.Status, Header: headerOf(event.Response), Request: r, Body: http.NoBody}
	c.response = message{header: c.came.Header, owned: true, loaded: true, data: event.Response.Body, trailer: event.Response.Trailer}
	c.after = true
	return c
}

func headerOf(m so.ObservedMessage) http.Header {
	if m.Header == nil {
		return http.Header{}
	}
	return m.Header
}

func (in *instance) handleObserved(kind uint64) error {
	in.stack[0] = kind
	err := in.timed(func() error { return in.onObserved.CallWithStack(in.ctx, in.stack[:]) })
	if err != nil {
		return in.failed(err)
	}
	return nil
}

// observedFunctions are those of the module moult that are about an event.
var observedFunctions = []hostFunction{
	{name: "observed_number", results: "I", run: func(in *instance, s []uint64) { s[0] = in.call.event().Number }},
	{name: "observed_missed", results: "I", run: func(in *instance, s []uint64) { s[0] = in.call.event().Missed }},
	{name: "observed_truncated", results: "i", run: func(in *instance, s []uint64) {
		s[0] = 0
		for bit, m := range []so.ObservedMessage{in.call.event().Request, in.call.event().Response} {
			if m.Truncated {
				s[0] |= 1 << bit
			}
		}
	}},
	{name: "observed_service", params: "ii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = put(in, s[0], s[1], in.call.event().Service)
	}},
	{name: "observed_why", params: "ii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = put(in, s[0], s[1], in.call.event().Why)
	}},
}

// event returns what the guest is being told of. It ends a guest that is not.
func (c *call) event() *so.Observed {
	if c.observed == nil {
		misuse("the guest asks for an event outside of %s", HandleObserved)
	}
	return c.observed
}
