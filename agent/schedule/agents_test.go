package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"moult/gossip/view"
	"moult/store/bundle"
)

// What may become of a node's agent in the worlds below.
const (
	agentOld    = iota // it runs what it ran
	agentTrying        // it is being replaced
	agentDone
	agentFailed
)

// agentBugs are planted. The zero value is the truth.
type agentBugs struct {
	rule         agentRule
	saysTooEarly bool // a node says that it is done when it begins
	takesBack    bool // one whose agent failed says that it is done
}

// agentsWorld is the agents of some nodes under one order. It visits every state that any
// order of events leads to: who begins, who ends, and whose word has reached whom by then.
type agentsWorld struct {
	order *Order
	ids   []bundle.NodeID
	bad   int // the nodes on which the build fails, as bits
	bugs  agentBugs
	seen  map[string]bool
}

// record is what a node has said last; heard is whether that has come.
func (w *agentsWorld) record(state int) view.Record {
	var r view.Record
	switch {
	case state == agentDone, state == agentTrying && w.bugs.saysTooEarly, state == agentFailed && w.bugs.takesBack:
		r.Agent.Done = w.order.Release
	case state == agentTrying:
		r.Agent.Trying = w.order.Release
	case state == agentFailed:
		r.Agent.Failed = w.order.Release
	}
	return r
}

// visit walks through all states from one, and returns the first that breaks the claim, and
// those in which nothing happens any more.
func (w *agentsWorld) visit(states []int, ends *[][]int) (broken []int) {
	key := fmt.Sprint(states)
	if w.seen[key] {
		return nil
	}
	w.seen[key] = true
	open := 0
	for _, s := range states {
		if s == agentTrying || s == agentFailed {
			open++
		}
	}
	if open > w.order.Agents.MaxUnavailable {
		return states
	}
	moved := false
	for i, s := range states {
		next := slices.Clone(states)
		switch s {
		case agentOld:
			if !w.mayGo(i, states) {
				continue
			}
			next[i] = agentTrying
		case agentTrying:
			if next[i] = agentDone; w.bad>>i&1 == 1 {
				next[i] = agentFailed
			}
		default:
			continue
		}
		moved = true
		if broken := w.visit(next, ends); broken != nil {
			return broken
		}
	}
	if !moved {
		*ends = append(*ends, states)
	}
	return nil
}

// mayGo reports whether a node may go by anything that it can have heard: of each other what
// that says, or what it said before, or nothing.
func (w *agentsWorld) mayGo(self int, states []int) bool {
	for heard := range 1 << (2 * len(states)) {
		lookup := func(id bundle.NodeID) (view.Record, bool) {
			i := slices.Index(w.ids, id)
			switch heard >> (2 * i) & 3 {
			case 0:
				return view.Record{}, false
			case 1:
				return w.record(agentOld), true
			case 2:
				return w.record(min(states[i], agentTrying)), true
			}
			return w.record(states[i]), true
		}
		if w.bugs.rule.decide(Input{Self: w.ids[self], Order: w.order, Lookup: lookup, Synced: true}).Go {
			return true
		}
	}
	return false
}

func agentsOrder(t testing.TB, nodes int, k string) (*Order, []bundle.NodeID) {
	t.Helper()
	m := &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{}, Agent: &bundle.AgentUpgrade{MaxUnavailable: k, HealthyDeadline: bundle.MinAgentDeadline}}
	var all []Candidate
	for i := range nodes {
		class := bundle.Class("kv")
		if i%2 == 1 {
			class = "auth"
		}
		all = append(all, Candidate{ID: bundle.NodeID(bundle.Sum(fmt.Append(nil, i))), Class: class, Version: 1, Reachable: true})
	}
	o, err := Instantiate(m, bundle.Sum([]byte("2")), nil, all)
	if err != nil {
		t.Fatal(err)
	}
	if o.Agents != nil || o.Format >= FormatAgents {
		t.Fatal("agents are replaced without the operator's word")
	}
	if o, err = o.WithAgents(m); err != nil {
		t.Fatal(err)
	}
	return o, o.Agents.Roster
}

// TestAgentsEveryWay: whatever the build does on which nodes, and in whatever order things
// happen and are heard of, at most k nodes are touched that are not well by the end; and all
// others get theirs as long as fewer than k fail.
func TestAgentsEveryWay(t *testing.T) {
	const nodes = 4
	for k := 1; k <= 2; k++ {
		o, ids := agentsOrder(t, nodes, fmt.Sprint(k))
		for bad := range 1 << nodes {
			w := &agentsWorld{order: o, ids: ids, bad: bad, seen: map[string]bool{}}
			var ends [][]int
			if broken := w.visit(make([]int, nodes), &ends); broken != nil {
				t.Fatalf("k %d, bad %b: %v", k, bad, broken)
			}
			if len(ends) == 0 {
				t.Fatal("no end")
			}
			for _, end := range ends {
				failed, old := 0, 0
				for _, s := range end {
					switch s {
					case agentFailed:
						failed++
					case agentOld:
						old++
					}
				}
				if failed > k || old > 0 && failed < k {
					t.Errorf("k %d, bad %b: it ends with %v", k, bad, end)
				}
			}
		}
	}
}

// Each part of the rule, and of what nodes do, matters.
func TestAgentsPlantedBugs(t *testing.T) {
	for name, bugs := range map[string]agentBugs{
		"one too many": {rule: agentRule{within: func(others, k int) bool { return others <= k }}},
		"ranks turned": {rule: agentRule{before: func(other, own int) bool { return other > own+1 }}},
		"silence is a word": {rule: agentRule{over: func(release bundle.Version, rec view.Record, known bool) bool {
			return !known || agentOver(release, rec, known)
		}}},
		"failed is over": {rule: agentRule{over: func(release bundle.Version, rec view.Record, known bool) bool {
			return agentOver(release, rec, known) || rec.Agent.Failed == release
		}}},
		"says it too early": {saysTooEarly: true},
		"failed says done":  {takesBack: true},
	} {
		found := false
		for k := 1; k <= 2 && !found; k++ {
			o, ids := agentsOrder(t, 4, fmt.Sprint(k))
			for bad := range 1 << 4 {
				w := &agentsWorld{order: o, ids: ids, bad: bad, bugs: bugs, seen: map[string]bool{}}
				var ends [][]int
				found = found || w.visit(make([]int, 4), &ends) != nil
			}
		}
		if !found {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestAgentsOrder(t *testing.T) {
	o, ids := agentsOrder(t, 4, "1")
	if len(ids) != 4 || o.Agents.MaxUnavailable != 1 || o.Format != FormatAgents {
		t.Fatalf("%+v", o)
	}
	data, err := MarshalOrder(o)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := ParseOrder(data); err != nil || !slices.Equal(read.Agents.Roster, ids) {
		t.Fatal(read, err)
	}
	records := map[bundle.NodeID]view.Record{}
	lookup := func(id bundle.NodeID) (view.Record, bool) { r, ok := records[id]; return r, ok }
	decide := func(o *Order, self bundle.NodeID) Decision {
		return DecideAgent(Input{Self: self, Order: o, Lookup: lookup, Synced: true})
	}
	if d := decide(o, ids[0]); !d.Go {
		t.Error(d.Reason)
	}
	records[ids[0]] = view.Record{Name: "n0", Agent: view.AgentBuild{Failed: 2}}
	d := decide(o, ids[1])
	if d.Go || d.Reason.Code != CodeAgentsBudget || d.Reason.Command != "moult retry --release 2 n0" || !strings.Contains(d.Reason.Text, "has failed on n0") {
		t.Errorf("%+v", d)
	}
	if p, ok := o.AgentsProgress(lookup); !ok || p.Total != 4 || p.Done != 0 || !slices.Equal(p.Failed, ids[:1]) {
		t.Errorf("%+v", p)
	}
	for name, change := range map[string]func() (*Order, error){"pause": o.Pause, "abort": o.Abort, "revert": func() (*Order, error) { return o.Revert(nil) }} {
		next, err := change()
		if err != nil {
			t.Fatal(err)
		}
		if decide(next, ids[0]).Go {
			t.Errorf("it goes after %s", name)
		}
	}
	// Another attempt keeps the rank.
	again, err := o.RetryAgent(ids[0])
	if err != nil || again.AgentAttempts(ids[0]) != 2 || !decide(again, ids[0]).Go || decide(again, ids[1]).Go {
		t.Error(again, err)
	}
	// A skip is the operator's word that the node is gone, and a place anew is the last.
	class := bundle.Class("kv")
	if !o.Names(class, ids[0]) {
		class = "auth"
	}
	skipped, err := o.Skip(class, ids[0])
	if err != nil || skipped.AgentAttempts(ids[0]) != 0 || !decide(skipped, ids[1]).Go || decide(skipped, ids[0]).Go || decide(skipped, ids[2]).Go {
		t.Error(skipped, err)
	}
	back, err := skipped.Retry(class, ids[0])
	if err != nil || back.AgentAttempts(ids[0]) < 1 || decide(back, ids[0]).Go || !decide(back, ids[1]).Go {
		t.Error(back, err)
	}
	// Who has left is not waited for.
	records[ids[0]] = view.Record{Left: true}
	if !decide(o, ids[1]).Go {
		t.Error("it waits for one that has left")
	}
	// What is not of one line is refused.
	worse := *again
	worse.Agents = again.Agents.clone()
	worse.Serial++
	worse.Agents.Roster[0], worse.Agents.Roster[1] = worse.Agents.Roster[1], worse.Agents.Roster[0]
	if err := Successor(again, &worse); !errors.Is(err, ErrNotSuccessor) {
		t.Error(err)
	}
	worse.Agents = nil
	worse.Format = worse.lowestFormat()
	if err := Successor(again, &worse); !errors.Is(err, ErrNotSuccessor) {
		t.Error(err)
	}
}

// The order of the next release takes over who was replaced and who waits, unless it brings an
// agent itself, or the one before was aborted.
func TestAgentsOfNextRelease(t *testing.T) {
	o, ids := agentsOrder(t, 3, "50%")
	if o.Agents.MaxUnavailable != 1 {
		t.Errorf("budget %d", o.Agents.MaxUnavailable)
	}
	next := func(previous *Order, agent *bundle.AgentUpgrade) *Order {
		t.Helper()
		m := &bundle.Manifest{Version: 3, Classes: map[bundle.Class]bundle.ClassUpgrade{}, Agent: agent}
		late := Candidate{ID: bundle.NodeID(bundle.Sum([]byte("late"))), Class: "kv", Reachable: true}
		o, err := Instantiate(m, bundle.Sum([]byte("3")), previous, []Candidate{late})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	kept := next(o, nil)
	if kept.Agents == nil || kept.Agents.Release != 2 || kept.Agents.Manifest != o.Manifest || len(kept.Agents.Roster) != 4 || !slices.Equal(kept.Agents.Roster[:3], ids) {
		t.Errorf("%+v", kept.Agents)
	}
	if o := next(o, &bundle.AgentUpgrade{MaxUnavailable: "1", HealthyDeadline: bundle.MinAgentDeadline}); o.Agents != nil {
		t.Error("they are replaced without the operator's word")
	}
	aborted, err := o.Abort()
	if err != nil {
		t.Fatal(err)
	}
	if o := next(aborted, nil); o.Agents != nil {
		t.Error("what was aborted goes on")
	}
}

// Two halves are joined with the places of both.
func TestAgentsJoin(t *testing.T) {
	o, ids := agentsOrder(t, 3, "2")
	class := bundle.Class("kv")
	if !o.Names(class, ids[2]) {
		class = "auth"
	}
	a, err := o.RetryAgent(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := o.Skip(class, ids[2])
	if err != nil {
		t.Fatal(err)
	}
	joined, err := Join(a, b, bundle.Sum([]byte("a")), bundle.Sum([]byte("b")))
	if err != nil {
		t.Fatal(err)
	}
	if joined.AgentAttempts(ids[0]) != 2 || joined.AgentAttempts(ids[1]) != 1 || joined.AgentAttempts(ids[2]) != 0 || joined.Agents.MaxUnavailable != 2 {
		t.Errorf("%+v", joined.Agents)
	}
}

// A node that tried once, and was then skipped, may try again by one retry: what it tried before
// the skip counts no more.
func TestAgentRetriedAfterSkip(t *testing.T) {
	id := bundle.NodeID{1}
	a := &AgentsOrder{Release: 2, MaxUnavailable: 1, Roster: []bundle.NodeID{{2}, id}}
	for tried := 1; tried < 4; tried++ {
		a.skip(id)
		if err := a.again(id); err != nil {
			t.Fatal(err)
		}
		if c := a.class(); c.attempts(id) <= tried {
			t.Fatalf("it has tried %d times, and may %d times: %v", tried, c.attempts(id), a.Roster)
		}
	}
}
