package simlayer

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"moult/simlayer/observe"
	"moult/simlayer/routes"
	"moult/simlayer/sockets"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// objectOf is where the object process for callers of v is, by service, and how it is
// reached by an observer: the connections of the route's own backends end with it.
func objectOf(r *routes.Route, v bundle.Version) (addrs map[string]string, open func(service string) observe.Way) {
	addrs = map[string]string{}
	p := r.Paths[v]
	if p == nil || p.Via != v {
		return addrs, nil
	}
	for name, b := range p.Backends {
		addrs[name] = b.Network + " " + b.Addr
	}
	return addrs, func(service string) observe.Way { return objectWay{p.Backends[service].Another()} }
}

// objectWay is a backend of which an observer is the only user.
type objectWay struct{ *routes.Backend }

func (w objectWay) RoundTrip(r *http.Request) (*http.Response, error) {
	return w.Transport(false).RoundTrip(r)
}

// observe gives a route who is told of its calls, and returns those that are not
// needed any more. It is called with apply held.
func (l *Layer) observe(next *routes.Route, r Routing) (gone []*observe.Observer) {
	was := l.observers
	l.observers = map[string]*observe.Observer{}
	for v, object := range r.Objects {
		if object.Observe == "" {
			continue
		}
		o := was[object.Observe]
		if o == nil {
			o = observe.Start(v, object.Observe, object.Told || l.observed[object.Observe], l.log)
		}
		delete(was, object.Observe)
		l.observers[object.Observe] = o
		if l.observed == nil {
			l.observed = map[string]bool{}
		}
		l.observed[object.Observe] = true
		if v == next.Native+1 {
			next.Observer = o
		}
		o.Lead(objectOf(next, v))
	}
	for _, o := range was {
		gone = append(gone, o)
	}
	return gone
}

// seeAll has the observer of a route that has come into force see all calls from a
// moment on, of which it tells the object, and ends those that are gone. It is
// called with apply held.
func (l *Layer) seeAll(old, next *routes.Route, gone []*observe.Observer) {
	for _, o := range l.observers {
		if o != next.Observer {
			o.Blind("the object calls a version that the node does not run")
		}
	}
	if next.Observer != nil && next.Observer != old.Observer {
		// A connection of HTTP/2 that is never idle would stay as it is.
		for b := range old.All() {
			for _, r := range b.Relaying() {
				r.Drain()
			}
		}
		if l.tasks.Begin() {
			go func() {
				defer l.tasks.End()
				l.lookAround(next.Observer)
			}()
		}
	}
	for _, o := range gone {
		o.Close()
	}
}

// lookAround waits until no call goes past an observer any more.
func (l *Layer) lookAround(o *observe.Observer) {
	for pause := lookPause; ; pause = min(2*pause, maxLookPause) {
		if l.gate.Routing().Observer != o {
			return
		}
		past, err := l.goPast()
		if err != nil {
			l.log.Warn("whether calls go past the layer is not known, so a simulation object that observes them begins later", "object", o.Version(), "err", err)
		} else if past == 0 && l.calls.SeenBy(o) {
			o.Begin()
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-o.Done():
			timer.Stop()
			return
		case <-l.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// goPast counts the connections of services of HTTP that were made past the layer,
// when no simulation object looked on, and are there still.
func (l *Layer) goPast() (int, error) {
	var past []netip.AddrPort
	for _, f := range l.listeners() {
		if f.service.Protocol == bundle.ProtocolHTTP && f.service.Attach != AttachRelay {
			if at, ok := stream.AddrPort(f.Addr()); ok {
				past = append(past, at)
			}
		}
	}
	if len(past) == 0 {
		return 0, nil
	}
	others, err := sockets.Others(past)
	return len(others), err
}

// tellAll has the objects that observe be told of all that has happened. It waits
// for that, but not for ever.
func (l *Layer) tellAll() {
	ctx, cancel := context.WithTimeout(l.ctx, observe.Patience)
	defer cancel()
	l.apply.Lock()
	var all []*observe.Observer
	for _, o := range l.observers {
		all = append(all, o)
	}
	l.apply.Unlock()
	for _, o := range all {
		if err := o.Await(ctx); err != nil && l.ctx.Err() == nil {
			l.log.Warn("a simulation object was not told of all calls before the node goes down", "object", o.Version(), "waiting", o.Stats().Waiting, "err", err)
		}
	}
}

func (l *Layer) observerStats() map[bundle.Version]observe.Stats {
	l.apply.Lock()
	defer l.apply.Unlock()
	var all map[bundle.Version]observe.Stats
	for _, o := range l.observers {
		if all == nil {
			all = map[bundle.Version]observe.Stats{}
		}
		all[o.Version()] = o.Stats()
	}
	return all
}

func (l *Layer) closeObservers() {
	l.apply.Lock()
	defer l.apply.Unlock()
	for _, o := range l.observers {
		o.Close()
	}
	l.observers = nil
}
