package packets

import "time"

// Limits bounds what callers can make a Relay keep.
type Limits struct {
	// Sessions bounds the callers at once. Datagrams of more are dropped.
	Sessions int
	// Idle is how long a session lives without a datagram either way.
	Idle time.Duration
	// PerSession bounds the datagrams of one session that wait, and Total the
	// bytes of all.
	PerSession, Total int
}

// DefaultLimits is what a Relay should have.
func DefaultLimits() Limits {
	return Limits{Sessions: 8192, Idle: 2 * time.Minute, PerSession: 32, Total: 4 << 20}
}

const (
	// maxDatagram is more than the most that UDP carries, in bytes.
	maxDatagram = 1 << 16
	// readBuffer is asked of the system for what has not been read yet, in bytes.
	readBuffer = 2 << 20
	// readPause keeps a loop over a failing socket from spinning.
	readPause = 10 * time.Millisecond

	// asideHold is how long datagrams of an Aside wait for the software to open its
	// socket, asideLook how often is looked whether it has.
	asideHold = time.Second
	asideLook = 10 * time.Millisecond
)
