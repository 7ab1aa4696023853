package sim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// reverting has releases taken back, and gone forward to again, at any moment.
type reverting struct {
	dice *rand.Rand // nil: in this run nothing is
	last *rand.Rand // whether one is finalized
	own  *rand.Rand // after how long releases are by their own word; nil: they are not
	// raced is the newest release that an operator took back just when the first node had begun
	// to finalize it.
	raced bundle.Version
	// whole counts the turns that have come to their end since faults stopped: one way, and
	// the other.
	whole int
}

func revertingIn(seed uint64) reverting {
	if seed%4 != 2 || seed%5 == 2 || seed%5 == 3 || seed%9 == 0 || seed%9 == 6 {
		return reverting{}
	}
	r := reverting{dice: rand.New(rand.NewPCG(seed, 4)), last: rand.New(rand.NewPCG(seed, 5))}
	if seed%7 < 2 || seed%7 == 4 {
		r.own = rand.New(rand.NewPCG(seed, 6))
	}
	return r
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
	if s.reverting.own != nil {
		m.FinalizeAfter = bundle.Duration(time.Second * time.Duration(2+s.reverting.own.IntN(30)))
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
	if !order.Back() && s.final(p, order) {
		return false // the operator's tool refuses that
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
		if !a.s.operator.finalized(x.Version) && t.state.Final < x.Version {
			a.s.fail("P14", "%s takes release %d for final, and nobody has said so", a.h.name, x.Version)
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
	if !order.Back() && slices.ContainsFunc(s.hosts, func(h *host) bool { return h.truth.state.Final >= order.Release }) {
		s.stats.FinalRaced++
	}
	s.sign(p, must(next, err), what)
	return true
}

// attendTurns has the operator take the newest release back once all have settled at it,
// and forward again once that is done.
func (s *simulation) attendTurns(p *host, order *schedule.Order) bool {
	if s.reverting.own != nil && s.twice == 0 && order.Back() && s.final(p, order) {
		return s.turn(p, order) // nobody follows who has finalized it
	}
	if s.reverting.dice == nil || s.twice != 0 || len(s.unsettled()) > 0 {
		return false
	}
	if s.final(p, order) || order.FinalizeAfter != 0 && s.reverting.whole == 2 && !order.Back() {
		return p.agent.node.Finalizing().Reason != "" && p.agent.node.Finalizing().Observed.For == 0 && s.finalize(p, order)
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
	if s.reverting.dice == nil || s.twice != 0 || order == nil {
		return false
	}
	if order.FinalizeAfter != 0 && !order.Finalized && !order.Back() { // all finalize it by themselves
		return slices.ContainsFunc(s.hosts, func(h *host) bool {
			return !h.gone && !s.operator.givenUp[h.i] && !h.chronic() && !h.stuck() && h.truth.state.Running == order.Release && h.truth.state.Finalized < order.Release
		})
	}
	return !order.Finalized || s.plant.TurnsFinal
}

// reached names where a turn of a release's order leads.
type reached struct {
	release bundle.Version
	turn    int
}

// race has an operator take a release back who has looked just before its first node began to
// finalize it; and that node may die at that moment.
func (a *agent) race(o *schedule.Order) {
	s, own := a.s, a.s.reverting.own
	if own == nil || s.reverting.raced >= o.Release || own.IntN(2) == 0 {
		return
	}
	s.reverting.raced = o.Release
	s.after(time.Duration(own.IntN(300))*time.Millisecond, func() {
		if p, order := s.peer(), s.operator.newest(); p != nil && order.Release == o.Release && !order.Back() {
			s.turn(p, order)
		}
		if h := a.h; h.agent != nil && own.IntN(2) == 0 {
			h.crash(own.IntN(2) == 0)
		}
	})
}

// final reports whether a peer knows of a node that has finalized the release by its own word.
func (s *simulation) final(p *host, order *schedule.Order) bool {
	for r := range p.agent.node.View().All() {
		if r.Final >= order.Release {
			return true
		}
	}
	return false
}

// calm is for how long, at most, an agent has run since it was last told that a node of an order is
// not at the release, or not well, with all nodes in reach.
type calm struct {
	of      reached
	boot    int
	at, sum time.Duration
	near    bool
}

// look notes what an agent sees, as the world knows it: it goes by nothing that the node remembers.
func (a *agent) look() {
	c, s := &a.h.truth.calm, a.s
	var o *schedule.Order
	for _, other := range a.node.Orders() {
		if o == nil || other.Release > o.Release {
			o = other
		}
	}
	if o == nil || !a.exchanged {
		return // it knows only what was before it started
	}
	if of := (reached{o.Release, o.Turn}); c.of != of {
		*c = calm{of: of}
	}
	well, near := o.State == schedule.StateRunning, true
	for class := range o.Classes {
		for _, id := range o.Classes[class].Roster {
			if o.Attempts(class, id) == 0 {
				continue
			}
			h := s.hosts[s.index(id)]
			r, known := a.node.View().Get(id)
			st := h.truth.state
			there := st.Claims() > o.Release || st.Claims() == o.Release && (o.Turn == 0 || !st.Turned.Before(o.Release, o.Turn))
			well = well && known && o.Arrived(r) && !r.Health.Unwell() && (there || h.forgot)
			near = near && (h == a.h || h.agent != nil && s.net.connected(a.h, h) && s.net.connected(h, a.h))
		}
	}
	switch {
	case !well:
		c.sum = 0
	case c.boot == a.h.boot && (near || c.near):
		c.sum += s.now - c.at
	}
	c.boot, c.at, c.near = a.h.boot, s.now, near
}

// checkFinal is promise P14 where a host begins to finalize a release by the release's own word:
// all that its order has a place for are at it, and it has seen so, and them well, for so long since
// that was otherwise.
func (a *agent) checkFinal(v bundle.Version) {
	o := a.node.Orders()[v]
	if o == nil || o.FinalizeAfter == 0 || o.Back() {
		a.s.fail("P14", "%s finalizes release %d by its own word, and its order does not say so", a.h.name, v)
		return
	}
	a.s.stats.FinalAlone++
	a.look()
	if c := a.h.truth.calm; c.of != (reached{v, o.Turn}) || c.sum < time.Duration(o.FinalizeAfter) {
		a.s.fail("P14", "%s takes release %d for final by its own word, and has seen all well and in reach for %s, not for %s", a.h.name, v, c.sum, o.FinalizeAfter)
	}
	a.race(o)
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
