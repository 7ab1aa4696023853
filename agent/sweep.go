package agent

import (
	"errors"
	"maps"
	"slices"

	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/transforms"
)

// sweep gives back the disk of releases long past (see node.KeptFiles).
func (l *loop) sweep(s upgrade.State) {
	if l.injecting > 0 || l.node.MissingDocuments() > 0 || l.node.BelowFloor() {
		return // there may be something that is named by nothing that is here
	}
	if l.store.Damage() != nil {
		if err := l.store.Healed(); err != nil {
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
	removed, err := l.depot.Sweep(keep)
	if err != nil {
		l.log.Warn("old artifacts not removed", "err", err)
	}
	if removed > 0 {
		l.log.Info("removed old artifacts and documents", "count", removed)
	}
}

// removeOldSlots gives back the disk of slots before the running one: see transforms.
func (a *Agent) removeOldSlots(running bundle.Version, all bool) {
	if err := a.slots.RemoveBefore(running, all); err != nil {
		a.log.Warn("old slots not removed", "err", err)
	}
}

// removeFutureStates gives back the disk of what answered callers of versions that
// the node has reached; the transforms have had it.
func (a *Agent) removeFutureStates(s upgrade.State) {
	states, err := a.slots.Objects().List()
	for _, o := range states {
		if o.Kind == transforms.FutureObject && o.Version <= s.Version {
			err = errors.Join(err, a.slots.Objects().Retire(o.Version, o.Kind))
		}
	}
	kept, err2 := a.slots.Objects().Complements()
	err = errors.Join(err, err2)
	for _, v := range kept {
		if v <= s.Version { // it has gone forward again, with all of that
			err = errors.Join(err, a.slots.Objects().RetireComplement(v))
		}
	}
	if err != nil {
		a.log.Warn("state of simulation objects not removed", "err", err)
	}
}
