package control

import (
	"errors"
	"net/http"
)

// Kinds of failure, which decide the command line's exit code.
const (
	KindFailed  = "failed"  // it was tried and did not work
	KindMisuse  = "misuse"  // the request makes no sense
	KindRefused = "refused" // it was understood and must not be done
)

// Error is a failure that the agent reports to its caller. Hint says what to
// do next; it may be empty.
type Error struct {
	Kind    string `json:"kind"`
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Refused returns an Error of kind KindRefused.
func Refused(err error, hint string) error {
	return &Error{Kind: KindRefused, Message: err.Error(), Hint: hint}
}

// Misuse returns an Error of kind KindMisuse.
func Misuse(err error, hint string) error {
	return &Error{Kind: KindMisuse, Message: err.Error(), Hint: hint}
}

// asError finds the Error in err, or makes one of kind KindFailed.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Kind: e.Kind, Message: err.Error(), Hint: e.Hint}
	}
	return &Error{Kind: KindFailed, Message: err.Error()}
}

func (e *Error) status() int {
	switch e.Kind {
	case KindMisuse:
		return http.StatusBadRequest
	case KindRefused:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}
