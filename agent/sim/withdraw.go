package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// CheckWithdrawn is the check that nobody is let in to a release that is withdrawn, nor
// takes a state by a transform that was written for another.
const CheckWithdrawn = "withdrawn"

// withdrawing is what is wrong with a release, for all nodes of a class, so that nobody
// gets past it, and what the operator does then.
type withdrawing struct {
	on    bool // in this run releases are withdrawn
	bad   bundle.Version
	class bundle.Class
	// base is the version whose state the transform of a release takes, as its author
	// knew it.
	base [maxRelease + 1]map[bundle.Class]bundle.Version
}

// spoil plans the release that nobody gets past.
func (s *simulation) spoil() {
	if w := &s.withdrawing; w.on && s.chance(0.7) {
		w.class, w.bad = pick(s, []bundle.Class{"kv", "auth", "web"}), bundle.Version(2+s.rng.IntN(2))
		if _, changes := s.manifests[w.bad].Classes[w.class]; !changes {
			w.bad = 5 - w.bad
		}
	}
}

// spoilt reports whether nobody of a class gets past a release.
func (s *simulation) spoilt(class bundle.Class, v bundle.Version) bool {
	w := &s.withdrawing
	return w.bad != 0 && v == w.bad && class == w.class
}

// withdrawn is what the operator has withdrawn.
func (o *operator) withdrawn() bundle.Withdrawn {
	if order := o.newest(); order != nil {
		return order.Withdrawn
	}
	return nil
}

// author has the next release go on from what is not withdrawn, and notes what its
// transforms are written for.
func (s *simulation) author(v bundle.Version) {
	op, w := &s.operator, s.operator.withdrawn()
	m := *s.manifests[v]
	m.Classes, m.Previous = maps.Clone(m.Classes), op.set.manifests[v-1]
	s.withdrawing.base[v] = map[bundle.Class]bundle.Version{}
	for _, class := range []bundle.Class{"kv", "auth", "web"} {
		cu, changes := m.Classes[class]
		if !changes {
			continue
		}
		cu.From = w.From(class, v, func(u bundle.Version) (changes, known bool) {
			_, changes = s.manifests[u].Classes[class]
			return changes, true
		})
		m.Classes[class] = cu
		base := cu.From
		for ; base > 1; base-- {
			if _, changes := s.manifests[base].Classes[class]; changes && !w.Has(class, base) {
				break
			}
		}
		s.withdrawing.base[v][class] = base
	}
	if m.LowestFormat() == bundle.FormatVersion && m.Previous == s.manifests[v].Previous {
		return // as it was planned
	}
	m.Format = m.LowestFormat()
	s.rewrite(v, &m)
}

// rewrite has a release that nobody has seen yet be another.
func (s *simulation) rewrite(v bundle.Version, m *bundle.Manifest) {
	next := *s.operator.set
	next.manifests[v] = bundle.Sum(must(json.Marshal(m)))
	s.contents[next.manifests[v]], s.manifests[v] = m, m
	s.operator.set = &next
}

// blocked reports whether the newest rollout cannot end, since somebody has to pass the
// spoilt release.
func (s *simulation) blocked() bool {
	w := &s.withdrawing
	return w.bad != 0 && s.operator.set.head >= w.bad && !s.operator.withdrawn().Has(w.class, w.bad)
}

// withdraw takes one step of withdrawing what releases from first on do to a class: the
// next look at some peer's view shows what came of it. Patient operators skip nobody.
func (s *simulation) withdraw(p *host, class bundle.Class, first bundle.Version, patient bool) {
	op := &s.operator
	for v := first; v <= op.set.head; v++ {
		if o := op.set.orders[v]; o != nil && o.State != schedule.StateAborted {
			s.sign(p, must(o.Abort()), "abort, to withdraw")
			return
		}
	}
	order := op.newest()
	reachable := func(id bundle.NodeID) bool { return s.hosts[s.index(id)].agent != nil }
	for _, x := range schedule.Obstacles(order, class, first, op.set.timestamp, p.agent.node.Known(), reachable) {
		h := s.hosts[s.index(x.Node)]
		switch {
		case s.plant.Unproven:
		case patient || !x.There && !h.gone:
			return
		case order.Attempts(class, x.Node) > 0:
			op.gone[h.i] = true
			s.sign(p, must(order.Skip(class, x.Node)), "skip "+h.name+", to withdraw")
			return
		default: // it came later, and is in no order
			op.gone[h.i] = true
			h.leave(true)
			return
		}
	}
	next, err := order.Withdraw(class, first, op.set.head)
	if errors.Is(err, schedule.ErrRefused) {
		return
	}
	s.stats.Withdrawn++
	s.sign(p, must(next, err), fmt.Sprintf("withdraw %s from release %d on", class, first))
	for _, h := range s.hosts {
		if h.class == class {
			h.checkWithdrawn()
		}
	}
}

// checkWithdrawn looks whether a host runs what is withdrawn. Of those that were skipped the
// operator has said so without knowing.
func (h *host) checkWithdrawn() {
	running := h.truth.state.Running
	if !h.s.operator.gone[h.i] && h.s.operator.withdrawn().Has(h.class, running) {
		h.s.fail(CheckWithdrawn, "%s runs version %d, which is withdrawn", h.name, running)
	}
}

// checkBase looks at a transform that begins.
func (a *agent) checkBase(x upgrade.Transform) {
	if base := a.s.withdrawing.base[x.To][a.h.class]; x.From != 0 && x.From < x.To && base != 0 && x.From != base {
		a.s.fail(CheckWithdrawn, "%s takes the state of version %d to version %d, by a transform for that of version %d", a.h.name, x.From, x.To, base)
	}
}

// stuck reports whether a host stays at what is withdrawn: it was let in, and skipped.
func (h *host) stuck() bool {
	return h.s.operator.gone[h.i] && h.s.operator.withdrawn().Has(h.class, h.truth.state.Running)
}
