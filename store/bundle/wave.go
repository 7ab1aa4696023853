package bundle

import (
	"maps"
	"slices"
	"time"
)

// Wave is some of a class's nodes: the next in the order in which they may go down. Those of
// the next wave wait until these have settled, and have been well for Soak. What no wave
// holds comes last. One of Count, Percent, Labels and Each says which nodes they are.
type Wave struct {
	// Count is so many nodes more.
	Count int `json:"count,omitempty"`
	// Percent is as many more as it takes for so large a share of the class, rounded up.
	Percent int `json:"percent,omitempty"`
	// Labels are those of the nodes that have all of these.
	Labels map[string]string `json:"labels,omitempty"`
	// Each names a label: the nodes of one of its values after those of the other, by name,
	// each a wave of its own.
	Each string   `json:"each,omitempty"`
	Soak Duration `json:"soak,omitempty"`
}

// ValidLabel reports whether s is a label or the value of one as a schedule may name it.
func ValidLabel(s string) bool { return s != "" && len(s) <= MaxLabelBytes && printable(s) }

func (v *validator) waves(path string, s *ScheduleSpec) {
	v.fail(len(s.Waves) > MaxWaves, path, "%d of them, the most is %d", len(s.Waves), MaxWaves)
	v.fail(len(s.Waves) > 0 && s.Canary > 0, path, "set, and a canary too")
	v.fail(len(s.Waves) > 0 && s.Strategy != StrategyRolling, path, "set, but the strategy is %q: only %q ranks the nodes", s.Strategy, StrategyRolling)
	share := 0
	for _, w := range s.Waves {
		kinds := 0
		for _, is := range []bool{w.Count != 0, w.Percent != 0, len(w.Labels) > 0, w.Each != ""} {
			if is {
				kinds++
			}
		}
		v.fail(kinds != 1, path, "a wave with %d of count, percent, labels and each, want one", kinds)
		v.fail(w.Count < 0 || w.Count > MaxCanary, path+".count", "%d, want 1 to %d", w.Count, MaxCanary)
		v.fail(w.Percent != 0 && (w.Percent <= share || w.Percent > 100), path+".percent", "%d, want more than the %d before, and at most 100", w.Percent, share)
		share = max(share, w.Percent)
		v.fail(len(w.Labels) > MaxWaveLabels, path+".labels", "%d of them, the most is %d", len(w.Labels), MaxWaveLabels)
		for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
			v.fail(!ValidLabel(k) || !ValidLabel(w.Labels[k]), path+".labels", "%.40q = %.40q, want texts of 1 to %d bytes", k, w.Labels[k], MaxLabelBytes)
		}
		v.fail(w.Each != "" && !ValidLabel(w.Each), path+".each", "%.40q, want the name of a label", w.Each)
		v.duration(path+".soak", w.Soak, 0, MaxSoak)
	}
}

// Spread bounds how many nodes that share the value of a label may be down at once, beside
// MaxUnavailable: of one zone, say.
type Spread struct {
	Label string `json:"label"`
	Max   int    `json:"max"`
}

func (v *validator) spread(path string, s *ScheduleSpec) {
	if s.Spread == nil {
		return
	}
	v.fail(s.Strategy == StrategyAtOnce || s.Strategy == StrategyRandom, path, "set, but the strategy %s bounds nothing", s.Strategy)
	v.fail(!ValidLabel(s.Spread.Label), path+".label", "%.40q, want the name of a label", s.Spread.Label)
	v.fail(s.Spread.Max < 1 || s.Spread.Max > MaxFailures, path+".max", "%d, want 1 to %d", s.Spread.Max, MaxFailures)
}

// LongestSoak is the longest of a schedule's soaks.
func (s *ScheduleSpec) LongestSoak() Duration {
	longest := s.Soak
	for _, w := range s.Waves {
		longest = max(longest, w.Soak)
	}
	return longest
}

// RandomPause is how long StrategyRandom may go without another node at a rate: of the pauses
// between two, which are an hour by the rate on average, one in e^10 is as long by chance.
func RandomPause(rate int) Duration { return Duration(10*time.Hour) / Duration(rate) }
