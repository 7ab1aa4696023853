package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// CheckConditions is the check that nobody goes down before it is time, or while those that
// have settled fare worse than the others.
const CheckConditions = "conditions"

const (
	whenForm = "self.facts.height >= %d.0"
	holdIf   = "settled.errors.p50 > 2.0 * others.errors.p50 + 0.01"
	// few and many are how many errors software has, and feverish is for how long a bad
	// release has many. Faults have stopped for longer when a run ends.
	few, many = 0.01, 5.0
	feverish  = 3 * time.Minute
)

// measuring is about runs in which nodes publish facts, and releases have conditions.
type measuring struct {
	dice *rand.Rand // nil: there are none
	// bad are the classes whose software of a release has many errors, and well is when it
	// ceases to.
	bad  [maxRelease + 1]map[bundle.Class]bool
	well [maxRelease + 1]time.Duration
}

func measuringOf(seed uint64) (m measuring) {
	if seed%5 == 3 {
		m.dice = rand.New(rand.NewPCG(seed, 4))
	}
	return m
}

// conditions gives the classes of a release facts, and some of them conditions; in some the
// software has many errors at first.
func (s *simulation) conditions(m *bundle.Manifest) {
	dice := s.measuring.dice
	if dice == nil {
		return
	}
	s.measuring.bad[m.Version] = map[bundle.Class]bool{}
	fact := bundle.Fact{HTTP: "/stats", Service: "api", Every: bundle.Duration(tickInterval), Timeout: bundle.Duration(time.Second)}
	for _, class := range []bundle.Class{"auth", "kv", "web"} {
		u, ok := m.Classes[class]
		if !ok {
			continue
		}
		u.Facts = map[string]bundle.Fact{"errors": fact, "height": fact}
		if m.Version > 1 && dice.IntN(2) == 0 {
			u.Schedule.When = fmt.Sprintf(whenForm, 30+dice.IntN(int((feverish-time.Minute)/time.Second)))
		}
		if m.Version > 1 && dice.IntN(4) > 0 {
			u.Schedule.HoldIf = holdIf
			s.measuring.bad[m.Version][class] = dice.IntN(3) > 0
		}
		m.Classes[class] = u
	}
	m.Format = m.LowestFormat()
}

// height is the same everywhere: for how many seconds the world has gone on, up to some when
// nothing waits for it any more, so that views agree in the end.
func (s *simulation) height() float64 { return float64(min(s.now, feverish) / time.Second) }

// sample asks the software what it tells of itself. Sometimes it does not answer.
func (a *agent) sample() {
	v := a.node.State().Running
	wanted := a.node.Facts()
	if a.s.measuring.dice == nil || len(wanted) == 0 || !a.h.soft.running || a.h.soft.version != v || a.keeps != v {
		return
	}
	errors := few
	if a.s.measuring.bad[v][a.h.class] && a.s.now < a.s.measuring.well[v] {
		errors = many
	}
	told := map[string]view.Fact{"errors": {Value: errors}, "height": {Value: a.s.height()}}
	for _, name := range []string{"errors", "height"} {
		if a.s.faulty && a.s.measuring.dice.IntN(10) == 0 {
			told[name] = view.Fact{State: view.FactNoAnswer, Reason: "no answer"}
		}
	}
	a.tell(node.FactsSampled{Version: v, Facts: told})
}

// checkConditions is that a node goes down only when the world is as high as its order says,
// and while those that have settled, for all that this agent knows, have hardly more errors
// than the others; but where the operator lets it.
func (a *agent) checkConditions(o *schedule.Order) {
	c := o.Classes[a.h.class]
	for i, id := range c.Roster {
		if id == a.h.id && slices.Contains(c.Now, i) {
			return
		}
	}
	var height int
	if _, err := fmt.Sscanf(c.When, whenForm, &height); err == nil && a.s.height() < float64(height) {
		a.s.fail(CheckConditions, "%s goes down for release %d at height %v, and waits for %d", a.h.name, o.Release, a.s.height(), height)
	}
	if c.HoldIf != holdIf {
		return
	}
	var settled, others []float64
	for i, id := range c.Roster {
		r, ok := a.node.View().Get(id)
		f, told := r.Facts["errors"]
		if !ok || !told || f.State != "" || r.Left || slices.Index(c.Roster, id) < i || o.Attempts(a.h.class, id) == 0 {
			continue
		}
		if r.Version >= o.Release {
			settled = append(settled, f.Value)
		} else {
			others = append(others, f.Value)
		}
	}
	if len(settled)*len(others) > 0 && middle(settled) > 2*middle(others)+0.01 {
		a.s.fail(CheckConditions, "%s goes down for release %d, and knows of errors %v where it has settled, and of %v elsewhere", a.h.name, o.Release, settled, others)
	}
}

// middle is the lower of the two in the middle, where there are two.
func middle(numbers []float64) float64 {
	slices.Sort(numbers)
	return numbers[(len(numbers)-1)/2]
}
