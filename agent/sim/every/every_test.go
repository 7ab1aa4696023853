package every

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

var whole = flag.Bool("whole", false, "TestEvery visits every state of the greater worlds, too")

// TestEvery visits every state of small worlds: no promise is broken in any, and from each a
// way leads to where all have settled.
func TestEvery(t *testing.T) {
	inFull(t)
	for name, w := range map[string]struct {
		Small
		great bool
	}{
		"2 nodes":                     {Small{Nodes: 2, Releases: 1, Budget: 1, Fails: 1, Retries: 1}, false},
		"2 releases":                  {Small{Nodes: 2, Releases: 2, Budget: 1}, false},
		"2 nodes, late":               {Small{Nodes: 2, Releases: 1, Budget: 1, Fails: 1, Retries: 1, Late: true}, false},
		"2 releases, late":            {Small{Nodes: 2, Releases: 2, Budget: 1, Late: true}, false},
		"2 reversed, late":            {Small{Nodes: 2, Releases: 2, Budget: 1, Late: true, Reversed: true}, false},
		"3 nodes, late":               {Small{Nodes: 3, Releases: 1, Budget: 1, Late: true}, true},
		"2 releases, reversed":        {Small{Nodes: 2, Releases: 2, Budget: 1, Reversed: true}, false},
		"2 nodes in one zone":         {Small{Nodes: 2, Releases: 1, Budget: 2, Fails: 1, Retries: 1, Zones: [3]int{1, 1}}, false},
		"2 releases in one zone":      {Small{Nodes: 2, Releases: 2, Budget: 2, Reversed: true, Zones: [3]int{1, 1}}, false},
		"3 nodes in two zones":        {Small{Nodes: 3, Releases: 1, Budget: 2, Zones: [3]int{1, 2, 1}}, true},
		"3 nodes in two zones, late":  {Small{Nodes: 3, Releases: 1, Budget: 2, Zones: [3]int{1, 1, 2}, Late: true}, true},
		"2 nodes, everything":         {Small{Nodes: 2, Releases: 1, Budget: 1, Fails: 1, Skips: 1, Retries: 1, Pauses: 1}, true},
		"2 releases, and more":        {Small{Nodes: 2, Releases: 2, Budget: 1, Fails: 1, Skips: 1, Retries: 1}, true},
		"2 reversed, and more":        {Small{Nodes: 2, Releases: 2, Budget: 1, Reversed: true, Fails: 1, Skips: 1, Retries: 1}, true},
		"3 nodes":                     {Small{Nodes: 3, Releases: 1, Budget: 1}, true},
		"3 nodes, 2 at once":          {Small{Nodes: 3, Releases: 1, Budget: 2}, true},
		"3 nodes, one is skipped":     {Small{Nodes: 3, Releases: 1, Budget: 1, Skips: 1}, true},
		"3 nodes, one fails":          {Small{Nodes: 3, Releases: 1, Budget: 1, Fails: 1, Retries: 1}, true},
		"3 nodes, paused and resumed": {Small{Nodes: 3, Releases: 1, Budget: 1, Pauses: 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if w.great && !*whole {
				t.Skip("millions of states; run with -whole")
			}
			t.Parallel()
			w.Most = mostStates
			v := Visit(w.Small)
			t.Log(v)
			if v.Violation != nil || !v.Whole {
				t.Errorf("a promise is broken, or there are more than %d states", mostStates)
			}
			if w.Late {
				w.Late = false
				if in := Visit(w.Small); in.States >= v.States {
					t.Errorf("%d states, and %d where nothing is heard late", v.States, in.States)
				}
			}
		})
	}
}

// TestEveryPlanted shows that a fault in the rule, or in what a node remembers, is found,
// and by which way.
func TestEveryPlanted(t *testing.T) {
	inFull(t)
	two := Small{Nodes: 2, Releases: 1, Budget: 1}
	again := Small{Nodes: 2, Releases: 1, Budget: 1, Fails: 1, Retries: 1}
	zone := Small{Nodes: 2, Releases: 1, Budget: 2, Zones: [3]int{1, 1}}
	both := Small{Nodes: 2, Releases: 2, Budget: 1, Reversed: true}
	for name, c := range map[string]struct {
		check string
		small Small
		p     Plant
	}{
		"rank off by one":                                            {"P4", two, Plant{Rules: node.Rules{Decide: rankOffByOne}}},
		"who shares a zone is overlooked":                            {"P4", zone, Plant{Rules: node.Rules{Decide: zonesAreOne}}},
		"a node of which nothing is known counts as done":            {"P9", two, Plant{Rules: node.Rules{Decide: absenceIsEvidence}}},
		"nodes that may be down under an earlier order do not count": {"P4", both, Plant{Rules: node.Rules{Decide: ignorePrevious}}},
		"a crash forgets the ended attempts":                         {"P4", again, Plant{Memory: forgetEnded}},
		"a crash forgets the promise to obey only later orders":      {checkLiveness, both, Plant{Memory: forgetObeys}},
		"newer metadata are never taken":                             {checkLiveness, again, Plant{Event: neverNewer}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.small.Plant, c.small.Most = c.p, mostStates
			v := Visit(c.small)
			t.Log(v)
			if v.Violation == nil || v.Violation.Check != c.check || len(v.Way) == 0 {
				t.Errorf("want a violation of %s", c.check)
			}
		})
	}
}

// TestEverySaysMore shows that what others decide by only rises in what a node says, unless
// it forgets: late is what it said before.
func TestEverySaysMore(t *testing.T) {
	inFull(t)
	for name, plant := range map[string]Plant{"": {}, "a crash forgets the ended attempts": {Memory: forgetEnded}, "a crash forgets the promise to obey only later orders": {Memory: forgetObeys}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStates(Small{Nodes: 2, Releases: 2, Budget: 1, Reversed: true, Fails: 1, Plant: plant, Most: mostStates})
			s.begin()
			s.visitAll()
			fallen := 0
			for i, x := range s.memo.nature {
				own := s.memo.locals[i].node
				for _, next := range x.next {
					if !s.words[s.memo.locals[i].said[own]].upTo(s.words[s.memo.locals[next].said[own]]) {
						fallen++
					}
				}
			}
			if (fallen > 0) != (name != "") {
				t.Errorf("in %d of %d decisions a node says less than before", fallen, s.transitions)
			}
		})
	}
}

// TestEveryIsLive shows that it loses nothing to make nodes anew for each step: nodes that
// go on all the time decide the same.
func TestEveryIsLive(t *testing.T) {
	inFull(t)
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		s := newStates(Small{Nodes: 3, Releases: 2, Budget: 1, Fails: 2, Skips: 1, Retries: 1, Pauses: 1})
		s.begin()
		w, number := s.worlds[0], uint64(10)
		var live [mostNodes]*node.Node
		var wants [mostNodes]outcome
		for range 150 {
			s.worlds, s.parents, s.first, s.follow, s.index = []world{w}, []uint32{0}, nil, nil, map[world]uint32{w: 0}
			s.visit(0)
			if s.violation != nil {
				t.Fatal(s.violation)
			}
			if len(s.follow) == 0 {
				break
			}
			next := s.worlds[s.follow[rng.IntN(len(s.follow))]]
			for i := range s.Nodes {
				if next.nodes[i] == w.nodes[i] {
					continue
				}
				before, after := s.memo.locals[w.nodes[i]].local, s.memo.locals[next.nodes[i]].local
				e := s.happened(w.nodes[i], next.nodes[i])
				if e.kind == restarts || live[i] == nil {
					live[i] = s.restore(i, after)
					wants[i] = s.run(live[i], false)
					continue
				}
				number++
				wanted := wants[i]
				if e.kind == goesOn {
					wanted = s.run(live[i], true)
				}
				got, want := s.apply(live[i], wanted, i, before, e, number)
				if s.memo.nature[w.nodes[i]].state.Phase == s.memo.nature[next.nodes[i]].state.Phase && len(want.actions) == 0 {
					want.actions = wants[i].actions // a soak that ends supersedes nothing
				}
				if want.check == nil && e.kind != checks {
					want.check = wants[i].check
				}
				if wants[i] = want; got != after {
					t.Fatalf("seed %d: %s %s: a node that goes on is %+v, and one made anew %+v", seed, s.names(i), e.kind, got, after)
				}
				if x := s.memo.nature[next.nodes[i]]; x.quiet && (x.acts && len(want.actions) == 0 || x.going && want.check == nil) {
					t.Fatalf("seed %d: %s %s: a node that goes on wants %+v, and one made anew %+v", seed, s.names(i), e.kind, want, x)
				}
			}
			w = next
		}
	}
}

// rankOffByOne takes the node for one that is one rank earlier than it is.
func rankOffByOne(in schedule.Input) schedule.Decision {
	return altered(in, func(o *schedule.Order) {
		c := o.Classes["kv"]
		if i := slices.Index(c.Roster, in.Self); i > 0 && len(c.Skipped) == 0 {
			c.Roster[i-1], c.Roster[i] = c.Roster[i], c.Roster[i-1]
		}
	})
}

// zonesAreOne counts nobody for its zone.
func zonesAreOne(in schedule.Input) schedule.Decision {
	return altered(in, func(o *schedule.Order) {
		c := o.Classes["kv"]
		c.Spread = nil
		o.Classes["kv"] = c
	})
}

func ignorePrevious(in schedule.Input) schedule.Decision {
	return altered(in, func(o *schedule.Order) { o.Previous = 0 })
}

// altered decides by another order.
func altered(in schedule.Input, f func(*schedule.Order)) schedule.Decision {
	if in.Order != nil {
		o := *in.Order
		c := o.Classes["kv"]
		c.Roster = slices.Clone(c.Roster)
		o.Classes = map[bundle.Class]schedule.ClassOrder{"kv": c}
		f(&o)
		in.Order = &o
	}
	return schedule.Decide(in)
}

func absenceIsEvidence(in schedule.Input) schedule.Decision {
	lookup := in.Lookup
	in.Tally = nil // it is of what lookup says
	in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
		if r, ok := lookup(id); ok || in.Order == nil {
			return r, ok
		}
		return view.Record{Node: id, Version: in.Order.Release}, true
	}
	return schedule.Decide(in)
}

func forgetEnded(m node.Memory) node.Memory {
	m.State.EndedRelease, m.State.EndedCount = 0, 0
	return m
}

func forgetObeys(m node.Memory) node.Memory {
	m.State.Obeys = 0
	return m
}

func neverNewer(_ *node.Node, e node.Event) node.Event {
	if _, ok := e.(node.MetadataVerified); ok {
		return nil
	}
	return e
}

// inFull leaves a long test out of `go test -short`, and so of make race: it has one goroutine, so a
// race detector has nothing to see.
func inFull(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and of one goroutine")
	}
}
