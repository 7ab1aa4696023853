package plan

import (
	"testing"
	"time"

	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// What a rollout takes by rehearsals: nodes of one wave beside each other, as many as may be
// down, and the soaks between; those who have not rehearsed as the median of the others.
func TestExpected(t *testing.T) {
	node := func(id byte, at bundle.Version, down int) RingNode {
		return RingNode{ID: bundle.NodeID{id}, Version: at, Rehearsed: view.Rehearsal{Down: bundle.Duration(down) * bundle.Duration(time.Second)}}
	}
	now := time.Unix(1e9, 0)
	failed := func(n RingNode) RingNode {
		n.Rehearsed.Outcome = view.RehearsalFailed
		return n
	}
	settled := func(n RingNode, ago time.Duration) RingNode {
		n.Phase, n.since = string(view.Settled), now.Add(-ago)
		return n
	}
	canary := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1, Canary: 1, Soak: bundle.Duration(time.Hour)}
	five := []RingNode{node(1, 1, 10), node(2, 1, 20), node(3, 1, 0), node(4, 1, 30), node(5, 1, 40)} // the third counts 30
	for name, c := range map[string]struct {
		order  schedule.ClassOrder
		nodes  []RingNode
		takes  int // seconds; 0: nobody knows
		counts int
	}{
		"one after the other":    {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}, five, 130, 5},
		"two at once":            {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 2}, five, 80, 5}, // 10+30+40, 20+30
		"at once":                {schedule.ClassOrder{Strategy: bundle.StrategyAtOnce, MaxUnavailable: 1}, five, 40, 5},
		"a canary and its soak":  {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 2, Canary: 1, Soak: bundle.Duration(time.Minute)}, five, 10 + 60 + 70, 5},
		"two waves":              {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 4, Waves: []schedule.Wave{{UpTo: 2}, {UpTo: 4, Soak: bundle.Duration(time.Second)}}}, five, 20 + 30 + 1 + 40, 5},
		"by hand":                {schedule.ClassOrder{Strategy: bundle.StrategyManual, MaxUnavailable: 1}, five, 0, 0},
		"nobody has rehearsed":   {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}, five[2:3], 0, 0},
		"one is there":           {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}, []RingNode{node(1, 2, 10), node(2, 1, 20)}, 20, 1},
		"one tries another time": {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}, []RingNode{node(1, 1, 10), node(2, 1, 20), node(1, 1, 10)}, 30, 2},
		"the canary is there":    {canary, []RingNode{settled(node(1, 2, 10), 2*time.Hour), node(2, 1, 20)}, 20, 1},
		"the canary soaks still": {canary, []RingNode{settled(node(1, 2, 10), time.Hour-time.Minute), node(2, 1, 20)}, 60 + 20, 1},
		"its clock is ahead":     {canary, []RingNode{settled(node(1, 2, 10), -time.Hour), node(2, 1, 20)}, 3600 + 20, 1},
		"the canary is skipped":  {canary, []RingNode{{ID: bundle.NodeID{1}, Version: 1, Skipped: true}, node(2, 1, 20)}, 20, 1},
		"it has failed on one":   {schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}, []RingNode{failed(node(1, 1, 0)), node(2, 1, 20), failed(node(3, 1, 50))}, 20, 1},
	} {
		e := expect(c.order, 2, c.nodes, now)
		if e == nil {
			e = &Expected{}
		}
		if got := time.Duration(e.Takes); got != time.Duration(c.takes)*time.Second || e.Nodes != c.counts {
			t.Errorf("%s: %v for %d nodes, want %ds for %d", name, got, e.Nodes, c.takes, c.counts)
		}
	}
}
