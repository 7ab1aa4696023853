package calls

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// PortConfig is whose calls come to a port.
type PortConfig struct {
	Name     string         // of the service
	Protocol string         // bundle.ProtocolHTTP, bundle.ProtocolTCP or bundle.ProtocolUDP
	External bundle.Version // of callers of the public address; 0: as the routing says
	Label    bundle.Version // of the callers; 0: this is the public address
	Tally    *tally.ByVersion
}

// Port is where the callers of one version of a service come. Connections are given
// to it by whoever accepts them.
type Port struct {
	PortConfig
	calls *Calls

	// Of HTTP; nil for the others. The server gets from hand the connections whose
	// calls need more than a relay.
	server *http.Server
	hand   *handover

	// direct: new connections to the address go to the node without the agent,
	// so callers had better make new ones.
	direct  atomic.Bool
	retired atomic.Bool

	mu     sync.Mutex
	coming int                 // mu; connections that Take will have
	here   map[connection]bool // mu; nil once closed
	handed int                 // mu; connections that the server has
	last   chan struct{}       // mu; if not nil: closed once none is coming or here
	gone   chan struct{}       // mu; if not nil: closed once none is handed over either
}

// Lead says whether new connections to the address go past the layer.
func (f *Port) Lead(direct bool) { f.direct.Store(direct) }

// Direct reports what Lead has said last.
func (f *Port) Direct() bool { return f.direct.Load() }

// leads reports whether callers had better connect anew.
func (f *Port) leads() bool { return f.direct.Load() || f.retired.Load() }

// connection is one of HTTP that has come to a port.
type connection interface {
	// closeIdle closes it if no request is on its way; else the one that is becomes
	// the last.
	closeIdle()
	close()
}

// Coming announces a connection that Take is given next, or Refused.
func (f *Port) Coming() { f.count(&f.coming, 1) }

// Refused says that a connection does not come that was announced.
func (f *Port) Refused() { f.count(&f.coming, -1) }

func (f *Port) count(what *int, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*what += by
	f.look()
}

// add has a connection that was coming; false where the port is closed.
func (f *Port) add(c connection) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.coming--
	if f.here != nil {
		f.here[c] = true
	}
	f.look()
	return f.here != nil
}

func (f *Port) remove(c connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.here, c)
	f.look()
}

// look tells who waits for the last connection; mu is locked.
func (f *Port) look() {
	if f.last != nil && f.coming+len(f.here) == 0 {
		close(f.last)
		f.last = nil
	}
	if f.gone != nil && f.coming+len(f.here)+f.handed == 0 {
		close(f.gone)
		f.gone = nil
	}
}

// None returns a channel that is closed once there are no connections of HTTP.
func (f *Port) None() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone == nil {
		f.gone = make(chan struct{})
	}
	gone := f.gone
	f.look()
	return gone
}

// noneComes returns a channel that is closed once none is handed over any more.
func (f *Port) noneComes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil {
		f.last = make(chan struct{})
	}
	last := f.last
	f.look()
	return last
}

// all lists the connections; the last time where closed is set.
func (f *Port) all(closed bool) []connection {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Collect(maps.Keys(f.here))
	if closed {
		f.here = nil
	}
	return all
}

// VersionUnder is the version of the callers under a routing.
func (f *Port) VersionUnder(r *routes.Route) bundle.Version {
	switch {
	case f.Label != 0:
		return f.Label
	case f.External != 0:
		return f.External
	}
	return r.External
}

// Ended counts a call of callers of v that has ended, at a node of version native; 0
// where it came to none.
func (f *Port) Ended(v, native bundle.Version, o tally.Outcome, waited time.Duration, began time.Time) {
	f.Tally.Of(v).Ended(o, waited, began)
	switch {
	case native == 0 || v == native:
	case v < native:
		f.calls.Past.Of(v).Ended(o, waited, began.Add(waited))
	default:
		f.calls.Future.Of(v).Ended(o, waited, began.Add(waited))
	}
}

// room refuses a call of version v that goes p's way, if that leads to an object
// process that has as many calls as it may have.
func (f *Port) room(r *routes.Route, p *routes.Path, v bundle.Version) error {
	if p.Via == 0 {
		return nil
	}
	most := max(1, f.calls.Open/objectShare)
	if f.Tally.Of(v).Open() < int64(most) {
		return nil
	}
	return &so.Refusal{
		Status: http.StatusServiceUnavailable,
		Reason: fmt.Sprintf("%d calls of version %d are at the simulation object for version %d, and it may have no more; an object that calls an address of the node that it answers for, and not the one in MOULT_NEXT, calls itself", most, v, p.Via),
		From:   v, To: r.Native, RetryAfter: retryAfter,
	}
}
