package schedule

import (
	"fmt"
	"maps"
	"slices"

	"moult/store/bundle"
)

// Pause returns the successor under which nobody goes down.
func (o *Order) Pause() (*Order, error) { return o.inState(StatePaused) }

// Resume returns the successor under which a paused rollout goes on.
func (o *Order) Resume() (*Order, error) { return o.inState(StateRunning) }

// Abort returns the successor that ends the rollout for good. Nodes that have
// settled stay where they are.
func (o *Order) Abort() (*Order, error) { return o.inState(StateAborted) }

func (o *Order) inState(state string) (*Order, error) {
	return o.change(func(next *Order) error {
		if o.State == state {
			return fmt.Errorf("the rollout of release %d is %s already", o.Release, state)
		}
		next.State = state
		if next.Joined != nil && state == StateRunning {
			next.Joined.Open = false // the operator has seen that nobody is down by either half
		}
		return nil
	})
}

// Skip returns the successor in which the operator gives their word that a
// node is gone: nobody waits for it, and it does not go down itself until
// Retry gives it another place. It counts for the releases that follow too, so the
// order may be aborted.
func (o *Order) Skip(class bundle.Class, id bundle.NodeID) (*Order, error) {
	return o.amend(inClass(class, func(c *ClassOrder) error {
		if !c.skip(id) {
			return fmt.Errorf("node %s has no place in the rollout that could be skipped", id.Short())
		}
		return nil
	}, func(next *Order) { next.Agents.skip(id) }))
}

// Forget returns the successor in which a node is skipped wherever it has a place, and
// what it has said, up to its record of this number and a little beyond, is forgotten.
// The order may be aborted.
func (o *Order) Forget(id bundle.NodeID, number uint64) (*Order, error) {
	return o.amend(func(next *Order) error {
		for _, class := range slices.Sorted(maps.Keys(next.Classes)) {
			c := next.Classes[class]
			if c.attempts(id) > 0 {
				c.skip(id)
				next.Classes[class] = c
			}
		}
		next.Agents.skip(id)
		f := Forgotten{Node: id, UpTo: min(number, MaxNumber-forgetAhead) + forgetAhead}
		at := slices.IndexFunc(next.Forgotten, func(g Forgotten) bool { return g.Node == id })
		if at >= 0 {
			f.UpTo = max(f.UpTo, next.Forgotten[at].UpTo)
			next.Forgotten = slices.Delete(next.Forgotten, at, at+1)
		}
		next.Forgotten = append(next.Forgotten, f)
		if n := len(next.Forgotten) - MaxForgotten; n > 0 {
			next.Forgotten = slices.Delete(next.Forgotten, 0, n)
		}
		return nil
	})
}

// skip skips the open places of a node, and reports whether it had one.
func (c *ClassOrder) skip(id bundle.NodeID) (found bool) {
	skipped := c.isSkipped()
	for i, node := range c.Roster {
		if node == id && !skipped[i] {
			c.Skipped = append(c.Skipped, i)
			found = true
		}
	}
	slices.Sort(c.Skipped)
	return found
}

// Retry returns the successor in which a node that is held, was skipped, or
// came later has another attempt: one more place, behind all others. Under StrategyManual it is
// started too, and so are the places that it had before: a node makes its
// attempts in the order of its places. A class of which nothing was known when
// the order was first signed gets the most careful schedule.
func (o *Order) Retry(class bundle.Class, id bundle.NodeID) (*Order, error) {
	return o.change(func(next *Order) error {
		next.retry(class, id)
		next.Agents.takeIn(id)
		return nil
	})
}

// withAnother is the roster with another attempt of a node. Attempts that ended at places
// skipped since count: one more than these is another for certain.
func (c ClassOrder) withAnother(id bundle.NodeID) []bundle.NodeID {
	more := 1
	if c.attempts(id) == 0 {
		more += c.places(id)
	}
	return append(c.Roster, slices.Repeat([]bundle.NodeID{id}, more)...)
}

func (o *Order) retry(class bundle.Class, id bundle.NodeID) {
	c, ok := o.Classes[class]
	if !ok {
		c = defaultClassOrder
	}
	c.Roster = c.withAnother(id)
	c.Spread = c.Spread.with(c.Roster)
	if c.Strategy == bundle.StrategyManual {
		c.Started = append(c.Started, c.notStarted(id)...)
	}
	o.Classes[class] = c
}

// Start returns the successor in which a node may go down under
// StrategyManual.
func (o *Order) Start(class bundle.Class, id bundle.NodeID) (*Order, error) {
	return o.changeClass(class, func(c *ClassOrder) error {
		if c.Strategy != bundle.StrategyManual {
			return fmt.Errorf("the strategy of class %s is %s: its nodes start by themselves", class, c.Strategy)
		}
		places := c.notStarted(id)
		if len(places) == 0 {
			return fmt.Errorf("node %s has no place in the rollout that is not started yet: to give it one, retry it", id.Short())
		}
		c.Started = append(c.Started, places[0])
		return nil
	})
}

// Now returns the successor in which a node waits neither for a window, nor for the
// classes that settle first, nor for conditions, at the places that it has; nor do those whose turn comes
// before, without whom its own never would. The budget and the canaries stay. Where the
// strategy bounds nothing no turn comes before another, and only the node itself goes.
func (o *Order) Now(class bundle.Class, id bundle.NodeID) (*Order, error) {
	return o.changeClass(class, func(c *ClassOrder) error {
		if len(c.Windows) == 0 && len(c.After) == 0 && c.When == "" && c.HoldIf == "" && c.Strategy != bundle.StrategyRandom {
			return fmt.Errorf("class %s has no window and no condition, and no class settles before it: there is nothing to pass over", class)
		}
		places, last := c.ranked(), -1
		for _, p := range places {
			if p.node == id && !p.skipped {
				last = p.rank
			}
		}
		before := len(c.Now)
		for _, p := range places[:last+1] {
			if i := c.index(p); !p.skipped && (c.Bounds() || p.node == id) && !slices.Contains(c.Now, i) {
				c.Now = append(c.Now, i)
			}
		}
		if len(c.Now) == before && len(c.notStarted(id)) > 0 && c.Strategy == bundle.StrategyManual {
			return fmt.Errorf("node %s is not started: `moult start` it first", id.Short())
		}
		if len(c.Now) == before {
			return fmt.Errorf("node %s has no place in the rollout that waits for a window, another class, a condition or its chance: to give it one, retry it", id.Short())
		}
		slices.Sort(c.Now)
		return nil
	})
}

// notStarted lists the places of a node that are neither skipped nor started.
func (c *ClassOrder) notStarted(id bundle.NodeID) (places []int) {
	skipped := c.isSkipped()
	for i, node := range c.Roster {
		if node == id && !skipped[i] && !slices.Contains(c.Started, i) {
			places = append(places, i)
		}
	}
	return places
}

// SetBudget returns the successor with another MaxUnavailable. A lower one
// binds each node from when it sees it.
func (o *Order) SetBudget(class bundle.Class, k int) (*Order, error) {
	return o.changeClass(class, func(c *ClassOrder) error {
		if c.MaxUnavailable == k {
			return fmt.Errorf("the budget of class %s is %d already", class, k)
		}
		c.MaxUnavailable = k
		return nil
	})
}

func (o *Order) changeClass(class bundle.Class, f func(*ClassOrder) error) (*Order, error) {
	return o.change(inClass(class, f))
}

func inClass(class bundle.Class, f func(*ClassOrder) error, besides ...func(*Order)) func(*Order) error {
	return func(next *Order) error {
		c, ok := next.Classes[class]
		if !ok {
			return fmt.Errorf("the rollout of release %d has no class %q", next.Release, class)
		}
		if err := f(&c); err != nil {
			return err
		}
		next.Classes[class] = c
		for _, f := range besides {
			f(next)
		}
		return nil
	}
}

// change is amend for what an aborted rollout is past.
func (o *Order) change(f func(*Order) error) (*Order, error) {
	if o.State == StateAborted {
		return nil, fmt.Errorf("%w: the rollout of release %d was aborted for good: inject a newer release", ErrRefused, o.Release)
	}
	return o.amend(f)
}

// amend returns a copy of o with the next serial, changed by f. It shares
// nothing with o.
func (o *Order) amend(f func(*Order) error) (*Order, error) {
	next := *o
	next.Serial++
	next.Forgotten, next.Withdrawn, next.Agents = slices.Clone(o.Forgotten), slices.Clone(o.Withdrawn), o.Agents.clone()
	if o.Joined != nil {
		next.Joined = &Joined{Orders: slices.Clone(o.Joined.Orders), Open: o.Joined.Open}
	}
	next.Classes = make(map[bundle.Class]ClassOrder, len(o.Classes))
	maps.Copy(next.Classes, o.Classes)
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		c.Roster, c.Skipped, c.Started = slices.Clone(c.Roster), slices.Clone(c.Skipped), slices.Clone(c.Started)
		c.Windows, c.After, c.Now = slices.Clone(c.Windows), slices.Clone(c.After), slices.Clone(c.Now)
		c.Waves, c.Spread = slices.Clone(c.Waves), c.Spread.with(c.Roster)
		next.Classes[name] = c
	}
	if err := f(&next); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	next.Format = next.lowestFormat()
	if err := next.Validate(); err != nil {
		return nil, err
	}
	if err := Successor(o, &next); err != nil {
		return nil, err
	}
	return &next, nil
}
