package schedule

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Back reports whether the order takes its release back: its odd turns do, its even ones
// go forward.
func (o *Order) Back() bool { return o.Turn%2 == 1 }

// Revert returns the successor that takes the release back, which may also have been
// aborted; Again the one that goes forward to it again. Either is a turn of the order: each
// node that it does not skip has one place anew, and those of others that are reachable and
// that it did not name come behind them.
func (o *Order) Revert(others []Candidate) (*Order, error) {
	if o.Back() {
		return nil, fmt.Errorf("%w: release %d is being taken back already", ErrRefused, o.Release)
	}
	return o.turn(others)
}

// Again returns the successor of an order that takes its release back which goes forward.
func (o *Order) Again(others []Candidate) (*Order, error) {
	if !o.Back() {
		return nil, fmt.Errorf("%w: release %d is not being taken back", ErrRefused, o.Release)
	}
	return o.turn(others)
}

// Finalize returns the successor that says that the release will not be taken back. All nodes
// that it does not skip must have said that they are at it: see Unsettled.
func (o *Order) Finalize() (*Order, error) {
	return o.amend(func(next *Order) error {
		switch {
		case o.Finalized:
			return fmt.Errorf("release %d is finalized already", o.Release)
		case o.Back():
			return fmt.Errorf("release %d is being taken back, or was: `moult revert --undo %d` first", o.Release, o.Release)
		case o.Joined != nil && o.Joined.Open:
			return fmt.Errorf("the rollout of release %d has two halves, which were joined: `moult resume --release %d` first", o.Release, o.Release)
		}
		next.Finalized = true
		return nil
	})
}

// Unsettled lists the nodes that an order does not skip and that have not said that they are
// where it leads, by class and place.
func (o *Order) Unsettled(lookup func(bundle.NodeID) (view.Record, bool)) (nodes []bundle.NodeID) {
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		for _, m := range c.members() {
			if rec, known := lookup(m.id); m.attempts > 0 && !(known && o.Arrived(rec)) {
				nodes = append(nodes, m.id)
			}
		}
	}
	return nodes
}

func (o *Order) turn(others []Candidate) (*Order, error) {
	return o.amend(func(next *Order) error {
		if o.Finalized {
			return fmt.Errorf("release %d is finalized: it is not taken back any more; the next release takes its place", o.Release)
		}
		if o.Joined != nil && o.Joined.Open {
			return fmt.Errorf("the rollout of release %d has two halves, which were joined: `moult resume --release %d` first", o.Release, o.Release)
		}
		next.Turn, next.State = o.Turn+1, StateRunning
		started, away := map[bundle.NodeID]bool{}, map[bundle.NodeID]bool{}
		for _, n := range others {
			away[n.ID] = !n.Reachable || n.Left
			c, ok := next.Classes[n.Class]
			if !ok {
				c = defaultClassOrder
			}
			if next.Back() && n.Version >= o.Release {
				started[n.ID] = true
			}
			if n.Reachable && !n.Left && !c.names(n.ID) {
				c.Roster = append(c.Roster, n.ID)
				slices.SortFunc(c.Roster[len(o.Classes[n.Class].Roster):], func(a, b bundle.NodeID) int { return bytes.Compare(a[:], b[:]) })
			}
			c.Spread = c.Spread.with(c.Roster)
			next.Classes[n.Class] = c
		}
		for _, name := range slices.Sorted(maps.Keys(next.Classes)) {
			next.Classes[name] = anew(next.Classes[name], started, away)
		}
		return nil
	})
}

// anew gives each node of a class one place, in the order that they had, but for those that
// are away, for which the others need not wait; those that are skipped come last, and stay so. Under StrategyManual those stay started that were, and
// others may be: they are to go back, or forward again, as they went.
func anew(c ClassOrder, started, away map[bundle.NodeID]bool) ClassOrder {
	var skipped []bundle.NodeID
	members, before := c.members(), c
	slices.SortStableFunc(members, func(a, b member) int {
		switch {
		case away[a.id] == away[b.id]:
			return 0
		case away[a.id]:
			return 1
		}
		return -1
	})
	was := maps.Clone(started)
	if was == nil {
		was = map[bundle.NodeID]bool{}
	}
	for _, i := range c.Started {
		was[c.Roster[i]] = true
	}
	c.Roster, c.Skipped, c.Started, c.Now = nil, nil, nil, nil
	for _, m := range members {
		if m.attempts == 0 {
			skipped = append(skipped, m.id)
			continue
		}
		if c.Strategy == bundle.StrategyManual && was[m.id] {
			c.Started = append(c.Started, len(c.Roster))
		}
		c.Roster = append(c.Roster, m.id)
	}
	for _, id := range skipped {
		c.Skipped = append(c.Skipped, len(c.Roster))
		c.Roster = append(c.Roster, id)
	}
	if s := before.Spread; s != nil {
		c.Spread = &Spread{Label: s.Label, Max: s.Max, Values: s.Values}
		for _, id := range c.Roster {
			c.Spread.Of = append(c.Spread.Of, before.of(id))
		}
	}
	return c
}

// of is which value of the spread's label a node has; 0: none is known.
func (c *ClassOrder) of(id bundle.NodeID) int {
	if i := slices.Index(c.Roster, id); i >= 0 && c.Spread != nil {
		return c.Spread.Of[i]
	}
	return 0
}

// turnSuccessor is Successor where next is a later turn: ranks begin anew, and who is not
// skipped is in them.
func turnSuccessor(old, next *Order) error {
	for _, name := range slices.Sorted(maps.Keys(old.Classes)) {
		was, is := old.Classes[name], next.Classes[name]
		if (was.Spread == nil) != (is.Spread == nil) || was.Spread != nil && (was.Spread.Label != is.Spread.Label || !slices.Equal(was.Spread.Values, is.Spread.Values)) {
			return notSuccessor(old, next)("class %s: a spread stays, with its label", name)
		}
		for _, m := range was.members() {
			if m.attempts > 0 && !is.names(m.id) {
				return notSuccessor(old, next)("class %s: it leaves out node %s, which may be down", name, m.id.Short())
			}
			if was.of(m.id) != is.of(m.id) {
				return notSuccessor(old, next)("class %s: the labels of its nodes stay as they were", name)
			}
		}
	}
	return nil
}

// Arrived reports whether a node has said that it is where the order leads.
func (o *Order) Arrived(rec view.Record) bool {
	if o.Turn == 0 {
		return rec.Version >= o.Release
	}
	return rec.Turned.Release == o.Release && rec.Turned.Turn == o.Turn && rec.Turned.Done
}

// turnDone is rule.done for an order of a later turn than the first.
func turnDone(o *Order, attempt int, rec view.Record, known bool) bool {
	t := rec.Turned
	return known && (rec.Obeys > o.Release || t.Release == o.Release &&
		(t.Turn > o.Turn || t.Turn == o.Turn && (t.Done || t.Ended >= attempt)))
}

// turnPast is rule.past there: the node goes down by no earlier turn any more.
func turnPast(o *Order, rec view.Record, known bool) bool {
	return known && (rec.Obeys > o.Release || rec.Turned.Release == o.Release && rec.Turned.Turn >= o.Turn)
}

// pastTurns is rule.past where the order before has come to a later turn than its first.
func pastTurns(o *Order, rec view.Record, known bool) bool {
	t := rec.Turned
	return known && (rec.Obeys > o.Previous || t.Release == o.Previous && t.Turn >= o.PreviousTurn && t.Done)
}

// over reports whether a node will never again be down for a place of the order.
func (ru rule) over(o *Order, attempt int, rec view.Record, known bool) bool {
	if o.Turn > 0 {
		return ru.turnDone(o, attempt, rec, known)
	}
	return ru.done(o.Release, attempt, rec, known)
}

// beyond reports whether a node will never again be down by what came before the order:
// an earlier turn of it, or the order of the release before.
func (ru rule) beyond(o *Order, rec view.Record, known bool) bool {
	switch {
	case o.Turn > 0:
		return ru.turnPast(o, rec, known)
	case o.PreviousTurn > 0:
		return ru.pastTurns(o, rec, known)
	case o.Previous > 0:
		return ru.past(o.Previous, o.Release, rec, known)
	}
	return true
}

// next is the number of a node's next attempt.
func (ru rule) next(o *Order, own view.Record) int {
	if o.Turn > 0 {
		return own.Turned.Ended + 1
	}
	return ru.attempt(o.Release, own)
}

// turned asks whether there is anything to do for a node in this turn.
func (d *decision) turned() (Decision, bool) {
	o, t := d.order, d.own.Turned
	switch {
	case t.Release != o.Release || t.Turn < o.Turn:
		return wait(CodePromise, fmt.Sprintf("it has not promised yet to go by the newest order of release %d only", o.Release), ""), true
	case d.rule.promised(o, d.own):
		return wait(CodeNewerOrder, fmt.Sprintf("it goes by a later order of release %d", o.Release), ""), true
	case t.Done && o.Back():
		return wait(CodeDone, fmt.Sprintf("release %d is taken back here", o.Release), ""), true
	case t.Done:
		return wait(CodeDone, fmt.Sprintf("it is at version %d already", o.Release), ""), true
	}
	return Decision{}, false
}

// direction is what an order does with its release, which follows.
func (o *Order) direction() string {
	if o.Back() {
		return "taking back release"
	}
	return "release"
}

// what is what an order does, as a sentence begins with it.
func (o *Order) what() string {
	if o.Back() {
		return fmt.Sprintf("the way back from release %d", o.Release)
	}
	return fmt.Sprintf("the rollout of release %d", o.Release)
}
