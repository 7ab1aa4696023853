package so

import "net/http"

// Object answers the calls of one version by calls of a neighbouring version.
//
// Answer gets a call as its caller made it and returns the response for that
// caller. It makes calls by next, none, one or several; next's requests are its
// own, and so are the responses: it may change them, and closes the bodies of those
// that it does not return. The
// path, query, headers and body of a request to next count, and so does its
// context; scheme and host are next's affair. r is not changed.
//
// An error is a *Refusal, or a failure of next, which Answer returns as it came
// (wrapped at most): whoever called may be able to try the whole call again. An
// Object is safe for concurrent use.
type Object interface {
	Answer(r *http.Request, next http.RoundTripper) (*http.Response, error)
}

// Compatible returns the object for callers whose calls pass unchanged.
func Compatible() Object { return compatible{} }

type compatible struct{}

func (compatible) Answer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	return next.RoundTrip(r)
}

func (compatible) Bounded() bool { return true }

// Refuse returns the object that denies every call, for the author's reason.
func Refuse(reason string) Object { return refuse{reason} }

type refuse struct{ reason string }

func (o refuse) Answer(*http.Request, http.RoundTripper) (*http.Response, error) {
	return nil, Deny(0, o.reason)
}

func (refuse) Bounded() bool { return true }

// Transparent reports whether o changes nothing, so that any protocol may go
// past it. It is true of Compatible and of chains of nothing else.
func Transparent(o Object) bool {
	if c, ok := o.(*Chain); ok {
		return c.every(Transparent)
	}
	_, ok := o.(compatible)
	return ok
}

// Bounded reports whether o is made of Rules that are Bounded, and of objects that
// compute nothing: it answers in its caller's goroutine, one call of next after
// another, in time and memory linear in their bodies.
func Bounded(o Object) bool {
	b, ok := o.(interface{ Bounded() bool })
	return ok && b.Bounded()
}
