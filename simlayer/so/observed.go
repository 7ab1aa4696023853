package so

import (
	"context"
	"net/http"
)

// Events of which an object is told that observes the calls of the version next to
// its own.
const (
	// ObservedBegin says that from here on the object is told of every call.
	ObservedBegin = "begin"
	// ObservedCall is one call, and how it was answered.
	ObservedCall = "call"
	// ObservedMissed says that there were, or may have been, calls of which the
	// object is not told. It cannot rely on what it was told before, until it has
	// found out otherwise how things stand after the next ObservedBegin.
	ObservedMissed = "missed"
)

// Observed is one event. As JSON it is the body of a POST to the object's own
// address, at a path that only the agent and the object know.
type Observed struct {
	Event string `json:"event"`
	// Number rises from event to event while one agent runs. An event with the
	// number of the one before is that one again: whether the object had taken it
	// in was not known.
	Number uint64 `json:"number"`

	// Missed is the number of calls that ObservedMissed is about, as far as it is
	// known, and Why how it came to that.
	Missed uint64 `json:"missed,omitempty"`
	Why    string `json:"why,omitempty"`

	// The rest is for ObservedCall. URI is path and query.
	Service string          `json:"service,omitempty"`
	Method  string          `json:"method,omitempty"`
	URI     string          `json:"uri,omitempty"`
	Host    string          `json:"host,omitempty"`
	Request ObservedMessage `json:"request,omitzero"`
	// Status is that of the answer; 0 where none came. Then whether the node has
	// carried out the call is not known to anybody.
	Status   int             `json:"status,omitempty"`
	Response ObservedMessage `json:"response,omitzero"`
}

// ObservedMessage is one side of a call.
type ObservedMessage struct {
	Header http.Header `json:"header,omitempty"`
	// Body is in base64 where it is JSON.
	Body []byte `json:"body,omitempty"`
	// Truncated says that there was more of it, or may have been.
	Truncated bool        `json:"truncated,omitempty"`
	Trailer   http.Header `json:"trailer,omitempty"`
}

// Observer is an Object that can be told of calls.
type Observer interface {
	Object
	// Observe takes in one event. Events come one after the other, in the order of
	// the answers. next is for calls that the object makes because of it. An error
	// means that the event was not taken in; the object is then told that it has
	// missed a call.
	Observe(ctx context.Context, event *Observed, next http.RoundTripper) error
}
