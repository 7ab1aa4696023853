package schedule

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"moult/store/bundle"
)

// Candidate is a node that the operator's peer knows, with the Version that it has
// said. Reachable steers the ranks only: nodes that could be dead go last, where nobody
// waits for them. Left says that the node's agent has left the ring. Labels are what it said
// that it has.
type Candidate struct {
	ID              bundle.NodeID
	Class           bundle.Class
	Version         bundle.Version
	Reachable, Left bool
	Labels          map[string]string
}

// defaultClassOrder is the most careful schedule: for a class with nodes that
// neither the release nor an earlier order says anything of.
var defaultClassOrder = ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1, FailureMax: 1}

// Instantiate returns the first order of a release: m's schedules for the
// nodes at hand. digest is the manifest's. previous is the newest order that
// the operator has ever signed, nil for none; all its nodes are kept, except
// those that it skips and that are not reachable; others are taken in as far as they are
// reachable. Those that have left when they had settled at its release are skipped: only
// that is their word that they go down no more by an order up to it. A class that the
// release does not change keeps its earlier schedule, and its nodes their waves.
//
// The order is a function of the arguments: the candidates' sequence does not
// matter.
func Instantiate(m *bundle.Manifest, digest bundle.Digest, previous *Order, nodes []Candidate) (*Order, error) {
	o := &Order{
		Release: m.Version, Manifest: digest, Serial: 1,
		State: StateRunning, FinalizeAfter: m.FinalizeAfter, Classes: map[bundle.Class]ClassOrder{},
	}
	if previous != nil {
		if previous.Release >= m.Version {
			return nil, fmt.Errorf("%w: an order for release %d after that of release %d", ErrRefused, m.Version, previous.Release)
		}
		o.PreviousTurn = previous.Turn
		o.Previous, o.Forgotten, o.Withdrawn = previous.Release, slices.Clone(previous.Forgotten), slices.Clone(previous.Withdrawn)
	}
	for _, w := range o.Withdrawn {
		if w.First <= m.Version && m.Version <= w.Last {
			return nil, fmt.Errorf("%w: release %d is withdrawn for class %s: build and inject the next one", ErrRefused, m.Version, w.Class)
		}
	}
	members, away := gather(previous, nodes)
	labels := make(map[bundle.NodeID]map[string]string, len(nodes))
	for _, n := range nodes {
		labels[n.ID] = n.Labels
	}
	for _, class := range slices.Sorted(maps.Keys(members)) {
		reachable := members[class]
		c, err := classOrder(m, previous, class, len(reachable))
		if err != nil {
			return nil, fmt.Errorf("rollout order of release %d: class %s: %w", m.Version, class, err)
		}
		c.Roster = rank(digest, reachable)
		if _, changes := m.Classes[class]; !changes && previous != nil {
			before := previous.Classes[class]
			c.keepWaves(&before, alive(reachable))
		}
		if err := c.inWaves(m.Classes[class].Schedule.Waves, alive(reachable), labels); err != nil {
			return nil, fmt.Errorf("rollout order of release %d: class %s: %w", m.Version, class, err)
		}
		for _, id := range away[class] {
			c.Skipped = append(c.Skipped, len(c.Roster))
			c.Roster = append(c.Roster, id)
		}
		if s := c.Spread; s != nil {
			c.Spread = newSpread(s.Label, s.Max, c.Roster, labels)
		}
		o.Classes[class] = c
	}
	for _, class := range slices.Sorted(maps.Keys(m.Classes)) {
		if _, ok := o.Classes[class]; ok {
			continue
		}
		c, err := classOrder(m, previous, class, 0) // its first nodes may come later
		if err != nil {
			return nil, fmt.Errorf("rollout order of release %d: class %s: %w", m.Version, class, err)
		}
		o.Classes[class] = c
	}
	o.keepAgents(m, previous)
	o.Format = o.lowestFormat()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return o, Follows(previous, o)
}

// gather returns the nodes of each class, with whether they are reachable; and apart
// those of the previous order that have left, and that nobody need wait for, sorted.
func gather(previous *Order, nodes []Candidate) (all map[bundle.Class]map[bundle.NodeID]bool, away map[bundle.Class][]bundle.NodeID) {
	all = map[bundle.Class]map[bundle.NodeID]bool{}
	add := func(class bundle.Class, id bundle.NodeID, reachable bool) {
		if all[class] == nil {
			all[class] = map[bundle.NodeID]bool{}
		}
		all[class][id] = all[class][id] || reachable
	}
	if previous != nil {
		for class, c := range previous.Classes {
			for _, m := range c.members() {
				if m.attempts > 0 {
					add(class, m.id, false)
				}
			}
		}
	}
	away = map[bundle.Class][]bundle.NodeID{}
	for _, n := range nodes {
		switch _, before := all[n.Class][n.ID]; {
		case n.Reachable:
			add(n.Class, n.ID, true)
		case n.Left && before && n.Version >= previous.Release && previous.Turn == 0: // else that is not said by its version
			delete(all[n.Class], n.ID)
			away[n.Class] = append(away[n.Class], n.ID)
		case previous == nil && !n.Left:
			add(n.Class, n.ID, false)
		}
	}
	for class := range away {
		slices.SortFunc(away[class], func(a, b bundle.NodeID) int { return bytes.Compare(a[:], b[:]) })
		if all[class] == nil {
			all[class] = map[bundle.NodeID]bool{} // a class of them alone
		}
	}
	return all, away
}

// rank returns the nodes in the order in which they may go down: reachable
// ones first, and within that by a hash of the release and the node, so that
// no node is first in every release.
func rank(digest bundle.Digest, reachable map[bundle.NodeID]bool) []bundle.NodeID {
	type ranked struct {
		id   bundle.NodeID
		last int
		hash [sha256.Size]byte
	}
	list := make([]ranked, 0, len(reachable))
	for id, ok := range reachable {
		r := ranked{id: id, hash: sha256.Sum256(append(digest[:], id[:]...))}
		if !ok {
			r.last = 1
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.last, b.last), bytes.Compare(a.hash[:], b.hash[:]))
	})
	roster := make([]bundle.NodeID, 0, len(list))
	for _, r := range list {
		roster = append(roster, r.id)
	}
	return roster
}

// alive counts the nodes that are reachable, which rank puts first.
func alive(reachable map[bundle.NodeID]bool) (n int) {
	for _, ok := range reachable {
		if ok {
			n++
		}
	}
	return n
}

// classOrder returns the schedule of a class for so many nodes, without roster.
func classOrder(m *bundle.Manifest, previous *Order, class bundle.Class, nodes int) (ClassOrder, error) {
	if u, ok := m.Classes[class]; ok {
		return fromSpec(u.Schedule, nodes)
	}
	c := defaultClassOrder
	if previous != nil {
		if before, ok := previous.Classes[class]; ok {
			c = before
			c.Roster, c.Skipped, c.Started, c.Now, c.Waves = nil, nil, nil, nil, nil
			if s := before.Spread; s != nil {
				c.Spread = &Spread{Label: s.Label, Max: s.Max}
			}
			c.After = withoutCircles(m.Classes, previous, class)
		}
	}
	if !c.Bounds() {
		c.MaxUnavailable = max(1, nodes)
	}
	return c, nil
}

// withoutCircles returns what still settles before a class that the release does not
// change: of what did by the order before, not what waits for it by what the release says.
func withoutCircles(classes map[bundle.Class]bundle.ClassUpgrade, previous *Order, class bundle.Class) (after []bundle.Class) {
	all := maps.Clone(classes)
	for name, c := range previous.Classes {
		if _, changed := all[name]; !changed {
			all[name] = bundle.ClassUpgrade{Schedule: bundle.ScheduleSpec{After: c.After}}
		}
	}
	for _, other := range previous.Classes[class].After {
		if other != class && !bundle.WaitsFor(all, other, class) {
			after = append(after, other)
		}
	}
	return after
}

func fromSpec(s bundle.ScheduleSpec, nodes int) (ClassOrder, error) {
	c := ClassOrder{
		Strategy: s.Strategy, Canary: s.Canary, Soak: s.Soak,
		FailureMax:       cmp.Or(s.FailureMax, 1), // a rollout that nothing stops must be asked for by a number
		ProgressDeadline: s.ProgressDeadline,
		Windows:          s.Windows, After: s.After, When: s.When, HoldIf: s.HoldIf,
	}
	if c.Rate = s.Rate; !c.Bounds() {
		c.MaxUnavailable = max(1, nodes)
		return c, nil
	}
	if s.Spread != nil {
		c.Spread = &Spread{Label: s.Spread.Label, Max: s.Spread.Max}
	}
	k, err := budget(s.MaxUnavailable, nodes)
	c.MaxUnavailable = k
	return c, err
}

// budget reads "3" or "10%" (of the nodes, rounded down, at least 1).
func budget(s string, nodes int) (int, error) {
	share, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(share)
	if err != nil || n < 1 || (percent && n > 100) {
		return 0, fmt.Errorf("max_unavailable %.40q: want a count such as \"2\" or a share such as \"10%%\"", s)
	}
	if percent {
		n = nodes * n / 100
	}
	return min(max(1, n), MaxRoster), nil
}
