package simlayer

import (
	"time"

	"moult/simlayer/observe"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// Stats is what a Layer has seen since it started.
type Stats struct {
	// InFlight calls are at the node now, Held calls wait; the peaks are the most
	// of each at once. For raw TCP a call is a connection, for UDP a datagram of
	// a caller (which is in flight for no time).
	InFlight     int `json:"in_flight"`
	Held         int `json:"held"`
	PeakInFlight int `json:"peak_in_flight"`
	PeakHeld     int `json:"peak_held"`
	// LongestHold is the longest that a call has waited; waits that go on are
	// not in it.
	LongestHold time.Duration `json:"longest_hold"`
	// Services are the calls by service and version of the caller.
	Services map[string]map[bundle.Version]tally.Calls `json:"services"`
	// Took are the calls among them of which it is known how long they took.
	Took map[string]map[bundle.Version]tally.Histograms `json:"-"`
	// Past and Future are the calls that came to simulation objects, by the version of
	// their callers, which is older or newer than the node's was. What they waited for
	// the node is none of an object's time.
	Past   map[bundle.Version]tally.Calls `json:"past,omitempty"`
	Future map[bundle.Version]tally.Calls `json:"future,omitempty"`
	// Egress are the node's own calls.
	Egress tally.Calls `json:"egress"`
	// Observers are the objects that are told of calls, by the version of their
	// callers.
	Observers map[bundle.Version]observe.Stats `json:"observers,omitempty"`
}

// Stats returns what the layer has seen.
func (l *Layer) Stats() Stats {
	g := l.gate.Stats()
	s := Stats{
		InFlight: g.In, Held: g.Held + l.heldPackets(), PeakInFlight: g.PeakIn, PeakHeld: g.PeakHeld,
		LongestHold: g.Longest, Services: map[string]map[bundle.Version]tally.Calls{},
		Took: map[string]map[bundle.Version]tally.Histograms{},
	}
	for name, one := range l.services {
		s.Services[name], s.Took[name] = one.tally.Snapshot(), one.tally.Histograms()
	}
	s.Past, s.Future = l.calls.Past.Snapshot(), l.calls.Future.Snapshot()
	if l.out != nil {
		s.Egress = l.out.Calls()
	}
	s.Observers = l.observerStats()
	return s
}
