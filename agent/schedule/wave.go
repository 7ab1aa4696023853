package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"moult/store/bundle"
)

// Wave is a part of the ranked list: the places before rank UpTo that no earlier wave has.
// Those behind wait until they are over, and their nodes have been settled, and well, for
// Soak.
type Wave struct {
	UpTo int             `json:"up_to"`
	Soak bundle.Duration `json:"soak,omitempty"`
}

// waves returns the waves of a class; a canary is one.
func (c *ClassOrder) waves() []Wave {
	if c.Canary > 0 {
		return []Wave{{UpTo: c.Canary, Soak: c.Soak}}
	}
	return c.Waves
}

// Canaries is how many of the first places are watched more closely than others: those of
// the first wave.
func (c *ClassOrder) Canaries() int {
	if len(c.Waves) > 0 {
		return c.Waves[0].UpTo
	}
	return c.Canary
}

// WaveOf is the number, from 1, of the wave that a ranked place is in; behind all of them it
// is one more. 0 where there are no waves.
func (c *ClassOrder) WaveOf(rank int) int {
	waves := c.waves()
	if len(waves) == 0 {
		return 0
	}
	for i, w := range waves {
		if rank < w.UpTo {
			return i + 1
		}
	}
	return len(waves) + 1
}

// SoakOf is for how long the software of a node must be well after it has settled: the soak
// of the wave of its first place, and behind the waves that of the last.
func (c *ClassOrder) SoakOf(id bundle.NodeID) bundle.Duration {
	if len(c.Waves) == 0 {
		return c.Soak
	}
	return c.SoakAt(slices.Index(c.Roster, id))
}

// SoakAt is SoakOf for a node whose first place has this rank.
func (c *ClassOrder) SoakAt(rank int) bundle.Duration {
	if len(c.Waves) == 0 {
		return c.Soak
	}
	for _, w := range c.Waves {
		if 0 <= rank && rank < w.UpTo {
			return w.Soak
		}
	}
	return c.Waves[len(c.Waves)-1].Soak
}

// LongestPause is for how long nobody may settle though all goes well: while a wave soaks, or no
// number comes up under bundle.StrategyRandom.
func (c *ClassOrder) LongestPause() bundle.Duration {
	var longest bundle.Duration
	if c.Rate > 0 {
		longest = bundle.RandomPause(c.Rate)
	}
	for _, w := range c.waves() {
		longest = max(longest, w.Soak)
	}
	return longest
}

func (c *ClassOrder) validateWaves(fail func(bad bool, field, format string, args ...any)) {
	fail(len(c.Waves) > MaxWaves, "waves", "%d of them, the most is %d", len(c.Waves), MaxWaves)
	fail(len(c.Waves) > 0 && (c.Canary > 0 || c.Soak > 0), "waves", "set, and a canary too")
	fail(len(c.Waves) > 0 && c.Strategy != bundle.StrategyRolling, "waves", "set, but the strategy is %s", c.Strategy)
	before := 0
	for i, w := range c.Waves {
		fail(w.UpTo <= before || w.UpTo > MaxRoster, fmt.Sprintf("waves[%d].up_to", i), "%d, want %d to %d", w.UpTo, before+1, MaxRoster)
		fail(w.Soak < 0 || w.Soak > bundle.MaxSoak, fmt.Sprintf("waves[%d].soak", i), "%s, want 0 to %s", w.Soak, bundle.MaxSoak)
		before = w.UpTo
	}
}

// inWaves brings a ranked roster, of which the first alive nodes are reachable, in the order
// of its waves. Nodes that are not reachable stay last, where nobody waits for them. It
// refuses a wave by labels that none has of those that are: whom it was to be tried on first
// would go with all others. One whose nodes have all gone in waves before is none.
func (c *ClassOrder) inWaves(waves []bundle.Wave, alive int, labels map[bundle.NodeID]map[string]string) error {
	rest := slices.Clone(c.Roster[:alive])
	var roster []bundle.NodeID
	take := func(soak bundle.Duration, fits func(id bundle.NodeID) bool) {
		before := len(roster)
		rest = slices.DeleteFunc(rest, func(id bundle.NodeID) bool {
			if fits(id) {
				roster = append(roster, id)
				return true
			}
			return false
		})
		if len(roster) > before { // a wave of nobody is none
			c.Waves = append(c.Waves, Wave{UpTo: len(roster), Soak: soak})
		}
	}
	for i, w := range waves {
		if err := c.anyIn(i+1, w, alive, labels); err != nil {
			return err
		}
		switch {
		case w.Each != "":
			values := map[string]bool{}
			for _, id := range rest {
				if value := labels[id][w.Each]; value != "" {
					values[value] = true
				}
			}
			for _, value := range slices.Sorted(maps.Keys(values)) {
				take(w.Soak, func(id bundle.NodeID) bool { return labels[id][w.Each] == value })
			}
		case len(w.Labels) > 0:
			take(w.Soak, func(id bundle.NodeID) bool { return hasLabels(labels[id], w.Labels) })
		default:
			upTo := len(roster) + w.Count
			if w.Percent > 0 {
				upTo = (alive*w.Percent + 99) / 100
			}
			take(w.Soak, func(bundle.NodeID) bool { return len(roster) < upTo })
		}
	}
	if len(c.Waves) > MaxWaves {
		return fmt.Errorf("%w: its nodes make %d waves, one for each value of a label, and the most is %d: build the release with waves by count or percent, or by a label of fewer values", ErrRefused, len(c.Waves), MaxWaves)
	}
	c.Roster = slices.Concat(roster, rest, c.Roster[alive:])
	return nil
}

// keepWaves brings a ranked roster, of which the first alive nodes are reachable, in the order
// of the waves that the class had before: its nodes stay in theirs, and new ones come behind.
// A wave of which nobody can be reached leaves its soak to its neighbour; where none is left,
// as many go first as did.
func (c *ClassOrder) keepWaves(before *ClassOrder, alive int) {
	if len(before.Waves) == 0 {
		return
	}
	first := map[bundle.NodeID]int{}
	for i, id := range slices.Backward(before.Roster) {
		first[id] = i
	}
	var roster []bundle.NodeID
	var soak bundle.Duration // of waves that nobody is in
	rest := slices.Clone(c.Roster[:alive])
	for _, w := range before.Waves {
		soak = max(soak, w.Soak)
		n := len(roster)
		rest = slices.DeleteFunc(rest, func(id bundle.NodeID) bool {
			at, had := first[id]
			if had = had && at < w.UpTo; had {
				roster = append(roster, id)
			}
			return had
		})
		if len(roster) > n {
			c.Waves, soak = append(c.Waves, Wave{UpTo: len(roster), Soak: soak}), 0
		}
	}
	if c.Roster = slices.Concat(roster, rest, c.Roster[alive:]); len(c.Waves) == 0 {
		c.Waves = []Wave{{UpTo: before.Waves[0].UpTo}}
	}
	last := &c.Waves[len(c.Waves)-1]
	last.Soak = max(last.Soak, soak)
}

// joinWaves returns the waves of a class of two orders that are joined, whose ranked list
// begins with a's. Where those of b are others, or of others, there is one, the smaller of
// their first, with the longest soak.
func joinWaves(a, b *ClassOrder) []Wave {
	if len(b.Waves) == 0 {
		return a.Waves
	}
	n := b.Waves[len(b.Waves)-1].UpTo
	if slices.Equal(a.Waves, b.Waves) && slices.Equal(a.Roster[:min(n, len(a.Roster))], b.Roster[:min(n, len(b.Roster))]) {
		return a.Waves
	}
	one := Wave{UpTo: b.Waves[0].UpTo}
	if len(a.Waves) > 0 {
		one.UpTo = min(one.UpTo, a.Waves[0].UpTo)
	}
	for _, w := range slices.Concat(a.Waves, b.Waves) {
		one.Soak = max(one.Soak, w.Soak)
	}
	return []Wave{one}
}

// anyIn refuses the nth wave if it is by labels, and none of the first alive nodes has them.
func (c *ClassOrder) anyIn(nth int, w bundle.Wave, alive int, labels map[bundle.NodeID]map[string]string) error {
	want := w.Each
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		want += fmt.Sprintf(" and %s=%s", k, w.Labels[k])
	}
	if want = strings.TrimPrefix(want, " and "); want == "" || len(c.Roster) == 0 || slices.ContainsFunc(c.Roster[:alive], func(id bundle.NodeID) bool {
		return labels[id][w.Each] != "" || w.Each == "" && hasLabels(labels[id], w.Labels)
	}) {
		return nil
	}
	return fmt.Errorf("%w: none of its nodes that can be reached has the label of wave %d (%s): bring one up that has, label them in their agent.hcl (`moult status` shows who can be reached), or build the release with another wave", ErrRefused, nth, want)
}

func hasLabels(has, want map[string]string) bool {
	for k, value := range want {
		if has[k] != value {
			return false
		}
	}
	return true
}

// Spread is a second bound, beside MaxUnavailable: of the nodes that share a value of Label
// at most Max may be down at once. What the nodes' labels are stands here, as the operator
// saw them: what a node says of itself later may be something else.
type Spread struct {
	Label string `json:"label"`
	Max   int    `json:"max"`
	// Values are the label's, sorted; Of tells for each place in the roster which its node
	// has, counted from 1. 0 is that of a node of which no value is known: it may share
	// that of any other.
	Values []string `json:"values,omitempty"`
	Of     []int    `json:"of,omitempty"`
}

// newSpread notes the values of a label.
func newSpread(label string, most int, roster []bundle.NodeID, labels map[bundle.NodeID]map[string]string) *Spread {
	s := &Spread{Label: label, Max: most}
	for _, id := range roster {
		if value := labels[id][label]; bundle.ValidLabel(value) {
			s.Values = append(s.Values, value)
		}
	}
	slices.Sort(s.Values)
	s.Values = slices.Compact(s.Values)
	for _, id := range roster {
		at, ok := slices.BinarySearch(s.Values, labels[id][label])
		if !ok {
			at = -1
		}
		s.Of = append(s.Of, at+1)
	}
	return s
}

// with returns the spread of a roster that has grown: a node's places have one value, and of
// those that came later none is known.
func (s *Spread) with(roster []bundle.NodeID) *Spread {
	if s == nil {
		return nil
	}
	next := *s
	next.Of = slices.Clone(s.Of)
	for i := len(s.Of); i < len(roster); i++ {
		next.Of = append(next.Of, 0)
		if at := slices.Index(roster[:i], roster[i]); at >= 0 {
			next.Of[i] = next.Of[at]
		}
	}
	return &next
}

// value names what the node of a place has of the label, for people.
func (s *Spread) value(i int) string {
	if of := s.Of[i]; of > 0 {
		return fmt.Sprintf("those with %s=%s", s.Label, s.Values[of-1])
	}
	return fmt.Sprintf("all, since the order knows no %s of it,", s.Label)
}

func (c *ClassOrder) validateSpread(fail func(bad bool, field, format string, args ...any)) {
	s := c.Spread
	if s == nil {
		return
	}
	fail(!c.Bounds(), "spread", "set, but the strategy %s bounds nothing", c.Strategy)
	fail(!bundle.ValidLabel(s.Label), "spread.label", "%.40q, want the name of a label", s.Label)
	fail(s.Max < 1 || s.Max > MaxRoster, "spread.max", "%d, want 1 to %d", s.Max, MaxRoster)
	fail(len(s.Values) > MaxRoster, "spread.values", "%d of them, the most is %d", len(s.Values), MaxRoster)
	for i, value := range s.Values {
		fail(!bundle.ValidLabel(value) || i > 0 && s.Values[i-1] >= value, "spread.values", "%.40q, want rising texts of 1 to %d bytes", value, bundle.MaxLabelBytes)
	}
	if len(s.Of) != len(c.Roster) {
		fail(true, "spread.of", "%d of them, want one for each of the roster's %d places", len(s.Of), len(c.Roster))
		return
	}
	of := make(map[bundle.NodeID]int, len(c.Roster))
	for i, id := range c.Roster {
		before, again := of[id]
		fail(s.Of[i] < 0 || s.Of[i] > len(s.Values), "spread.of", "%d, want 0 to %d", s.Of[i], len(s.Values))
		fail(again && before != s.Of[i], "spread.of", "node %s has two values", id.Short())
		of[id] = s.Of[i]
	}
}

// badSpread tells why a later serial may not have this spread: what shares a value with what
// is as it was, or nodes would count others than those that counted them.
func badSpread(was, is *Spread) string {
	switch {
	case was == nil && is == nil:
	case was == nil || is == nil || was.Label != is.Label:
		return "a spread stays, with its label"
	case !slices.Equal(is.Values, was.Values) || len(is.Of) < len(was.Of) || !slices.Equal(is.Of[:len(was.Of)], was.Of):
		return "the labels of its nodes stay as they were"
	}
	return ""
}

// joinSpread puts the spreads of two orders together that are joined; joined has the roster.
// Where they know different values of a node, none is known.
func joinSpread(a, b *ClassOrder, joined []bundle.NodeID) (*Spread, error) {
	if a.Spread == nil && b.Spread == nil {
		return nil, nil
	}
	if x, y := a.Spread, b.Spread; x != nil && y != nil && x.Label != y.Label {
		return nil, fmt.Errorf("they spread over different labels, %s and %s", x.Label, y.Label)
	}
	labels, label, most := map[bundle.NodeID]map[string]string{}, "", MaxRoster
	for _, c := range []*ClassOrder{a, b} {
		if c.Spread == nil {
			continue
		}
		label, most = c.Spread.Label, min(most, c.Spread.Max)
		for i, id := range c.Roster {
			value := ""
			if of := c.Spread.Of[i]; of > 0 {
				value = c.Spread.Values[of-1]
			}
			if other, ok := labels[id]; ok && other[label] != value {
				value = ""
			}
			labels[id] = map[string]string{label: value}
		}
	}
	return newSpread(label, most, joined, labels), nil
}

// near reports whether two places may be of nodes that share a value of the spread's label.
func (s *Spread) near(i, j int) bool { return s.Of[i] == s.Of[j] || s.Of[i] == 0 || s.Of[j] == 0 }

// waveWords names a wave in a wait, from 1.
func waveWords(wave int) string {
	return cmp.Or(map[int]string{1: "the first nodes"}[wave], fmt.Sprintf("the nodes of wave %d", wave))
}
