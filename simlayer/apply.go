package simlayer

import (
	"fmt"
	"maps"
	"slices"

	"moult/simlayer/routes"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// Apply puts r in force at once: a call is answered wholly under the routing
// that it was let in under. It listens on the versioned addresses that r has and
// the one before had not, and closes those that it has no more; connections there
// end after the call that they are in. On an error the old routing stays in force.
func (l *Layer) Apply(r Routing) error {
	l.apply.Lock()
	defer l.apply.Unlock()
	if l.closed {
		return ErrClosed
	}
	if err := l.speak(r.Protocols); err != nil {
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	old := l.gate.Routing()
	next, err := newRoute(r, l.cfg.Services, old)
	if err != nil {
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	fresh, err := l.bind(next.Versions())
	if l.cfg.Sockets != nil {
		l.cfg.Sockets.Done() // what of the layer before is wanted is taken by now
	}
	if err != nil {
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	if err := l.noLoop(next); err != nil {
		for _, f := range fresh {
			l.forget(f)
		}
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	if !next.Down {
		// The software has these sockets now, or has others of its own.
		l.endStrays(func(s stray) bool { return !s.inherited || s.at.Label == next.Native })
	}
	gone := l.observe(next, r)
	l.gate.Set(next, !next.Down, next.Hold)
	l.aim(next)
	l.seeAll(old, next, gone)
	old.Release(next)
	l.retire(next)
	for _, f := range fresh {
		f.serve()
	}
	l.log.Info("routing applied", "native", next.Native, "external", l.externals(next), "egress", next.Egress, "down", next.Down, "versions", next.Versions())
	return nil
}

// externals are the versions that callers of the public addresses count as: one, or one
// for each service where these differ.
func (l *Layer) externals(r *routes.Route) any {
	all, by := map[bundle.Version]bool{}, map[string]bundle.Version{}
	for name, s := range l.services {
		by[name] = s.public.VersionUnder(r)
		all[by[name]] = true
	}
	if len(all) != 1 {
		return by
	}
	return slices.Collect(maps.Keys(all))[0]
}

// noLoop refuses a backend that is one of the layer's own addresses: its calls
// would come back for ever. The node's own get none while it is down, and may still
// be where software was that has inherited a socket, and has ended.
func (l *Layer) noLoop(r *routes.Route) error {
	for b, what := range r.All() {
		if b.Network == "unix" || r.Down && slices.Contains(slices.Collect(maps.Values(r.Backends)), b) {
			continue
		}
		for _, addr := range l.own() {
			if addr.Network() == b.Network && stream.SameAddr(addr, b.Addr) && !l.ownBackend(r, b, addr) {
				return fmt.Errorf("%s is the layer's own address; give the software another one to listen on", what)
			}
		}
	}
	return nil
}

// retire closes the listeners of versions that the routing no longer answers.
func (l *Layer) retire(r *routes.Route) {
	var gone []*listener
	l.mu.Lock()
	for _, s := range l.services {
		for v, f := range s.versioned {
			if r.Paths[v] == nil && !l.lent(f) {
				gone = append(gone, f)
				delete(s.versioned, v)
			}
		}
	}
	l.mu.Unlock()
	for _, f := range gone {
		l.retireOne(f)
	}
}
