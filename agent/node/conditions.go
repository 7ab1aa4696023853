package node

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"moult/agent/schedule"
	"moult/agent/schedule/expr"
	"moult/gossip/view"
	"moult/store/bundle"
)

// conditions evaluates the conditions of one order, and remembers what they say until
// something is known that they may go by: schedule.Decide asks each time.
type conditions struct {
	order  *schedule.Order
	places schedule.Places
	said   map[conditionOf]schedule.Said
	parsed map[conditionOf]parsed
	// sums are of the nodes that the order names, by class and variable without the
	// aggregate; counted is what each node has added to them, and changed are nodes of which
	// that may be out of date.
	sums    map[bundle.Class]map[string]*expr.Group
	counted map[bundle.NodeID]addition
	changed map[bundle.NodeID]bool
	counts  map[string]expr.Count // of each class; nil: to be counted
}

// maxConditions bounds the orders whose conditions are remembered: that by which this node goes,
// and the newest.
const maxConditions = 2

// conditionOf is a condition of a class, asked of a node; of none, for what all share.
type conditionOf struct {
	class bundle.Class
	self  bundle.NodeID
	text  string
}

type parsed struct {
	*expr.Expr
	problem error
}

// addition is what a node has added: numbers, to the sums of a class.
type addition struct {
	class   bundle.Class
	numbers map[string]float64 // by variable
}

// noteSaid notes that a node has said something else. What is not asked for costs nothing.
func (n *Node) noteSaid(id bundle.NodeID) {
	for _, c := range n.conditions {
		c.changed[id] = true
	}
}

// ask returns what a condition of a release's order says of a node. See
// [schedule.Input.Ask].
func (n *Node) ask(o *schedule.Order) func(bundle.Class, bundle.NodeID, string) schedule.Said {
	return func(class bundle.Class, self bundle.NodeID, text string) schedule.Said {
		c := n.conditionsOf(o)
		of := conditionOf{class, self, text}
		said, known := c.said[of]
		if !known {
			said = c.evaluate(n, of)
			c.said[of] = said
		}
		return said
	}
}

// conditionsOf are those of an order, brought up to date.
func (n *Node) conditionsOf(o *schedule.Order) *conditions {
	i := slices.IndexFunc(n.conditions, func(c *conditions) bool { return c.order == o })
	if i < 0 {
		c := &conditions{
			order: o, places: o.Places(), said: map[conditionOf]schedule.Said{}, parsed: map[conditionOf]parsed{},
			sums: map[bundle.Class]map[string]*expr.Group{}, counted: map[bundle.NodeID]addition{}, changed: map[bundle.NodeID]bool{},
		}
		for r := range n.view.All() {
			c.changed[r.Node] = true
		}
		n.conditions = append(n.conditions[max(0, len(n.conditions)-maxConditions+1):], c)
		i = len(n.conditions) - 1
	}
	n.conditions[i].refresh(n)
	return n.conditions[i]
}

// refresh takes in what has been said since.
func (c *conditions) refresh(n *Node) {
	if len(c.changed) == 0 {
		return
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.changed), func(a, b bundle.NodeID) int { return bytes.Compare(a[:], b[:]) }) {
		c.recount(n, id)
	}
	clear(c.changed)
	clear(c.said)
	c.counts = nil
}

// recount adds what a node says to the sums, instead of what it said before.
func (c *conditions) recount(n *Node, id bundle.NodeID) {
	before := c.counted[id]
	for _, name := range sorted(before.numbers) {
		c.sums[before.class][name].Remove(before.numbers[name])
	}
	delete(c.counted, id)
	r, known := n.view.Get(id)
	if !known || r.Left || c.places[r.Class][id] == 0 {
		return
	}
	part, said := expr.Others, r.Numbers()
	switch {
	case r.Version >= c.order.Release:
		part, said = expr.Settled, n.lastNumbers(r)
	case r.Running >= c.order.Release:
		return // it has not settled, and says nothing of the software before
	}
	if len(said) == 0 {
		return
	}
	sums := c.sums[r.Class]
	if sums == nil {
		sums = map[string]*expr.Group{}
		c.sums[r.Class] = sums
	}
	now := addition{class: r.Class, numbers: map[string]float64{}}
	for _, fact := range sorted(said) {
		name := part + "." + fact
		now.numbers[name] = said[fact]
		if sums[name] == nil {
			sums[name] = &expr.Group{}
		}
		sums[name].Add(said[fact])
	}
	c.counted[id] = now
}

// evaluate asks a condition itself.
func (c *conditions) evaluate(n *Node, of conditionOf) schedule.Said {
	shared := conditionOf{class: of.class, text: of.text}
	p, done := c.parsed[shared]
	if !done {
		p.Expr, p.problem = n.cfg.Conditions.Compile(of.text, sorted(n.factsOf(of.class, c.order.Release)))
		c.parsed[shared] = p
	}
	if p.problem != nil {
		return schedule.Said{Answer: schedule.AnswerUnread, Text: "it cannot be read here: " + p.problem.Error()}
	}
	self, known := n.lookup(of.self)
	answer := p.Eval(c.valuesFor(n, of, self, known))
	for _, name := range p.Needs() { // why a fact of its own has no value
		fact, own := strings.CutPrefix(name, expr.SelfFact(""))
		if f := self.Facts[fact]; own && f.State != "" {
			answer.Text = strings.Replace(answer.Text, name+" has no value", fmt.Sprintf("%s has no value (%s: %s)", name, f.State, f.Reason), 1)
		}
	}
	answers := map[expr.Value]schedule.Answer{expr.No: schedule.AnswerNo, expr.Yes: schedule.AnswerYes}
	return schedule.Said{Answer: answers[answer.Value], Text: answer.Text}
}

// valuesFor says what the variables of a condition stand for.
func (c *conditions) valuesFor(n *Node, of conditionOf, self view.Record, known bool) func(name string) (any, bool) {
	return func(name string) (any, bool) {
		if part, fact, aggregate, ok := expr.Split(name); ok {
			group := c.sums[of.class][part+"."+fact]
			if group == nil {
				group = &expr.Group{}
			}
			return group.Value(aggregate)
		}
		if fact, ok := strings.CutPrefix(name, expr.SelfFact("")); ok {
			f, there := self.Facts[fact]
			x, told := f.Known()
			return x, there && told
		}
		switch name {
		case expr.SelfName:
			return self.Name, known
		case expr.SelfClass:
			return string(of.class), true
		case expr.SelfVersion:
			return int64(self.Version), known
		case expr.SelfLabels:
			if self.Labels == nil {
				return map[string]string{}, known
			}
			return self.Labels, known
		case expr.ReleaseVersion:
			return int64(c.order.Release), true
		case expr.ReleasePrevious:
			return int64(c.order.Previous), true
		case expr.Classes:
			return c.count(n.lookup), true
		}
		x, ok := expr.OwnCounts(c.count(n.lookup)[string(of.class)])[name]
		return x, ok
	}
}

// count counts the nodes of each class, once for all that ask.
func (c *conditions) count(lookup func(bundle.NodeID) (view.Record, bool)) map[string]expr.Count {
	if c.counts == nil {
		c.counts = map[string]expr.Count{}
		of := schedule.Summary(c.order, lookup).Classes
		for _, class := range sorted(of) {
			p := of[class]
			c.counts[string(class)] = expr.Count{
				Total: int64(p.Total), Settled: int64(p.Settled), Unwell: int64(p.Unwell), Down: int64(p.Down),
				Held: int64(p.Held), Waiting: int64(p.Waiting), Skipped: int64(p.Skipped),
			}
		}
	}
	return c.counts
}
