package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/store/bundle"
)

// closed is how long a window is closed each day. Faults have stopped for longer when a
// run ends.
const closed = 3 * time.Minute

// waiting returns the dice of a run with windows, and with classes that settle first.
func waiting(seed uint64) *rand.Rand {
	if seed%8 != 5 {
		return nil
	}
	return rand.New(rand.NewPCG(seed, 2))
}

// waits gives some classes of a release a window that closes soon for a while, and has some
// settle before others.
func (s *simulation) waits(m *bundle.Manifest) {
	dice := s.waiting
	if dice == nil {
		return
	}
	var before []bundle.Class
	for _, class := range []bundle.Class{"web", "kv", "auth"} {
		u, ok := m.Classes[class]
		if !ok {
			continue
		}
		if dice.IntN(2) == 0 {
			opens := epoch.Add(s.now + closed + time.Duration(dice.Int64N(int64(time.Minute)))).UTC()
			u.Schedule.Windows = []bundle.Window{{Start: opens.Format("15:04"), Length: bundle.Duration(24*time.Hour - closed), Timezone: "UTC"}}
		}
		if dice.IntN(2) == 0 {
			u.Schedule.After = slices.Clone(before)
		}
		before = append(before, class)
		slices.Sort(before)
		m.Classes[class] = u
	}
	m.Format = m.LowestFormat()
}

// patience is how long the nodes of a run have, once faults have stopped: three times as long
// where its three classes may have to go one after the other.
func (s *simulation) patience() time.Duration {
	if s.waiting != nil || s.reverting.dice != nil {
		return 3 * patience
	}
	return patience
}

// checkWaits is that a node goes down only while its window is open, by its own clock, and
// after those have settled that it knows to settle first; but where the operator lets it.
func (a *agent) checkWaits(o *schedule.Order) {
	c := o.Classes[a.h.class]
	for i, id := range c.Roster {
		if id == a.h.id && slices.Contains(c.Now, i) {
			return
		}
	}
	for _, w := range c.Windows {
		opens, _ := time.Parse("15:04", w.Start)
		clock := a.clock().UTC()
		sinceMidnight := time.Duration(clock.Hour())*time.Hour + time.Duration(clock.Minute())*time.Minute + time.Duration(clock.Second())*time.Second
		until := time.Duration(opens.Hour())*time.Hour + time.Duration(opens.Minute())*time.Minute - sinceMidnight
		if until = (until + 24*time.Hour) % (24 * time.Hour); 0 < until && until < closed {
			a.s.fail(CheckWaits, "%s goes down, and its window opens in %v", a.h.name, until)
		}
	}
	for _, class := range c.After {
		for i, id := range o.Classes[class].Roster {
			h := a.s.hosts[a.s.index(id)]
			if r, ok := a.node.View().Get(id); (!ok || !r.Left) && !slices.Contains(o.Classes[class].Skipped, i) && h.truth.state.Version < o.Release && !h.forgot {
				a.s.fail(CheckWaits, "%s goes down for release %d, and %s of class %s, which settles first, is at version %d", a.h.name, o.Release, h.name, class, h.truth.state.Version)
			}
		}
	}
}
