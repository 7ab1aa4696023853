package agent

import (
	"maps"
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// countCallers tells the node, now and then, who has called of those that it watches.
func (l *loop) countCallers(now time.Time) {
	if now.Before(l.countAt) {
		return
	}
	l.countAt = now.Add(retireInterval)
	if len(l.routed.Watched) > 0 {
		l.step(node.Called{By: l.watchedCalls()})
	}
	if s := l.saved; !l.pastSwept && s.Running != 0 && s.Phase == upgrade.Current {
		l.pastSwept = true
		l.sweep(s)
		l.removePastStates(l.node.Answering().Oldest)
	}
}

// watchedCalls counts the calls of the callers that are watched.
func (l *loop) watchedCalls() map[bundle.Version]node.Calls {
	by := map[bundle.Version]node.Calls{}
	stats := l.layer.Stats()
	for v := range l.routed.Watched {
		sum := callsOf(stats, v)
		by[v] = node.Calls{Begun: sum.Calls, Open: sum.Open}
	}
	return by
}

// noteAnswering goes on from what has just become durable.
func (l *loop) noteAnswering(w node.Answering) {
	for v := l.answering.Oldest; v < w.Oldest; v++ {
		l.log.Info("simulation object retired: no node needs it, and nobody has called", "callers", v)
		l.pastSwept = false
	}
}

// removePastStates gives back the disk of objects that are retired: those for
// callers older than oldest. It waits, beside the loop, until they have ended.
func (l *loop) removePastStates(oldest bundle.Version) {
	a := l.Agent
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		err := a.awaitObjects(ctx)
		if err == nil {
			err = a.RemovePastStates(oldest)
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("state of retired simulation objects stays for now", "err", err)
			a.send(pastStatesKept{})
		}
	})
}

// sweepPastLater has that tried again.
func (l *loop) sweepPastLater() { l.pastSwept, l.countAt = false, time.Now().Add(maxPause) }

// sweep gives back the disk of releases long past (see node.KeptFiles).
func (l *loop) sweep(s upgrade.State) {
	if l.injecting > 0 || l.node.MissingDocuments() > 0 || l.node.BelowFloor() {
		return // there may be something that is named by nothing that is here
	}
	if l.Store.Damage() != nil {
		if err := l.Store.Healed(); err != nil {
			l.log.Warn("the store's damage is not noted as healed", "err", err)
		} else {
			l.alarmOf(causeStore, "")
		}
	}
	named := l.node.Metadata()
	keep := []bundle.Digest{named.Digest, named.Members.Digest, l.node.Evidence().Digest}
	for _, refs := range []map[bundle.Version]trust.Ref{named.Releases, named.Orders} {
		for _, ref := range refs {
			keep = append(keep, ref.Digest)
		}
	}
	for _, inForce := range []map[bundle.Version]bundle.Digest{l.node.BoundOrders(), l.node.ManifestDigests()} {
		keep = slices.AppendSeq(keep, maps.Values(inForce)) // the metadata may name others by now
	}
	keep = append(keep, l.node.KeptFiles(s, l.objects.Files())...)
	removed, err := l.Depot.Sweep(keep)
	if err != nil {
		l.log.Warn("old artifacts not removed", "err", err)
	}
	if removed > 0 {
		l.log.Info("removed old artifacts and documents", "count", removed)
	}
}
