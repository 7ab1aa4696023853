package agent

import (
	"errors"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/transforms"
)

// decide looks at what is known now and tells the machine what follows from
// it. The loop calls it after every batch of events, so it asks for nothing and
// waits for nothing.
func (a *Agent) decide() {
	if a.broken != nil {
		return
	}
	a.noteSynced()
	if !a.stuck() {
		a.aim()
		a.schedule()
	}
	a.route()
	a.publish()
	if a.viewNews {
		a.viewNews = false
		a.list(a.view.Snapshot())
	}
}

// noteSynced notes when the first exchange with a peer has ended. A peer that
// knows of no other has nobody to ask.
func (a *Agent) noteSynced() {
	if a.synced {
		return
	}
	select {
	case <-a.ring.Synced():
		a.synced = true
	default:
		a.synced = a.alone
	}
}

// aim tells the machine which release to work towards.
func (a *Agent) aim() {
	s := a.machine.State()
	if !s.Served && !a.mayAimUnserved() {
		return
	}
	if a.belowFloor() {
		return // peers must first bring back what was known
	}
	event, err := upgrade.Aim(s, a.offers())
	switch {
	case errors.Is(err, upgrade.ErrGap) && len(a.docs.missing) > 0:
		a.log.Debug("the manifest of a release on the way has not arrived", "err", err)
	case errors.Is(err, upgrade.ErrFrozen):
		a.alarm("no way to the newest release: %v", err)
	case err != nil:
		a.alarm("no way to the newest release: %v; a peer that has the missing release, or its bundle, would help", err)
	case event == nil:
	case !s.Served && a.trust.Expired(time.Now()):
		// Nothing new starts on expired metadata; what is there begins as it is.
	default:
		a.step(event)
	}
	a.retry()
	if s := a.machine.State(); !s.Served && s.Phase == upgrade.Current && s.Running != 0 {
		a.step(upgrade.Begin{})
	}
}

// offers lists what is known of every release whose manifest is here.
func (a *Agent) offers() []upgrade.Offer {
	offers := make([]upgrade.Offer, 0, len(a.docs.manifests))
	for v, m := range a.docs.manifests {
		cu, changes := m.Classes[a.cfg.Class]
		offers = append(offers, upgrade.Offer{
			Release:  upgrade.Release{Version: v, Changes: changes},
			Installs: changes && cu.From == 0,
			Order:    a.standing(v),
			Conflict: a.conflicted(v), Manifest: a.manifestOf(v), Previous: m.Previous,
		})
	}
	return offers
}

func (a *Agent) standing(v bundle.Version) upgrade.Standing {
	o := a.docs.orders[v]
	if o == nil {
		if _, signed := a.trust.Order(v); signed {
			return upgrade.Unread
		}
		return upgrade.Unordered
	}
	if o.State == schedule.StateAborted {
		return upgrade.Aborted
	}
	return upgrade.Ordered
}

// mayAimUnserved reports whether a node that has never served may decide how
// to begin: once it has heard the ring, or has waited for it long enough.
func (a *Agent) mayAimUnserved() bool {
	return (a.synced && !a.docs.fetching) || time.Since(a.started) > a.cfg.FirstSync
}

// retry lets a held node try again where the order gives it another attempt.
func (a *Agent) retry() {
	s := a.machine.State()
	if s.Phase != upgrade.Held {
		return
	}
	goal := s.EndedRelease
	if a.standing(goal) == upgrade.Aborted || a.conflicted(goal) {
		return
	}
	if a.retriesAlone(s) {
		if time.Now().After(a.notBefore) {
			a.step(upgrade.Retry{Release: goal})
		}
		return
	}
	if o := a.docs.orders[goal]; o != nil && o.Attempts(a.cfg.Class, a.id) > s.EndedCount {
		a.step(upgrade.Retry{Release: goal})
	}
}

// retriesAlone reports that a node is held after an installation: it tries again by
// itself, a while later, since nobody waits for its turn.
func (a *Agent) retriesAlone(s upgrade.State) bool {
	return s.Phase == upgrade.Held && (s.Running == 0 || a.standing(s.EndedRelease) == upgrade.Unordered)
}

// schedule asks whether the node may go down now.
func (a *Agent) schedule() {
	s := a.machine.State()
	if s.Phase != upgrade.Waiting {
		a.wait = schedule.Reason{}
		return
	}
	if a.belowFloor() {
		a.wait = schedule.Reason{Code: "below-floor", Text: "this peer has lost metadata that it had accepted, and waits for peers to bring them back"}
		return
	}
	if a.orderPending(s.Goal) {
		a.wait = schedule.Reason{Code: "order-pending", Text: "a newer rollout order is signed and has not arrived here yet"}
		return
	}
	d := schedule.Decide(a.input(s.Goal))
	if !d.Go {
		a.wait = d.Reason
		return
	}
	if time.Now().Before(a.notBefore) || a.preflight {
		return
	}
	a.check(s)
}

// input is what schedule.Decide needs to know about this node and a release.
func (a *Agent) input(release bundle.Version) schedule.Input {
	return schedule.Input{
		Self: a.id, Class: a.cfg.Class, Order: a.docs.orders[release],
		Lookup: a.lookup,
		SettledFor: func(id bundle.NodeID) time.Duration {
			if at, ok := a.doneAt[doneKey{id, release}]; ok {
				return time.Since(at)
			}
			return 0
		},
		Reachable: func(id bundle.NodeID) bool { return a.alive[id] },
		Synced:    a.synced, Expired: a.trust.Expired(time.Now()), Conflict: a.conflicted(release),
	}
}

// lookup returns what a node said of itself; of this node, what its machine
// has made durable.
func (a *Agent) lookup(id bundle.NodeID) (view.Record, bool) {
	if id == a.id {
		return a.record(), true
	}
	return a.view.Get(id)
}

// check looks, beside the loop, whether the software is whole and the disk has
// room for the new slots, and lets the machine go down only if so: what can
// fail should fail while the node serves, and what takes time be done.
func (a *Agent) check(s upgrade.State) {
	a.preflight = true
	old := a.slots.Path(s.Running)
	a.spawn(func() {
		ctx, cancel := a.untilStopped()
		defer cancel()
		err := a.fetchPath(ctx, s.Path) // fetches again what the disk has lost
		if err == nil {
			err = a.spaceFor(old, s.Path)
		}
		if err == nil {
			a.compileAhead(ctx, s.Path)
		}
		a.post(func() {
			a.preflight = false
			if err != nil {
				a.wait = schedule.Reason{Code: "not-ready", Text: "not ready to go down: " + err.Error()}
				a.notBefore = time.Now().Add(retryLater)
				return
			}
			// The world may have changed meanwhile: ask once more.
			if now := a.machine.State(); now.Step == s.Step && !a.belowFloor() && !a.orderPending(s.Goal) && schedule.Decide(a.input(s.Goal)).Go {
				a.step(upgrade.Go{Goal: s.Goal})
			}
		})
	})
}

// spaceFor checks that the disk has room for slots like the old one, one for each
// version of a path.
func (a *Agent) spaceFor(old string, path []bundle.Version) error {
	var given []string
	for _, v := range path {
		if state := a.slots.Objects().FutureState(v); state != "" {
			given = append(given, state)
		}
	}
	need, err := transforms.NeedBytes(old, given...)
	if err != nil {
		return err
	}
	return a.store.CheckSpace(need*int64(len(path)) + spareDisk)
}
