package so

import (
	"net/http"
	"strconv"
)

// HopsHeader counts how often a call has gone to an object in a process of its own.
// Such an object may call whom it likes, the node that it stands before as well, and
// so call itself without end. Objects that pass on headers which they do not know,
// as they should, pass it on.
const HopsHeader = "Moult-Hops"

// Hops returns how many hops a call has behind it, by its headers. Whoever says
// nonsense there has none.
func Hops(h http.Header) int {
	n, err := strconv.Atoi(h.Get(HopsHeader))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Hop returns r as it goes to an object in a process of its own, for a call with so
// many hops behind it: with its number in HopsHeader, and headers of its own. After
// MaxHops it is refused.
func Hop(r *http.Request, behind int) (*http.Request, error) {
	if behind >= MaxHops {
		return nil, Fail(http.StatusLoopDetected, nil,
			"the call goes in a circle: it has come through simulation objects %d times; an object must call the address in MOULT_NEXT, not one of the node that it answers for", behind)
	}
	out := r.WithContext(r.Context())
	out.Header = r.Header.Clone()
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header.Set(HopsHeader, strconv.Itoa(behind+1))
	return out, nil
}
