package sim

import (
	"slices"
	"time"

	"moult/store/bundle"
)

// injectFaults plans what goes wrong in this run, and when all of it ends.
func (s *simulation) injectFaults() {
	s.net = network{
		loss: pick(s, []float64{0, 0.1, 0.3}), twice: 0.1, corrupt: 0.02,
		slowest: pick(s, []time.Duration{20 * time.Millisecond, 400 * time.Millisecond, 3 * time.Second}),
	}
	s.crashes = pick(s, []float64{0, 0.005, 0.02})
	for _, h := range s.hosts {
		s.sicken(h)
	}
	plan := func(most int, fault func()) {
		for range s.rng.IntN(most + 1) {
			s.after(s.between(0, chaos), fault)
		}
	}
	plan(12, func() { s.strike(false) })
	plan(6, func() { s.strike(true) })
	plan(2, s.loseDatabase)
	plan(4, s.loseTail)
	plan(3, func() { pick(s, s.hosts).die() })
	plan(3, s.fillDisk)
	plan(3, s.cutOff)
	plan(1, func() { s.sendAway(pick(s, s.hosts)) })
	if s.chance(0.3) {
		s.after(s.between(0, chaos), s.expire)
	}
	if s.chance(0.15) {
		s.after(s.between(0, chaos), s.signTwice)
	}
	if s.contradicting.on {
		for range 4 {
			s.after(s.between(10*time.Second, chaos), s.contradict)
		}
	}
	if s.leaving {
		plan(3, func() { pick(s, s.hosts).leave(false) })
		if s.chance(0.5) {
			s.after(s.between(3*time.Second, chaos/2), func() { s.hosts[s.rng.IntN(nodes-4)].leave(true) })
		}
	}
	if s.chance(0.5) {
		// Away from before the first rollout until after the second one began.
		s.after(s.between(0, 5*time.Second), func() { s.sendAway(s.hosts[s.rng.IntN(nodes-4)]) })
	}
	s.after(chaos, s.repair)
}

// sicken gives a host illnesses. A node that can never install anything would
// try for ever, and never be of one view with the others.
func (s *simulation) sicken(h *host) {
	kinds := []string{"fetch", "transform", "later", "launch", "probe", "unwell", "ails"}
	if s.rehearsing {
		kinds = append(kinds, "unable")
	}
	for v := bundle.Version(2); v <= maxRelease; v++ {
		if !s.chance(0.2) {
			continue
		}
		h.ill[v] = illness{kind: pick(s, kinds), times: 1 + s.rng.IntN(2)}
		h.ill[v].chronic = (h.disk.current != 0 || h.adopt != 0) && !slices.Contains([]string{"later", "unwell"}, h.ill[v].kind) && s.chance(0.1)
	}
}

// strike kills an agent, or takes its machine's power; sometimes again, soon
// after it has come back.
func (s *simulation) strike(power bool) {
	h := pick(s, s.hosts)
	if h.agent != nil {
		h.crash(power)
	}
	if s.chance(0.3) {
		s.after(s.between(time.Second, 8*time.Second), func() {
			if h.agent != nil {
				h.crash(power)
			}
		})
	}
}

// loseDatabase ends an agent and damages its database beyond repair.
func (s *simulation) loseDatabase() {
	h := pick(s, s.hosts)
	if h.agent == nil {
		return
	}
	s.stats.Databases++
	h.trace("database lost")
	h.crash(s.chance(0.5))
	h.disk.loseDatabase()
}

// loseTail ends an agent whose floor file is gone then, with the end of the journal.
// What such a node has said it may say again, otherwise.
func (s *simulation) loseTail() {
	h := pick(s, s.hosts)
	if h.agent == nil || h.disk.journal == nil {
		return
	}
	s.stats.Tails++
	h.trace("floor file lost, and the journal's end")
	h.crash(s.chance(0.5))
	h.disk.loseTail(s, h.i%2 == 0)
	h.forgot = true
	s.operator.gone[h.i] = true // the budget rests on what nodes remember
}

// fillDisk leaves no room on a disk for a while.
func (s *simulation) fillDisk() {
	h := pick(s, s.hosts)
	h.trace("disk full")
	h.disk.full = true
	s.after(s.between(time.Second, 40*time.Second), func() { h.disk.full = false })
}

// cutOff parts the hosts for a while.
func (s *simulation) cutOff() {
	c := &cut{oneWay: s.chance(0.4)}
	share := s.rng.Float64()
	for i := range c.side {
		c.side[i] = s.chance(share)
	}
	s.stats.Cuts++
	s.trace("net", "parted")
	s.net.cuts = append(s.net.cuts, c)
	s.after(s.between(5*time.Second, 60*time.Second), func() {
		for i, have := range s.net.cuts {
			if have == c {
				s.net.cuts = append(s.net.cuts[:i], s.net.cuts[i+1:]...)
				s.trace("net", "healed")
				return
			}
		}
	})
}

// sendAway switches a machine off for long.
func (s *simulation) sendAway(h *host) {
	if h.away || h.agent == nil {
		return
	}
	h.away = true
	h.crash(true)
	h.trace("away")
	s.after(s.between(30*time.Second, chaos-10*time.Second), func() { s.comeBack(h) })
}

func (s *simulation) comeBack(h *host) {
	if h.away {
		h.away, h.disk.full = false, false
		h.start()
	}
}

// repair ends all faults for good.
func (s *simulation) repair() {
	s.trace("sim", "all is repaired")
	s.faulty, s.crashes = false, 0
	s.net.loss, s.net.twice, s.net.corrupt, s.net.cuts = 0, 0, 0, nil
	for _, h := range s.hosts {
		for v := range h.ill {
			if !h.ill[v].chronic {
				h.ill[v].times = 0
			}
		}
		if v := h.soft.version; !h.ill[v].chronic {
			h.recover(v)
		}
		h.away, h.disk.full = false, false
		h.start()
	}
	s.after(attendInterval, s.attend)
	s.after(time.Second, s.checkSettled)
}
