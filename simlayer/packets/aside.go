package packets

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/tally"
)

// Aside is a way to software for programs of this machine, whatever its callers
// have to wait for. Its datagrams count nowhere. It is safe for concurrent use.
type Aside struct {
	relay *Relay

	mu sync.Mutex
	// addr is the software's. Where joined is not nil the software may have opened
	// its socket at beside instead, and joined reports whether it has.
	addr, beside string
	joined       func() (bool, error)
}

// OpenAside opens a way that leads nowhere yet, at a host:port.
func OpenAside(ctx context.Context, addr string, senders *Senders, log *slog.Logger) (*Aside, error) {
	a := &Aside{}
	var err error
	if a.relay, err = Open(ctx, addr, Config{Target: a, Limits: DefaultLimits(), Senders: senders, Log: log}); err != nil {
		return nil, err
	}
	a.relay.Serve()
	return a, nil
}

// Addr returns where the way begins.
func (a *Aside) Addr() netip.AddrPort { return a.relay.Addr() }

// Close ends the way, and returns when it has ended. It may be called again.
func (a *Aside) Close() { a.relay.Close() }

// Lead says where the software is.
func (a *Aside) Lead(addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addr, a.joined = addr, nil
}

// LeadEither says that the software will be at addr, or at beside where it has opened
// its socket there, as joined reports.
func (a *Aside) LeadEither(addr, beside string, joined func() (bool, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addr, a.beside, a.joined = addr, beside, joined
}

// Way implements Target. Before the software has a socket at either address
// datagrams wait: who asks is not told that nobody is there, and would wait in vain.
func (a *Aside) Way() Way {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.joined == nil {
		return Way{Addr: a.addr}
	}
	if joined, err := a.joined(); joined && err == nil {
		a.addr, a.joined = a.beside, nil
		return Way{Addr: a.addr}
	}
	if at, err := net.ResolveUDPAddr("udp", a.addr); err == nil {
		if bound, err := attach.Bound(at.AddrPort().Port()); !bound && err == nil {
			look := make(chan struct{})
			time.AfterFunc(asideLook, func() { close(look) })
			return Way{Hold: asideHold, Changed: look}
		}
	}
	return Way{Addr: a.addr}
}

// Count implements Target: these are no calls.
func (a *Aside) Count(Way, tally.Outcome, time.Duration) {}
