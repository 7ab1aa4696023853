package gate

import (
	"net/netip"
	"time"
)

// Patience is how long one call has waited and still may, over all its waits.
type Patience struct {
	// From is the address that it comes from, or its network: whose share of the places
	// to wait in it takes.
	From netip.Prefix

	limit time.Duration
	until time.Time // zero before the first wait
	spent time.Duration
}

func (p *Patience) start(limit time.Duration) {
	if p.until.IsZero() {
		p.limit = limit
		p.until = time.Now().Add(limit)
	}
}

// Limit is how long the call may wait; 0 before its first wait.
func (p *Patience) Limit() time.Duration { return p.limit }

// Spent is how long it has waited.
func (p *Patience) Spent() time.Duration { return p.spent }
