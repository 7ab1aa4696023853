package node

import (
	"maps"
	"math"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// facts is what the node's software has told of itself.
type facts struct {
	version bundle.Version       // of the software
	sampled map[string]view.Fact // as told last; nil: nothing
	// said are those in the record, of that software, since when. Never changed, but made
	// anew.
	said   map[string]view.Fact
	saidOf bundle.Version
	at     time.Time
}

// Facts are those that the node's software is to be asked for: those of the release that it
// runs, and of the one that it waits for as far as they are asked by HTTP and the former
// has none of that name. So a release can wait for a number that the one before did not
// publish yet; its programs run only where it does.
func (n *Node) Facts() map[string]bundle.Fact {
	s, all := n.machine.State(), map[string]bundle.Fact{}
	if s.Running == 0 {
		return all
	}
	if s.Goal > s.Running && !s.Phase.Down() {
		coming := n.factsOf(n.cfg.Class, s.Goal)
		for _, name := range sorted(coming) {
			if f := coming[name]; f.HTTP != "" {
				all[name] = f
			}
		}
	}
	maps.Copy(all, n.factsOf(n.cfg.Class, s.Running))
	for _, name := range sorted(all) { // both may have the most that there may be
		if len(all) > bundle.MaxFacts && n.factsOf(n.cfg.Class, s.Running)[name].Every == 0 {
			delete(all, name)
		}
	}
	return all
}

// factsOf are the facts of a class at a release: those of the newest up to it that changes
// the class.
func (n *Node) factsOf(class bundle.Class, release bundle.Version) map[string]bundle.Fact {
	var newest bundle.Version
	for v, m := range n.docs.manifests {
		if _, changes := m.Classes[class]; changes && v <= release {
			newest = max(newest, v)
		}
	}
	if newest == 0 {
		return nil
	}
	return n.docs.manifests[newest].Classes[class].Facts
}

// factsSampled takes in what the software tells.
func (n *Node) factsSampled(e FactsSampled) {
	told := map[string]view.Fact{}
	for _, name := range sorted(e.Facts) {
		told[name] = e.Facts[name].Tidy()
	}
	n.facts.version, n.facts.sampled = e.Version, told
}

// noteFacts decides whether what the software tells is published: the first of each
// software at once, and then every factsPause at most, and only if it is another by more
// than its step.
func (n *Node) noteFacts() {
	f := &n.facts
	first := f.saidOf != f.version
	if f.sampled == nil || !first && n.now.Sub(f.at) < factsPause || !first && !n.factsDiffer() {
		return
	}
	f.said, f.saidOf, f.at = f.sampled, f.version, n.now
	n.noteSaid(n.cfg.Self)
}

func (n *Node) factsDiffer() bool {
	f := &n.facts
	if len(f.sampled) != len(f.said) {
		return true
	}
	wanted := n.Facts()
	for _, name := range sorted(f.sampled) {
		now := f.sampled[name]
		before, there := f.said[name]
		if !there || now.State != before.State || math.Abs(now.Value-before.Value) > wanted[name].Step {
			return true
		}
	}
	return false
}

// factsSaid are those in the record: while the node is down on purpose, and while it is
// probed, there are none.
func (n *Node) factsSaid(s upgrade.State) map[string]view.Fact {
	if s.Running == 0 || n.facts.saidOf != s.Running || s.Phase.Down() || s.Phase == upgrade.Probing {
		return nil
	}
	return n.facts.said
}

// numbers are what the software of a node told last, at a version that the node has settled
// at.
type numbers struct {
	version bundle.Version
	last    map[string]float64
}

// noteNumbers remembers the numbers of a record for [Node.lastNumbers].
func (n *Node) noteNumbers(r view.Record) {
	now := r.Numbers()
	if len(now) == 0 {
		return
	}
	if all := n.numbers[r.Node]; all.version == r.Version {
		for _, name := range sorted(all.last) {
			if _, there := now[name]; !there && len(now) < bundle.MaxFacts {
				now[name] = all.last[name]
			}
		}
	}
	n.numbers[r.Node] = numbers{r.Version, now}
}

// lastNumbers are what a settled node said last of each fact at this version, also where
// its newest record says none: that is no sign that it is well (P9).
func (n *Node) lastNumbers(r view.Record) map[string]float64 {
	if all := n.numbers[r.Node]; all.version == r.Version {
		return all.last
	}
	return nil
}
