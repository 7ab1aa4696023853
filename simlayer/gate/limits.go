package gate

import (
	"errors"
	"time"
)

// yieldGrace is how long a call that would never end has to end as its software
// ends it.
const yieldGrace = time.Second

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the simulation layer is closed")
	// ErrHeldTooLong says that a call has waited for as long as it may.
	ErrHeldTooLong = errors.New("held too long")
	// ErrHeldTooMany says that as many calls wait as may, and none from an address that
	// has more of them.
	ErrHeldTooMany = errors.New("too many calls are held")
)
