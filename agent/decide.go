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
// it. The loop calls it after every event, so it asks for nothing and waits
// for nothing.
func (a *Agent) decide() {
	a.noteSynced()
	a.aim()
	a.schedule()
	a.route()
	a.publish()
	a.rememberPeers()
	if s := a.view.Snapshot(); s != a.listed {
		a.listed = s
		a.list(s)
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
	goal, path, err := a.goal(s)
	if err != nil {
		a.alarm("no way to release %d: %v", goal, err)
		return
	}
	switch {
	case goal > s.Version:
		a.step(upgrade.Target{Goal: goal, Path: path})
		a.retry(goal)
	case s.Goal != 0 && goal < s.Goal:
		a.step(upgrade.Withdrawn{Reason: "release withdrawn: its rollout was aborted or it is in conflict"})
	}
	if s := a.machine.State(); !s.Served && s.Phase == upgrade.Current && s.Running != 0 {
		a.step(upgrade.Begin{})
	}
}

// mayAimUnserved reports whether a node that has never served may decide how
// to begin: once it has heard the ring, or has waited for it long enough.
func (a *Agent) mayAimUnserved() bool {
	return (a.synced && !a.docs.fetching) || time.Since(a.started) > a.cfg.FirstSync
}

// goal is the newest release that the operator has ordered (and not aborted)
// and that is not in conflict, with the path to it. A node without software
// needs no order for a release that installs its class.
func (a *Agent) goal(s upgrade.State) (bundle.Version, []bundle.Version, error) {
	if a.belowFloor() {
		return s.Goal, s.Path, nil // peers must first bring back what was known
	}
	var goal bundle.Version
	for v, m := range a.docs.manifests {
		o := a.docs.orders[v]
		ordered := o != nil && o.State != schedule.StateAborted
		installs := s.Running == 0 && o == nil && m.Classes[a.cfg.Class].From == 0 && len(m.Classes[a.cfg.Class].Command) > 0
		if (ordered || installs) && !a.conflicted(v) {
			goal = max(goal, v)
		}
	}
	if goal == 0 || (s.Running != 0 && goal <= s.Version) {
		return goal, nil, nil
	}
	var releases []upgrade.Release
	for v, m := range a.docs.manifests {
		_, changes := m.Classes[a.cfg.Class]
		releases = append(releases, upgrade.Release{Version: v, Changes: changes})
	}
	path, err := upgrade.PathTo(releases, s.Running, goal)
	if errors.Is(err, upgrade.ErrGap) && len(a.docs.missing) > 0 {
		return s.Goal, s.Path, nil // the manifest is on its way
	}
	return goal, path, err
}

// retry lets a held node try again where the order gives it another attempt.
func (a *Agent) retry(goal bundle.Version) {
	s := a.machine.State()
	if s.Phase != upgrade.Held || s.EndedRelease != goal {
		return
	}
	if s.Running == 0 { // an installation: nobody waits for its turn
		if time.Now().After(a.notBefore) {
			a.notBefore = time.Now().Add(retryInstall)
			a.step(upgrade.Retry{Release: goal})
		}
		return
	}
	if o := a.docs.orders[goal]; o != nil && o.Attempts(a.cfg.Class, a.id) > s.EndedCount {
		a.step(upgrade.Retry{Release: goal})
	}
}

// schedule asks whether the node may go down now.
func (a *Agent) schedule() {
	s := a.machine.State()
	if s.Phase != upgrade.Waiting {
		a.wait = schedule.Reason{}
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
	a.checkSpace(s)
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

// checkSpace looks beside the loop whether the disk has room for the new
// slots, and lets the machine go down only if it has.
func (a *Agent) checkSpace(s upgrade.State) {
	a.preflight = true
	old := a.slots.Path(s.Running)
	a.spawn(func() {
		need, err := transforms.NeedBytes(old)
		if err == nil {
			err = a.store.CheckSpace(need*int64(len(s.Path)) + spareDisk)
		}
		a.post(func() {
			a.preflight = false
			if err != nil {
				a.wait = schedule.Reason{Code: "space", Text: err.Error()}
				a.notBefore = time.Now().Add(retryLater)
				return
			}
			// The world may have changed meanwhile: ask once more.
			if now := a.machine.State(); now.Step == s.Step && schedule.Decide(a.input(s.Goal)).Go {
				a.step(upgrade.Go{Goal: s.Goal})
			}
		})
	})
}
