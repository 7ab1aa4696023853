package calls

import (
	"net"

	"moult/simlayer/relay"
)

// Caller is one caller's connection of HTTP, as it is just now.
type Caller struct{ front *front }

// Callers are the connections that have come to a port and were not handed over to
// net/http.
func (f *Port) Callers() (all []Caller) {
	for _, one := range f.all(false) {
		all = append(all, Caller{one.(*front)})
	}
	return all
}

// Conn is the connection itself. It is not the asker's.
func (c Caller) Conn() net.Conn { return c.front.conn }

// Phase is where the call that is on is.
func (c Caller) Phase() relay.Phase {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	return c.front.core.Phase()
}

// Calling reports whether a call is on.
func (c Caller) Calling() bool {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	return c.front.core.Calling()
}

// Linked reports whether the caller has a connection to the node that lives. While a call
// is on, or where its calls are relayed, only who reads the connection knows.
func (c Caller) Linked() bool {
	f := c.front
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up != nil && (!f.up.simulated || f.core.Calling() || f.up.in.Alive())
}

// Quiet calls look while nothing is written to a caller of HTTP/2.
func (c Caller) Quiet(look func()) {
	h := c.front.http2.(*framed)
	h.says.Lock()
	defer h.says.Unlock()
	look()
}
