package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/simlayer"
	"moult/store/bundle"
	"moult/transforms"
)

// answering says whom this node answers, as far as that only ever changes one way.
// It is durable; where it is lost, the node answers more callers than it must.
type answering struct {
	// Oldest is the oldest version whose callers are answered: the simulation
	// objects for older ones are retired.
	Oldest bundle.Version `json:"oldest"`
	// External is what callers of the public addresses are taken for. It does
	// not go back when a node of an older version joins: those who call from
	// outside have gone on.
	External bundle.Version `json:"external"`
}

const keyAnswering = "answering"

func (a *Agent) restoreAnswering() error {
	data, ok, err := a.store.Get(bucketMachine, keyAnswering)
	if err != nil || !ok {
		return err
	}
	if err := json.Unmarshal(data, &a.answering); err != nil {
		return fmt.Errorf("read whom this node answers: %w", err)
	}
	return nil
}

// setAnswering makes w durable, then puts it in force. It reports whether it did.
func (a *Agent) setAnswering(w answering) bool {
	if w == a.answering {
		return true
	}
	data, err := json.Marshal(w)
	if err == nil {
		err = a.store.Put(bucketMachine, keyAnswering, data)
	}
	if err != nil {
		a.log.Warn("whom this node answers is not recorded, so it stays as it is", "err", err)
		return false
	}
	a.answering = w
	return true
}

// advance returns what callers of public addresses are taken for, where the view
// says that every node that it knows has settled at v or a newer version. A view
// may lack nodes, so what it says is kept only where the rollout order of that
// release names everyone and each has said that it is done.
func (a *Agent) advance(v bundle.Version) bundle.Version {
	if v > a.answering.External && a.completed(v) {
		a.setAnswering(answering{Oldest: a.answering.Oldest, External: v})
	}
	return max(v, a.answering.External)
}

// completed reports whether the rollout of a release has come to its end at every
// node of its order.
func (a *Agent) completed(release bundle.Version) bool {
	o := a.node.Orders()[release]
	return o != nil && schedule.Summary(o, a.node.View().Get).State == control.StateComplete
}

// heard is when callers of a version last called, as far as this agent has seen.
// It counts from when the agent began to listen to them.
type heard struct {
	calls int64
	at    time.Time
}

// watch has callers of the versions that only they keep come through the agent,
// which else does not hear of those whose calls pass unchanged. It reports whether
// the routing is another by that.
func (a *Agent) watch(versions map[bundle.Version]bool, now time.Time) bool {
	if maps.Equal(versions, a.watched) {
		return false
	}
	if a.heard == nil {
		a.heard = map[bundle.Version]heard{}
	}
	for v := range versions {
		if !a.watched[v] {
			a.heard[v] = heard{calls: -1, at: now} // whatever came before was not heard
		}
	}
	a.watched = versions
	return true
}

// listen notes which of the watched versions have called since it was last asked,
// or are calling: a connection of a raw protocol may be silent for long, and a call
// that goes on is nobody's to end.
func (a *Agent) listen(stats simlayer.Stats, now time.Time) {
	for v := range a.watched {
		sum := callsOf(stats, v)
		if before := a.heard[v]; before.calls != sum.Calls || sum.Open > 0 {
			a.heard[v] = heard{calls: sum.Calls, at: now}
		}
	}
}

// retire gives up the simulation objects that nobody needs any more, the oldest
// first: each answers by way of the next. It is called now and then.
func (a *Agent) retire(now time.Time) {
	if now.Before(a.retireAt) {
		return
	}
	a.retireAt = now.Add(retireInterval)
	s := a.saved
	if s.Running == 0 || s.Phase != upgrade.Current {
		return
	}
	slowest, ok := a.slowest()
	if !ok {
		return
	}
	oldest := s.Running
	for v := range a.objects.All() {
		oldest = min(oldest, v)
	}
	unneeded := map[bundle.Version]bool{}
	for v := oldest; v < s.Running && a.unneeded(v, slowest); v++ {
		unneeded[v] = true
	}
	if a.watch(unneeded, now) {
		a.route()
	}
	a.listen(a.layer.Stats(), now)
	for v := oldest; unneeded[v] && now.Sub(a.heard[v].at) >= a.quiet(v); v++ {
		if !a.setAnswering(answering{Oldest: v + 1, External: a.answering.External}) {
			return
		}
		a.log.Info("simulation object retired: no node needs it, and nobody has called", "callers", v)
		a.serving.from = servingFrom{} // so that the objects are worked out anew
		a.route()
		a.pastSwept = false
	}
	if !a.pastSwept {
		a.pastSwept = true
		a.sweep(s)
		a.removePastStates(a.answering.Oldest)
	}
}

// removePastStates gives back the disk of objects that are retired: those for
// callers older than oldest. It waits, beside the loop, until they have ended.
func (a *Agent) removePastStates(oldest bundle.Version) {
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		var states []transforms.ObjectState
		err := a.settleObjects(ctx)
		if err == nil {
			states, err = a.slots.Objects().List()
		}
		for _, o := range states {
			if o.Kind == transforms.PastObject && o.Version <= oldest {
				err = errors.Join(err, a.slots.Objects().Retire(o.Version, o.Kind))
			}
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("state of retired simulation objects stays for now", "err", err)
			a.post(func() { a.pastSwept, a.retireAt = false, time.Now().Add(maxPause) })
		}
	})
}

// slowest is the version of the node that is furthest behind; false where one has
// not said yet which it has.
func (a *Agent) slowest() (bundle.Version, bool) {
	slowest, skipped := a.saved.Version, a.skipped()
	for r := range a.node.View().Snapshot().All() {
		if r.Left || skipped[r.Node] {
			continue
		}
		if r.Version == 0 {
			return 0, false
		}
		slowest = min(slowest, r.Version)
	}
	return slowest, slowest > 0
}

// unneeded reports whether only callers from outside can need the object that
// answers callers of v: the rollout of its successor, or of a newer release, has
// ended at every node, none that the view knows is behind, and callers of public
// addresses are taken for a newer version too. It can go once nobody has called for
// as long as quiet says.
func (a *Agent) unneeded(v, slowest bundle.Version) bool {
	if slowest <= v || a.answering.External <= v {
		return false
	}
	for _, s := range a.cfg.Services {
		if s.External != 0 && s.External <= v {
			return false
		}
	}
	return true
}

// quiet is how long nobody must have called for the object that answers callers of
// v to go, as its release's author has set it.
func (a *Agent) quiet(v bundle.Version) time.Duration {
	quiet := time.Duration(bundle.DefaultRetireAfter)
	if m := a.node.Manifests()[v+1]; m != nil {
		if cu, changes := m.Classes[a.cfg.Class]; changes {
			quiet = time.Duration(cu.Past.Retire())
		}
	}
	return quiet
}
