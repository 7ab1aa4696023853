package schedule

import (
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
// where one of them is. digests are theirs.
func Join(a, b *Order, digests ...bundle.Digest) (*Order, error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: rollout orders of release %d with serials %d and %d cannot be joined: %s", ErrRefused, a.Release, a.Serial, b.Serial, fmt.Sprintf(format, args...))
	}
	if a.Release != b.Release || a.Manifest != b.Manifest || a.Previous != b.Previous {
		return nil, refuse("they are of different releases, or of different contents: the next release ends it")
	}
	next := *a
	next.Serial, next.State = max(a.Serial, b.Serial)+1, StatePaused
	if a.State == StateAborted || b.State == StateAborted {
		next.State = StateAborted
	}
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
	for _, o := range []*Order{a, b} {
		if err := JoinSuccessor(o, &next); err != nil {
			return nil, err
		}
	}
	return &next, nil
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
	c.MaxUnavailable, c.Canary, c.Soak = min(a.MaxUnavailable, b.MaxUnavailable), max(a.Canary, b.Canary), max(a.Soak, b.Soak)
	if c.FailureMax = min(a.FailureMax, b.FailureMax); c.FailureMax == 0 { // of one that never stops
		c.FailureMax = max(a.FailureMax, b.FailureMax)
	}
	c.Roster, c.Skipped, c.Started = slices.Clone(a.Roster), nil, nil
	have, ofA := a.counts()
	_, ofB := b.counts()
	seen, at := map[bundle.NodeID]int{}, map[bundle.NodeID]int{}
	for _, id := range b.Roster {
		if seen[id]++; seen[id] > have[id] {
			c.Roster = append(c.Roster, id)
			have[id]++
		}
	}
	// Of two words about a node the one that it is gone counts, and for all its places:
	// neither operator knew of those that the other gave it.
	for i, id := range c.Roster {
		if at[id]++; ofA[id] != ofB[id] || at[id] <= ofA[id] {
			c.Skipped = append(c.Skipped, i)
		}
	}
	for _, half := range []ClassOrder{a, b} {
		for _, p := range half.startedPlaces() {
			if i := c.placeOf(p.node, p.nth); !slices.Contains(c.Started, i) {
				c.Started = append(c.Started, i)
			}
		}
	}
	return c, nil
}

// nthPlace is a place of a node, from 1, skipped or not.
type nthPlace struct {
	node bundle.NodeID
	nth  int
}

func (c *ClassOrder) startedPlaces() (all []nthPlace) {
	nth, seen := make([]int, len(c.Roster)), map[bundle.NodeID]int{}
	for i, id := range c.Roster {
		seen[id]++
		nth[i] = seen[id]
	}
	for _, i := range c.Started {
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
		for _, p := range was.startedPlaces() {
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
// all that have a place, and have not said that they are up and have metadata of this
// number, by which o is in force. Before there are none left o must not be resumed.
func Unjoined(o *Order, number int64, lookup func(bundle.NodeID) (view.Record, bool)) (nodes []bundle.NodeID) {
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		for i, id := range c.Roster {
			r, known := lookup(id)
			up := known && r.Trust.Timestamp >= number && !r.Phase.Down() && r.Phase != view.Probing
			if !slices.Contains(c.Skipped, i) && !up && !slices.Contains(nodes, id) {
				nodes = append(nodes, id)
			}
		}
	}
	return nodes
}
