package sim

import (
	"errors"
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// set is the signed metadata: which releases and which serials of their orders
// are in force. It never changes.
type set struct {
	timestamp int64
	head      bundle.Version
	orders    [maxRelease + 1]*schedule.Order
}

// decide looks at what is known now and tells the machine what follows. It is
// called after every event.
func (a *agent) decide() {
	for i, f := range []func(){a.aim, a.schedule, a.route, a.publish} {
		if !a.alive() {
			return
		}
		if i >= 2 || !a.stuck() {
			f()
		}
	}
}

// aim tells the machine which release to work towards.
func (a *agent) aim() {
	s := a.machine.State()
	waited := a.synced() && !a.fetching || a.s.now-a.started > 30*time.Second
	if !s.Served && !waited || a.belowFloor() {
		return
	}
	e, err := upgrade.Aim(s, a.offers())
	if err != nil && !errors.Is(err, upgrade.ErrGap) {
		a.s.fail("P7", "%s finds no way: %v", a.h.name, err)
		return
	}
	if e != nil {
		a.checkTarget(e)
		a.step(e)
	}
	if a.alive() {
		a.retry()
	}
	if !a.alive() {
		return
	}
	if s := a.machine.State(); !s.Served && s.Phase == upgrade.Current && s.Running != 0 {
		a.step(upgrade.Begin{})
	}
}

func (a *agent) synced() bool { return a.s.drv.Synced(a.exchanged) }

// belowFloor reports that peers must first bring back what was known before
// the database was lost.
func (a *agent) belowFloor() bool { return a.timestamp() < a.h.disk.floor.timestamp }

func (a *agent) timestamp() int64 {
	if a.h.disk.set == nil {
		return 0
	}
	return a.h.disk.set.timestamp
}

func (a *agent) offers() []upgrade.Offer {
	var offers []upgrade.Offer
	for v := bundle.Version(1); v <= maxRelease; v++ {
		if !a.h.disk.known[v] {
			continue
		}
		cu, changes := a.s.manifests[v].Classes[a.h.class]
		o := upgrade.Offer{
			Release:  upgrade.Release{Version: v, Changes: changes},
			Installs: changes && cu.From == 0,
		}
		o.Order = a.standing(v)
		offers = append(offers, o)
	}
	return offers
}

func (a *agent) standing(v bundle.Version) upgrade.Standing {
	switch o, s := a.orders[v], a.h.disk.set; {
	case o == nil && s != nil && s.orders[v] != nil:
		return upgrade.Unread
	case o == nil:
		return upgrade.Unordered
	case o.State == schedule.StateAborted:
		return upgrade.Aborted
	}
	return upgrade.Ordered
}

// retry lets a held node try again where the order gives it another attempt.
func (a *agent) retry() {
	s := a.machine.State()
	goal := s.EndedRelease
	if s.Phase != upgrade.Held || a.standing(goal) == upgrade.Aborted {
		return
	}
	if a.retriesAlone(s) {
		if a.s.now > a.notBefore {
			a.step(upgrade.Retry{Release: goal})
		}
		return
	}
	if o := a.orders[goal]; o != nil && o.Attempts(a.h.class, a.h.id) > s.EndedCount {
		a.step(upgrade.Retry{Release: goal})
	}
}

// retriesAlone reports that a node is held after an installation: it tries again by
// itself, a while later, since nobody waits for its turn.
func (a *agent) retriesAlone(s upgrade.State) bool {
	return s.Phase == upgrade.Held && (s.Running == 0 || a.standing(s.EndedRelease) == upgrade.Unordered)
}

// schedule asks whether the node may go down now. The check of the disk that
// comes between takes time, so it asks once more after it.
func (a *agent) schedule() {
	s := a.machine.State()
	if s.Phase != upgrade.Waiting {
		a.wait = schedule.Reason{}
		return
	}
	if a.belowFloor() {
		a.wait = schedule.Reason{Code: "below-floor"}
		return
	}
	d := a.ask(s.Goal)
	a.wait = d.Reason
	if !d.Go || a.s.now < a.notBefore || a.preflight {
		return
	}
	a.preflight = true
	a.after(a.little(), func() {
		a.preflight = false
		if a.s.faulty && a.s.chance(0.02) {
			a.wait = schedule.Reason{Code: "space", Text: "the disk has no room"}
			a.notBefore = a.s.now + retryLater
			return
		}
		if now := a.machine.State(); now.Step == s.Step && !a.stuck() && !a.belowFloor() && a.ask(s.Goal).Go {
			a.checkGo(s.Goal)
			a.s.stats.WentDown++
			a.step(upgrade.Go{Goal: s.Goal})
		}
	})
}

// ask asks the schedule.
func (a *agent) ask(release bundle.Version) schedule.Decision {
	in := a.input(release, a.lookup)
	d := a.s.drv.Decide(in)
	a.checkAbsence(in, d)
	return d
}

func (a *agent) input(release bundle.Version, lookup func(bundle.NodeID) (view.Record, bool)) schedule.Input {
	return schedule.Input{
		Self: a.h.id, Class: a.h.class, Order: a.orders[release], Lookup: lookup,
		SettledFor: func(id bundle.NodeID) time.Duration {
			if at, ok := a.doneAt[doneKey{a.s.index(id), release}]; ok {
				return a.s.now - at
			}
			return 0
		},
		Synced: a.synced(),
	}
}

// lookup returns what a node said of itself; of this node, what is durable.
func (a *agent) lookup(id bundle.NodeID) (view.Record, bool) {
	if id == a.h.id {
		return a.record(), true
	}
	return a.view.Get(id)
}

// noteDone remembers when this agent first saw a node at a release.
func (a *agent) noteDone(id bundle.NodeID) {
	rec, ok := a.view.Get(id)
	for v, o := range a.orders {
		k := doneKey{a.s.index(id), bundle.Version(v)}
		if _, noted := a.doneAt[k]; ok && o != nil && !noted && rec.Version >= k.release {
			a.doneAt[k] = a.s.now
		}
	}
}

// offer is metadata from a peer or an operator. It is in force, durably, when
// it is newer.
func (a *agent) offer(next *set) {
	d := &a.h.disk
	if next == nil || !a.s.drv.Newer(a.timestamp(), next.timestamp) {
		return
	}
	a.checkSet(next)
	d.set = next
	d.floor.timestamp = max(d.floor.timestamp, next.timestamp)
	a.h.trace("metadata %d in force", next.timestamp)
	a.loadDocuments()
}

// loadDocuments reads the documents that the metadata in force name, and
// fetches those that are not here.
func (a *agent) loadDocuments() {
	d := &a.h.disk
	if d.set == nil {
		return
	}
	for v := bundle.Version(1); v <= maxRelease; v++ {
		next := d.set.orders[v]
		if next == nil || !slices.Contains(d.orders, next) {
			continue // the older one stays until this one is here
		}
		if old := a.orders[v]; old != nil && old.Serial != next.Serial {
			if err := a.s.drv.Successor(old, next); err != nil {
				a.s.fail("P2", "%s: %v", a.h.name, err)
				continue
			}
		}
		a.orders[v] = next
	}
	for r := range a.view.All() {
		a.noteDone(r.Node)
	}
	if a.lacks(d.set) {
		a.fetchDocuments()
	}
}

func (a *agent) lacks(s *set) bool {
	for v := bundle.Version(1); v <= s.head; v++ {
		if o := s.orders[v]; !a.h.disk.known[v] || (o != nil && !slices.Contains(a.h.disk.orders, o)) {
			return true
		}
	}
	return false
}

// fetchDocuments asks some peer for all that is missing, once at a time.
func (a *agent) fetchDocuments() {
	if a.fetching {
		return
	}
	a.fetching = true
	peer := a.s.somebody(a.h)
	a.after(a.s.between(20*time.Millisecond, time.Second), func() {
		a.fetching = false
		if a.s.net.open(a.s, a.h, peer) && a.s.net.open(a.s, peer, a.h) && peer.agent != nil {
			a.receive(peer.disk.known, peer.disk.orders)
		}
		a.loadDocuments()
	})
}

// receive keeps documents, durably.
func (a *agent) receive(known [maxRelease + 1]bool, orders []*schedule.Order) {
	d := &a.h.disk
	for v, here := range known {
		d.known[v] = d.known[v] || here
	}
	for _, o := range orders {
		if !slices.Contains(d.orders, o) {
			d.orders = append(d.orders, o)
		}
	}
}
