package sim

import (
	"slices"
	"time"

	"moult/agent/node"
	"moult/gossip/view"
)

// leaveInTurn has some nodes leave just as their turn has come, for others may take them for
// done, and go, and they come back and go, too.
func (h *host) leaveInTurn() {
	s := h.s
	if !s.leaving || !s.faulty || !s.chance(0.25) {
		return
	}
	s.after(0, func() { h.leave(false) })
}

// leaveInSoak has a canary leave for good in its soak: others must not wait for that.
func (h *host) leaveInSoak() {
	s, o := h.s, h.s.operator.newest()
	if !s.leaving || !s.faulty || o == nil || s.stats.LeftInSoak == 2 {
		return
	}
	likely := 0.1 // the order of the next release would skip it
	if o.Release > 2 {
		likely = 0.9
	}
	c := o.Classes[h.class]
	if slices.Contains(c.Roster[:min(c.Canaries(), len(c.Roster))], h.id) && s.chance(likely) {
		s.stats.LeftInSoak++
		s.after(s.between(time.Second, time.Duration(c.SoakOf(h.id))/2+time.Second), func() { h.leave(true) })
	}
}

// leave ends the agent by its operator's word, of which it tells its peers. The software
// runs on.
func (h *host) leave(forGood bool) {
	a := h.agent
	if a == nil || !a.exchanged || a.node.State().Phase.Down() { // then it is refused
		return
	}
	h.trace("leaves")
	h.s.stats.Left++
	a.tell(node.Leave{})
	a.flush()
	if !a.alive() {
		return
	}
	if last, ok := a.node.View().Signed(h.id); ok {
		for _, peer := range h.s.hosts { // a rumour reaches them all
			if peer != h {
				h.s.send(h, peer, func(b *agent) { b.deliver([]view.Signed{last}) })
			}
		}
	}
	h.agent, h.gone = nil, forGood
	h.boot++
	if !forGood {
		h.s.after(h.s.between(2*time.Second, time.Minute), h.start)
	}
}
