package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"moult/agent/schedule"
	"moult/store/bundle"
)

// waving returns the dice of a run with zones, and with releases that go by them.
func waving(seed uint64) *rand.Rand {
	if seed%9 != 6 {
		return nil
	}
	return rand.New(rand.NewPCG(seed, 3))
}

// labels are those of a host, which says them of itself: two zones, and some without. Nothing
// decides by what it says, but the operator's next release; and it may have been moved until
// then.
func (h *host) labels() map[string]string {
	if h.s.waving == nil || h.zone == "" {
		return nil
	}
	return map[string]string{"zone": h.zone}
}

// zones has some hosts be in other zones from the next start of their agents on.
func (s *simulation) zones() {
	if s.waving == nil {
		return
	}
	for _, h := range s.hosts {
		if h.zone == "" || s.waving.IntN(4) == 0 {
			h.zone = []string{"a", "a", "b", "b", ""}[s.waving.IntN(5)]
		}
	}
}

// waves has the classes of a release go zone by zone, or few of each zone at once.
func (s *simulation) waves(m *bundle.Manifest) {
	dice := s.waving
	if dice == nil {
		return
	}
	s.zones()
	for _, class := range []bundle.Class{"auth", "kv", "web"} {
		u, ok := m.Classes[class]
		if !ok || u.Schedule.Strategy == bundle.StrategyAtOnce || s.random {
			continue
		}
		if dice.IntN(4) > 0 {
			u.Schedule.MaxUnavailable, u.Schedule.Spread = fmt.Sprint(2+dice.IntN(3)), &bundle.Spread{Label: "zone", Max: 1 + dice.IntN(2)}
		}
		if u.Schedule.Strategy == bundle.StrategyRolling && dice.IntN(2) == 0 {
			soak := u.Schedule.Soak
			u.Schedule.Canary, u.Schedule.Soak = 0, 0
			u.Schedule.Waves = [][]bundle.Wave{
				{{Count: 1, Soak: soak}, {Percent: 50, Soak: soak / 2}},
				{{Each: "zone", Soak: soak}},
				{{Labels: map[string]string{"zone": "b"}}, {Count: 2, Soak: soak}},
			}[dice.IntN(3)]
		}
		m.Classes[class] = u
	}
	m.Format = m.LowestFormat()
}

// withoutZones has the waves of a release be by count: nobody who can be reached is in the
// zone that was to go first.
func (s *simulation) withoutZones(v bundle.Version) {
	m := *s.manifests[v]
	m.Classes = maps.Clone(m.Classes)
	for class, u := range m.Classes {
		if len(u.Schedule.Waves) > 0 {
			u.Schedule.Waves = []bundle.Wave{{Count: 1, Soak: u.Schedule.Waves[0].Soak}}
			m.Classes[class] = u
		}
	}
	s.rewrite(v, &m)
}

// checkSpread is the second bound of promise P4: of the nodes that by the newest order in use
// share a zone, or may, no more are down than it says; as in package schedule.
func (s *simulation) checkSpread(class bundle.Class, newest bundle.Version) {
	o := s.operator.set.orders[newest]
	if o == nil || o.Classes[class].Spread == nil || s.contradicting.double[newest] {
		return
	}
	c := o.Classes[class]
	down := make([]int, len(c.Spread.Values)+1)
	for _, h := range s.hosts {
		st := &h.truth.state
		if i := slices.Index(c.Roster, h.id); i >= 0 && h.class == class && st.Phase.Down() && st.Served && !s.operator.gone[h.i] {
			down[c.Spread.Of[i]]++
		}
	}
	for of, n := range down {
		if of > 0 && n+down[0] > c.Spread.Max || down[0] > c.Spread.Max {
			s.fail("P4", "%d nodes of class %s are down that are or may be of %s %v, and release %d allows %d", n+down[0], class, c.Spread.Label, append([]string{"any"}, c.Spread.Values...)[of], newest, c.Spread.Max)
		}
	}
}

// checkWaves is that a node goes down only when those of the waves before its own have been
// well for their soak.
func (a *agent) checkWaves(c schedule.ClassOrder, release bundle.Version) {
	own := c.WaveOf(slices.Index(c.Roster, a.h.id))
	for i, id := range c.Roster {
		if len(c.Waves) == 0 || c.WaveOf(i) >= own || slices.Contains(c.Skipped, i) {
			continue
		}
		h := a.s.hosts[a.s.index(id)]
		r, _ := a.node.View().Get(id)
		switch {
		case r.Left || h.forgot || r.Health.Failed.Release == release:
		case r.Version < release && r.Obeys <= release && r.Ended.Release != release:
			a.s.fail(CheckWaves, "%s of wave %d goes down for release %d, and %s of wave %d has not been", a.h.name, own, release, h.name, c.WaveOf(i))
		case r.Version >= release && !h.soaked(release):
			a.s.fail(CheckWaves, "%s of wave %d goes down for release %d, and %s of wave %d has been well for %v", a.h.name, own, release, h.name, c.WaveOf(i), h.truth.well[release])
		}
	}
}
