package so

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"

	"moult/store/bundle"
)

// RefusalHeader tells refusals from the answers of node software. Its value is
// RefusalDenied where an author decided that the call cannot be simulated, and
// RefusalError where it failed.
const (
	RefusalHeader = "Moult-Refusal"
	RefusalDenied = "denied"
	RefusalError  = "error"
)

// Refusal says why a call is not answered. It travels as an error and becomes a
// response where the caller is.
type Refusal struct {
	Status int    // of HTTP
	Denied bool   // by an author's word, as opposed to failed
	Reason string // for the caller
	// From is the caller's version and To the node's; 0 where not known.
	From, To bundle.Version
	// RetryAfter is when to try again; 0 where it would not help.
	RetryAfter time.Duration
	// Header is said beside moult's own headers, or in their place, and Body, if not
	// nil, in place of its own: the author's form.
	Header http.Header
	Body   []byte
	shaper *Rules // says the form, if Header and Body do not; nil: nobody does
	// Err is what made the call fail, for logs; nil where Reason says it all.
	Err error
}

// Deny returns a refusal by an author's word. Status 0 is 501.
func Deny(status int, reason string) *Refusal {
	if status == 0 {
		status = http.StatusNotImplemented
	}
	return &Refusal{Status: status, Denied: true, Reason: reason}
}

// Fail returns a refusal of a call that failed because of err, which may be nil.
func Fail(status int, err error, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Reason: fmt.Sprintf(format, args...), Err: err}
}

func (r *Refusal) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("%s (%d): %s: %v", r.word(), r.Status, r.Reason, r.Err)
	}
	return fmt.Sprintf("%s (%d): %s", r.word(), r.Status, r.Reason)
}

// word is the value of RefusalHeader.
func (r *Refusal) word() string {
	if r.Denied {
		return RefusalDenied
	}
	return RefusalError
}

func (r *Refusal) Unwrap() error { return r.Err }

// AsRefusal returns the refusal in err. Any other error becomes one of status
// 502.
func AsRefusal(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return Fail(http.StatusBadGateway, err, "the call to the node failed: %v", err)
}

// refusalBody is the JSON that a refused caller gets.
type refusalBody struct {
	Error string        `json:"error"`
	Moult refusalDetail `json:"moult"`
}

type refusalDetail struct {
	Denied bool           `json:"denied"`
	From   bundle.Version `json:"from"`
	To     bundle.Version `json:"to"`
}

func (r *Refusal) header() http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set(RefusalHeader, r.word())
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(r.RetryAfter.Seconds()))))
	}
	maps.Copy(h, r.Header)
	return h
}

func (r *Refusal) body() []byte {
	if r.Body != nil {
		return r.Body
	}
	// Marshalling two fixed structs cannot fail.
	data, _ := json.Marshal(refusalBody{
		Error: r.Reason,
		Moult: refusalDetail{Denied: r.Denied, From: r.From, To: r.To},
	})
	return append(data, '\n')
}

// Write answers a call over plain HTTP with the refusal. See WriteTo.
func (r *Refusal) Write(w http.ResponseWriter) { r.WriteTo(w, nil) }
