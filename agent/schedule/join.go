package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Joined says that an order takes the place of two that contradict each other, and of what
// came before them. See the package doc.
type Joined struct {
	// Orders are the digests of the orders whose place it takes although it is not their
	// successor, rising.
	Orders []bundle.Digest `json:"orders"`
	// Open until somebody resumes it: nodes may be down by either of them.
	Open bool `json:"open,omitempty"`
}

func (j *Joined) validate(state string, fail func(bad bool, field, format string, args ...any)) {
	if j == nil {
		return
	}
	fail(len(j.Orders) < 2 || len(j.Orders) > MaxJoined, "joined.orders", "%d of them, want 2 to %d", len(j.Orders), MaxJoined)
	for i, d := range j.Orders {
		fail(d.IsZero() || i > 0 && j.Orders[i-1].String() >= d.String(), fmt.Sprintf("joined.orders[%d]", i), "want rising digests")
	}
	fail(j.Open && state == StateRunning, "joined", "open while the rollout is running")
}

// Joins reports whether o takes the place of an order of this digest although it is not its
// successor.
func (o *Order) Joins(d bundle.Digest) bool {
	return o.Joined != nil && slices.Contains(o.Joined.Orders, d)
}

// Join returns the order that takes the place of two of one release that contradict each
// other: it has the places, the skips and the starts of both, and is paused, or aborted
// where one of them is. Where one is of a later turn, the other counts as if it were, too;
// where one is finalized, and the other takes the release back, both count as if they went
// forward again. digests are theirs.
func Join(a, b *Order, digests ...bundle.Digest) (*Order, error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: rollout orders of release %d with serials %d and %d cannot be joined: %s", ErrRefused, a.Release, a.Serial, b.Serial, fmt.Sprintf(format, args...))
	}
	if a.Release != b.Release || a.Manifest != b.Manifest || a.Previous != b.Previous || a.FinalizeAfter != b.FinalizeAfter {
		return nil, refuse("they are of different releases, or of different contents: the next release ends it")
	}
	halves := []*Order{a, b}
	turn := max(a.Turn, b.Turn)
	if a.Finalized || b.Finalized {
		turn += turn % 2 // nodes may have done what cannot be undone, so all go forward again
	}
	a, b = a.inTurn(turn), b.inTurn(turn)
	next := *a
	next.Serial, next.State = max(a.Serial, b.Serial)+1, StatePaused
	if a.State == StateAborted || b.State == StateAborted {
		next.State = StateAborted
	}
	next.Finalized = a.Finalized || b.Finalized
	next.Classes = map[bundle.Class]ClassOrder{}
	maps.Copy(next.Classes, b.Classes)
	for _, name := range slices.Sorted(maps.Keys(a.Classes)) {
		y, both := b.Classes[name]
		if !both {
			next.Classes[name] = a.Classes[name]
			continue
		}
		c, err := joinClass(a.Classes[name], y)
		if err != nil {
			return nil, refuse("class %s: %v", name, err)
		}
		next.Classes[name] = c
	}
	var err error
	if next.Agents, err = joinAgents(a.Agents, b.Agents); err != nil {
		return nil, refuse("%v", err)
	}
	next.Forgotten, next.Withdrawn = slices.Clone(a.Forgotten), slices.Clone(a.Withdrawn)
	for _, f := range b.Forgotten {
		if i := slices.IndexFunc(next.Forgotten, func(g Forgotten) bool { return g.Node == f.Node }); i >= 0 {
			next.Forgotten[i].UpTo = max(next.Forgotten[i].UpTo, f.UpTo)
		} else if len(next.Forgotten) < MaxForgotten {
			next.Forgotten = append(next.Forgotten, f)
		}
	}
	for _, w := range b.Withdrawn {
		next.Withdrawn = next.Withdrawn.With(w)
	}
	next.Joined = &Joined{Open: true}
	for _, o := range []*Order{a, b} {
		if o.Joined != nil {
			digests = append(digests, o.Joined.Orders...)
		}
	}
	slices.SortFunc(digests, func(x, y bundle.Digest) int { return strings.Compare(x.String(), y.String()) })
	next.Joined.Orders = slices.Compact(digests)
	next.Format = next.lowestFormat()
	if err := next.Validate(); err != nil {
		return nil, err
	}
	for _, o := range halves {
		if err := JoinSuccessor(o, &next); err != nil {
			return nil, err
		}
	}
	return &next, nil
}

// inTurn is an order as it would have been had its operator come to that turn, too; the
// order itself where that is no later one.
func (o *Order) inTurn(turn int) *Order {
	if turn <= o.Turn {
		return o
	}
	later := *o
	later.Turn, later.State, later.Classes = turn, StateRunning, map[bundle.Class]ClassOrder{}
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		later.Classes[name] = anew(o.Classes[name], nil, nil)
	}
	return &later
}

// joinClass puts the parts of two orders for one class together, and takes the more careful
// of two schedules.
func joinClass(a, b ClassOrder) (ClassOrder, error) {
	c := a
	if (a.Strategy == bundle.StrategyManual) != (b.Strategy == bundle.StrategyManual) {
		return c, fmt.Errorf("strategy %s and strategy %s rank differently", a.Strategy, b.Strategy)
	}
	if a.Strategy != b.Strategy {
		c.Strategy = bundle.StrategyRolling
	}
	if c.Rate = min(a.Rate, b.Rate); c.Strategy != bundle.StrategyRandom {
		c.Rate = 0
	}
	c.MaxUnavailable, c.Canary, c.Soak = min(a.MaxUnavailable, b.MaxUnavailable), max(a.Canary, b.Canary), max(a.Soak, b.Soak)
	if c.FailureMax = min(a.FailureMax, b.FailureMax); c.FailureMax == 0 { // of one that never stops
		c.FailureMax = max(a.FailureMax, b.FailureMax)
	}
	if c.ProgressDeadline = min(a.ProgressDeadline, b.ProgressDeadline); c.ProgressDeadline == 0 {
		c.ProgressDeadline = max(a.ProgressDeadline, b.ProgressDeadline)
	}
	if c.Waves = joinWaves(&a, &b); len(c.Waves) > 0 {
		c.Canary, c.Soak = 0, 0
	}
	switch { // one operator's peer may have known nothing of the class
	case len(a.Windows) == 0:
		c.Windows = b.Windows
	case len(b.Windows) > 0 && !slices.EqualFunc(a.Windows, b.Windows, bundle.Window.Equal):
		return c, fmt.Errorf("they have different windows")
	}
	for _, x := range []struct{ into, a, b *string }{{&c.When, &a.When, &b.When}, {&c.HoldIf, &a.HoldIf, &b.HoldIf}} {
		if *x.into = cmp.Or(*x.a, *x.b); *x.b != "" && *x.b != *x.into {
			return c, fmt.Errorf("they have different conditions")
		}
	}
	c.After = slices.Concat(a.After, b.After)
	slices.Sort(c.After)
	c.After = slices.Compact(c.After)
	c.Roster, c.Skipped, c.Started, c.Now = slices.Clone(a.Roster), nil, nil, nil
	have, ofA := a.counts()
	_, ofB := b.counts()
	seen, at := map[bundle.NodeID]int{}, map[bundle.NodeID]int{}
	for _, id := range b.Roster {
		if seen[id]++; seen[id] > have[id] {
			c.Roster = append(c.Roster, id)
			have[id]++
		}
	}
	var err error
	if c.Spread, err = joinSpread(&a, &b, c.Roster); err != nil {
		return c, err
	}
	// Of two words about a node the one that it is gone counts, and for all its places:
	// neither operator knew of those that the other gave it.
	for i, id := range c.Roster {
		if at[id]++; ofA[id] != ofB[id] || at[id] <= ofA[id] {
			c.Skipped = append(c.Skipped, i)
		}
	}
	for _, half := range []ClassOrder{a, b} {
		for _, p := range half.nthPlaces(half.Started) {
			if i := c.placeOf(p.node, p.nth); !slices.Contains(c.Started, i) {
				c.Started = append(c.Started, i)
			}
		}
		for _, p := range half.nthPlaces(half.Now) {
			c.Now = append(c.Now, c.placeOf(p.node, p.nth))
		}
	}
	slices.Sort(c.Now)
	c.Now = slices.Compact(c.Now)
	return c, nil
}

// nthPlace is a place of a node, from 1, skipped or not.
type nthPlace struct {
	node bundle.NodeID
	nth  int
}

func (c *ClassOrder) nthPlaces(list []int) (all []nthPlace) {
	nth, seen := make([]int, len(c.Roster)), map[bundle.NodeID]int{}
	for i, id := range c.Roster {
		seen[id]++
		nth[i] = seen[id]
	}
	for _, i := range list {
		all = append(all, nthPlace{c.Roster[i], nth[i]})
	}
	return all
}

// placeOf is where in the roster the nth place of a node is; -1 where it has fewer.
func (c *ClassOrder) placeOf(id bundle.NodeID, nth int) int {
	for i, node := range c.Roster {
		if node == id {
			if nth--; nth == 0 {
				return i
			}
		}
	}
	return -1
}

// counts counts the places of each node, and those of them that are skipped.
func (c *ClassOrder) counts() (places, skipped map[bundle.NodeID]int) {
	places, skipped = map[bundle.NodeID]int{}, map[bundle.NodeID]int{}
	for _, id := range c.Roster {
		places[id]++
	}
	for _, i := range c.Skipped {
		skipped[c.Roster[i]]++
	}
	return places, skipped
}

// JoinSuccessor reports why next, which joins old and another order, may not take the place
// of old; nil if it may. It asks what Successor does, but for the ranks: each node has the
// places, the skips and the starts that old gave it, wherever they stand. The error is
// ErrNotSuccessor for errors.Is.
func JoinSuccessor(old, next *Order) error {
	bad := notSuccessor(old, next)
	if err := succeeds(old, next); err != nil {
		return err
	}
	if text := agentsSuccessor(old.Agents, next.Agents, true); text != "" {
		return bad("%s", text)
	}
	if next.Turn > old.Turn {
		return turnSuccessor(old, next)
	}
	for _, name := range slices.Sorted(maps.Keys(old.Classes)) {
		was, is := old.Classes[name], next.Classes[name]
		had, hadSkipped := was.counts()
		has, hasSkipped := is.counts()
		for _, id := range was.Roster {
			n, before, after := had[id], hadSkipped[id], hasSkipped[id]
			switch {
			case has[id] < n:
				return bad("class %s: node %s has %d places and had %d", name, id.Short(), has[id], n)
			case after < before || after > before && after < n:
				return bad("class %s: node %s: a skip covers every place that the node has, for good", name, id.Short())
			}
		}
		for _, p := range was.nthPlaces(was.Started) {
			if !slices.Contains(is.Started, is.placeOf(p.node, p.nth)) {
				return bad("class %s: node %s is not started any more", name, p.node.Short())
			}
		}
		if (is.Strategy == bundle.StrategyManual) != (was.Strategy == bundle.StrategyManual) {
			return bad("class %s: strategy %s after %s: they rank differently", name, is.Strategy, was.Strategy)
		}
	}
	return nil
}

// Unjoined lists the nodes that may still be down by one of the orders that o has joined:
// all that have a place, and have not said that they are up and have o, by its digest. Of
// one whose agent is of an older moult, which says no digest, metadata of this number are
// taken for those by which o is in force. Before there are none left o must not be resumed.
func Unjoined(o *Order, digest bundle.Digest, number int64, lookup func(bundle.NodeID) (view.Record, bool)) (nodes []bundle.NodeID) {
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		for i, id := range c.Roster {
			r, known := lookup(id)
			has := r.Joined == digest || r.Reads < view.ReadsJoined && r.Trust.Timestamp >= number
			up := known && has && !r.Phase.Down() && r.Phase != view.Probing
			if !slices.Contains(c.Skipped, i) && !up && !slices.Contains(nodes, id) {
				nodes = append(nodes, id)
			}
		}
	}
	return nodes
}
