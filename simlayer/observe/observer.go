package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// Observer tells the object process for callers of one version of the calls of the
// version before it, which is the node's own, one after the other in the order in
// which the node answered. What the object has not been told is kept, within
// bounds; where it falls behind, or cannot take a call in, it is told that it has
// missed something.
//
// The place of a call in the order is that of the moment in which its answer began
// to come, before the caller has any of it. So if one call began after another was
// answered, the object is told of it later. Of calls that were at the node at the
// same time nobody knows in which order it carried them out.
type Observer struct {
	version bundle.Version // of the object's callers
	path    string
	log     *slog.Logger
	ctx     context.Context
	stop    context.CancelFunc
	ended   chan struct{} // closed when nothing is told any more
	wake    chan struct{} // holds one: the queue has changed

	// mu guards all below, and every sighting.
	mu      sync.Mutex
	places  map[string]place // of the object, by service
	queue   []*sighting
	bytes   int // kept in the queue
	telling bool
	// whole: the object is told, or will be, of all calls since its last
	// so.ObservedBegin. It comes to that, and to the event, where no calls go past
	// the layer (open), none that do not are hidden from it, and the queue is not
	// full (behind).
	whole, open, behind bool
	hidden              int

	numbers  uint64 // of the last event
	placed   uint64 // sightings that were put in the queue
	settled  uint64 // that have left it
	settling chan struct{}
	told     uint64
	missed   uint64
	problem  string
}

// Way is a way to the object that is the observer's alone.
type Way interface {
	http.RoundTripper
	// Leave closes its connections.
	Leave()
}

// place is where the object answers for one service.
type place struct {
	addr string
	Way
}

// sighting is an event on its way to the object. The observer's lock protects all
// of it but o, which does not change.
type sighting struct {
	o     *Observer
	event so.Observed // without a number before it is first told
	then  string      // the event that follows in its place, or ""
	bytes int
	// request and response are what is being seen of bodies; nil where they are
	// whole, or were.
	request, response *seenBody
	done              bool      // nothing of it is still to come
	until             time.Time // then it is told as it is
}

// Stats says how far an object has been told of calls.
type Stats struct {
	Told    uint64 `json:"told"`    // calls that it has taken in
	Missed  uint64 `json:"missed"`  // calls that it will never be told of
	Waiting int    `json:"waiting"` // events that it is still to be told of
	Whole   bool   `json:"whole"`   // it is told of every call now
	Problem string `json:"problem"` // why it cannot be told now; "" where it can
}

// Close ends the telling, and returns when it has ended.
func (o *Observer) Close() {
	o.stop()
	<-o.ended
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, at := range o.places {
		at.Leave()
	}
	o.places = nil
}

// Done is closed when the telling ends.
func (o *Observer) Done() <-chan struct{} { return o.ctx.Done() }

// Version is that of the object's callers.
func (o *Observer) Version() bundle.Version { return o.version }

// Lead says where the object is, by service. Ways whose address is still the same
// are kept, and open makes the others.
func (o *Observer) Lead(addrs map[string]string, open func(service string) Way) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.places
	o.places = map[string]place{}
	for name, addr := range addrs {
		if was, ok := before[name]; ok && was.addr == addr {
			o.places[name] = was
			delete(before, name)
		} else {
			o.places[name] = place{addr, open(name)}
		}
	}
	for _, at := range before {
		at.Leave()
	}
	o.nudge()
}

// Stats says how far the object has been told.
func (o *Observer) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	return Stats{Told: o.told, Missed: o.missed, Waiting: len(o.queue), Whole: o.whole, Problem: o.problem}
}

// Begin says that from now on all calls come through the layer.
func (o *Observer) Begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = true
	o.beginLocked()
}

// beginLocked tells the object that it is told of every call from here on, where
// that is so and was not.
func (o *Observer) beginLocked() {
	if o.whole || !o.open || o.behind || o.hidden > 0 {
		return
	}
	o.whole = true
	o.put(&sighting{o: o, event: so.Observed{Event: so.ObservedBegin}, done: true})
}

// Blind says that calls do not come through the layer any more, and why.
func (o *Observer) Blind(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = false
	if o.whole {
		o.missLocked(0, why)
	}
}

// Hide says that a call begins whose calls of the node are not seen; Show is called
// at its end.
func (o *Observer) Hide(from bundle.Version) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hidden++
	o.missLocked(1, fmt.Sprintf("callers of version %d are answered by an object process, whose calls of the node are not seen", from))
}

// Show ends what Hide has begun.
func (o *Observer) Show() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hidden--
	o.beginLocked()
}

// miss notes that the object will not be told of n calls.
func (o *Observer) miss(n uint64, why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.missLocked(n, why)
}

func (o *Observer) missLocked(n uint64, why string) {
	o.missed += n
	o.whole = false
	if i := len(o.queue) - 1; i >= 0 && o.queue[i].event.Event == so.ObservedMissed && !(i == 0 && o.telling) {
		o.queue[i].event.Missed += n
		return
	}
	o.log.Warn("a simulation object will not be told of all calls", "object", o.version, "missed", n, "why", why)
	o.put(&sighting{o: o, event: so.Observed{Event: so.ObservedMissed, Missed: n, Why: why}, done: true})
}

// put appends an event, whatever the bounds.
func (o *Observer) put(s *sighting) {
	o.placed++
	o.queue = append(o.queue, s)
	o.bytes += s.bytes
	o.nudge()
}

func (o *Observer) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// add appends a call, if there is room. It reports whether there was. The lock is
// held.
func (o *Observer) add(s *sighting) bool {
	full := len(o.queue) >= MaxWaiting || o.bytes+s.bytes > maxBytes
	if o.behind {
		// Not at once again.
		full = len(o.queue) > MaxWaiting/2 || o.bytes > maxBytes/2
	}
	if o.behind = full; full {
		o.missLocked(1, fmt.Sprintf("the object is too slow: %d calls wait to be told", len(o.queue)))
		return false
	}
	o.beginLocked()
	s.until = time.Now().Add(bodyWait)
	o.put(s)
	return true
}

// Await waits until the object was told of all that has happened so far.
func (o *Observer) Await(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	target := o.placed
	for o.settled < target {
		settling := o.settling
		o.mu.Unlock()
		var err error
		select {
		case <-settling:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-o.ended:
			err = errEnded
		}
		o.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// errEnded is what waits get that the end of the telling ends.
var errEnded = errors.New("the object is told of nothing any more")

// Current has the callers of the object wait until it knows of all calls that were
// answered before.
func (o *Observer) Current(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	err := o.Await(ctx)
	if err == nil {
		return nil
	}
	refusal := so.Fail(http.StatusServiceUnavailable, err, "the simulation object for version %d has not been told yet of all calls of version %d; try again later", o.version, o.version-1)
	if why := o.Stats().Problem; why != "" {
		refusal.Reason += ": " + why
	}
	refusal.RetryAfter = retryAfter
	return refusal
}
