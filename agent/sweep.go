package agent

import (
	"errors"

	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/transforms"
)

// sweep gives back the disk of releases long past (see node.KeptFiles).
func (a *Agent) sweep(s upgrade.State) {
	if a.injecting > 0 || a.node.MissingDocuments() > 0 || a.node.BelowFloor() {
		return // there may be something that is named by nothing that is here
	}
	if a.store.Damage() != nil {
		if err := a.store.Healed(); err != nil {
			a.log.Warn("the store's damage is not noted as healed", "err", err)
		} else {
			a.alarmOf(causeStore, "")
		}
	}
	keep := []bundle.Digest{a.trust.Digest(), a.node.Evidence().Digest}
	for _, n := range a.trust.Releases() {
		ref, _ := a.trust.Release(n)
		keep = append(keep, ref.Digest)
	}
	for _, n := range a.trust.Orders() {
		ref, _ := a.trust.Order(n)
		keep = append(keep, ref.Digest)
	}
	if ref, ok := a.trust.Members(); ok {
		keep = append(keep, ref.Digest)
	}
	for _, d := range a.node.BoundOrders() {
		keep = append(keep, d)
	}
	for _, d := range a.node.ManifestDigests() {
		keep = append(keep, d) // the metadata may name others by now
	}
	keep = append(keep, a.node.KeptFiles(s, a.objects.Files())...)
	removed, err := a.depot.Sweep(keep)
	if err != nil {
		a.log.Warn("old artifacts not removed", "err", err)
	}
	if removed > 0 {
		a.log.Info("removed old artifacts and documents", "count", removed)
	}
}

// removeOldSlots keeps the slot before the running one, and gives back the
// disk of those before it.
func (a *Agent) removeOldSlots(s upgrade.State) {
	versions, err := a.slots.List()
	if err != nil {
		a.log.Warn("old slots not removed", "err", err)
		return
	}
	var previous bundle.Version
	for _, v := range versions {
		if v < s.Running {
			previous = max(previous, v)
		}
	}
	for _, v := range versions {
		if v >= previous {
			continue
		}
		if err := a.slots.Remove(v); err != nil {
			a.log.Warn("old slot not removed", "version", v, "err", err)
		}
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
	if err != nil {
		a.log.Warn("state of simulation objects not removed", "err", err)
	}
}
