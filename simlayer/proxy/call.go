package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"moult/simlayer/so"
)

// Call is what a Proxy knows of one call on its way.
type Call struct {
	HTTP2 bool // the caller speaks it
	Hops  int  // behind it: see so.Hop

	body callerBody
	// unsafe: a request that must not be sent twice may have reached who is next.
	unsafe atomic.Bool
}

// Begin is the Call that a request begins.
func (c *Call) Begin(r *http.Request) {
	c.HTTP2, c.Hops = r.ProtoMajor == 2, so.Hops(r.Header)
}

// carried is what embeds a Call.
type carried interface{ common() *Call }

func (c *Call) common() *Call { return c }

type callKey struct{}

// Of returns what Serve was given for the call whose context it is.
func Of[C carried](ctx context.Context) C { return ctx.Value(callKey{}).(C) }

func of(ctx context.Context) *Call { return Of[carried](ctx).common() }

// Renew gives a try of the call its body.
func (c *Call) Renew(r *http.Request) { c.body.renew(r) }

// Sent notes what came of a request of the call; err is nil where it was answered.
func (c *Call) Sent(method string, err error) {
	if !Safe(method) && !IsDialError(err) {
		c.unsafe.Store(true)
	}
}

// Again reports whether the call may be sent again after it has failed with err.
func (c *Call) Again(ctx context.Context, err error) bool {
	var refusal *so.Refusal
	return !errors.As(err, &refusal) && ctx.Err() == nil && !c.unsafe.Load() && c.body.whole()
}

// Explain makes the failure of the call a refusal; see there.
func (c *Call) Explain(whom string, err error) error { return Explain(whom, c.unsafe.Load(), err) }

// Explain makes err, with which a call of whom has failed, a refusal: one that says
// so where whom may have carried it out, and must not twice. What is a refusal
// already stays what it is.
func Explain(whom string, unsafe bool, err error) error {
	var refusal *so.Refusal
	switch {
	case errors.As(err, &refusal):
		return err
	case unsafe:
		return so.Fail(http.StatusBadGateway, err, "%s went away before it answered; whether it has carried out the call is not known: %v", whom, err)
	}
	return so.AsRefusal(err)
}

// closeAfter makes an answer the last of its connection where the caller still
// sends the body: net/http would throw the rest away with nobody to stop what begins
// to watch the caller at its end, and panic when that gets in the way of the next
// call.
func (c *Call) closeAfter(h http.Header) {
	if !c.HTTP2 && c.body.lingers() {
		h.Set("Connection", "close")
	}
}

// Safe reports whether a method may be sent again when nobody knows whether it
// was carried out (RFC 9110, 9.2.1).
func Safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
