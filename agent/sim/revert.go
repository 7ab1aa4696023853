package sim

import (
	"errors"
	"math/rand/v2"
	"slices"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// reverting has releases taken back, and gone forward to again, at any moment.
type reverting struct {
	dice *rand.Rand // nil: in this run nothing is
	last *rand.Rand // whether one is finalized
	// whole counts the turns that have come to their end since faults stopped: one way, and
	// the other.
	whole int
}

func revertingIn(seed uint64) reverting {
	if seed%4 != 2 || seed%5 == 2 || seed%5 == 3 || seed%9 == 0 || seed%9 == 6 {
		return reverting{}
	}
	return reverting{dice: rand.New(rand.NewPCG(seed, 4)), last: rand.New(rand.NewPCG(seed, 5))}
}

// reversible gives the classes of a release the way back.
func (s *simulation) reversible(m *bundle.Manifest) {
	if s.reverting.dice == nil || m.Version == 1 {
		return
	}
	for _, class := range []bundle.Class{"kv", "auth", "web"} {
		if u, ok := m.Classes[class]; ok {
			u.Transform.Reverse = &bundle.Reverse{}
			m.Classes[class] = u
		}
	}
	m.Format = m.LowestFormat()
}

// turnNow changes the direction of the newest rollout now and then.
func (s *simulation) turnNow(p *host, order *schedule.Order) bool {
	dice := s.reverting.dice
	if dice == nil || dice.IntN(4) > 0 {
		return false
	}
	if s.reverting.last.IntN(4) == 0 && s.finalize(p, order) {
		return true
	}
	return s.turn(p, order)
}

// finalize signs that the newest release will not be taken back, where by the view of a peer
// all nodes have settled at it.
func (s *simulation) finalize(p *host, order *schedule.Order) bool {
	if len(order.Unsettled(p.agent.node.View().Get)) > 0 {
		return false
	}
	next, err := order.Finalize()
	if errors.Is(err, schedule.ErrRefused) {
		return false
	}
	s.stats.Finalized++
	s.sign(p, must(next, err), "finalize")
	return true
}

// finish tells the software of a host that its release is final, which that may be told again.
func (a *agent) finish(x upgrade.Finish) {
	a.during(a.little(), func() {
		t := &a.h.truth
		if !a.s.operator.finalized(x.Version) {
			a.s.fail("P14", "%s takes release %d for final, and the operator has not said so", a.h.name, x.Version)
		}
		t.finalized = max(t.finalized, x.Version)
		a.removeOldSlots(x.Version, true)
		a.during(a.little(), func() { a.ended(upgrade.Finalized{Step: x.Step}) })
	})
}

// finalized reports whether the operator has said that a release is final.
func (o *operator) finalized(v bundle.Version) bool {
	return slices.ContainsFunc(o.signed, func(o *schedule.Order) bool { return o.Release == v && o.Finalized })
}

func (s *simulation) turn(p *host, order *schedule.Order) bool {
	if s.plant.TurnsFinal && order.Finalized {
		again := *order
		again.Finalized = false
		order = &again
	}
	next, err := order.Revert(s.candidates(p))
	what := "take back"
	if order.Back() {
		next, err = order.Again(s.candidates(p))
		what = "go forward again"
	}
	if errors.Is(err, schedule.ErrRefused) {
		return false
	}
	s.stats.Turns++
	s.sign(p, must(next, err), what)
	return true
}

// attendTurns has the operator take the newest release back once all have settled at it,
// and forward again once that is done.
func (s *simulation) attendTurns(p *host, order *schedule.Order) bool {
	if s.reverting.dice == nil || s.twice != 0 || len(s.unsettled()) > 0 {
		return false
	}
	if s.reverting.whole < 2 && s.turn(p, order) {
		s.reverting.whole++
		return true
	}
	if order.Back() || order.Finalized && s.plant.TurnsFinal {
		return s.turn(p, order)
	}
	return s.finalize(p, order)
}

// turning reports that the run is not over yet, since the last way back and forth is not.
func (s *simulation) turning() bool {
	order := s.operator.newest()
	return s.reverting.dice != nil && s.twice == 0 && order != nil && (!order.Finalized || s.plant.TurnsFinal)
}

// there reports whether a host is where the newest order leads.
func (h *host) there(order *schedule.Order) bool {
	st := h.truth.state
	if order.Back() {
		return st.Turned == view.Turned{Release: order.Release, Turn: order.Turn, Done: true, Ended: st.Turned.Ended} && st.Running < order.Release
	}
	if _, changes := h.s.manifests[order.Release].Classes[h.class]; changes && h.s.reverting.dice != nil && !order.Withdrawn.Has(h.class, order.Release) && st.Running != order.Release {
		return false // whatever it says
	}
	final := !order.Finalized || st.Running != order.Release || st.Finalized == order.Release
	return st.Version == order.Release && final
}

// takeBack makes the slot of an older version from that of the release that is taken back:
// it has all writes, and of details what its form can hold. The rest is kept.
func (a *agent) takeBack(x upgrade.Transform) content {
	d := &a.h.disk
	if a.h.truth.finalized >= x.From {
		a.s.fail("P14", "%s takes release %d back, and its software was told that it is final", a.h.name, x.From)
	}
	made := content{form: x.To, writes: d.slots[x.From].writes, details: d.slots[x.From].details, whole: d.slots[x.From].whole}
	if !a.s.plant.Leaves {
		d.complement[x.From] = made.details[x.From]
	}
	made.details[x.From] = 0
	return made
}

// checkDetails is promise P14: whatever serves has each detail that was ever acknowledged,
// of those that its form can hold.
func (h *host) checkDetails(c content) {
	for v := range c.details {
		if bundle.Version(v) <= c.form && c.details[v] != h.truth.details[v] {
			h.s.fail("P14", "%s promised %d details of version %d, and version %d serves a state with %d", h.name, h.truth.details[v], v, c.form, c.details[v])
		}
	}
}
