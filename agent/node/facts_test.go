package node

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"moult/agent/schedule"
	"moult/agent/schedule/expr"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// measured adds facts to the releases of a bench from one on.
func measured(from bundle.Version, facts map[string]bundle.Fact) func(bundle.Version, *bundle.ClassUpgrade) {
	return func(v bundle.Version, cu *bundle.ClassUpgrade) {
		if v >= from {
			cu.Facts = facts
		}
	}
}

func byHTTP(step float64) bundle.Fact {
	return bundle.Fact{HTTP: "/stats", Service: "api", Every: bundle.Duration(time.Second), Timeout: bundle.Duration(time.Second), Step: step}
}

// told is what the record says that the node tells next, the facts of it; false where it
// tells none.
func (r *bench) tells() (facts map[string]view.Fact, told bool) {
	for range 100 {
		todo := r.Ready()
		if todo.Empty() {
			return facts, told
		}
		if todo.Tell != nil {
			facts, told = todo.Tell.Facts, true
		}
		r.Advance(todo)
	}
	r.t.Fatal("it never ends")
	return nil, false
}

// TestFactsPublished: the first at once, then every ten seconds at most, and only beyond
// the step; none while the node is down.
func TestFactsPublished(t *testing.T) {
	n := newBench(t, at(1))
	n.releases(1, 2, measured(1, map[string]bundle.Fact{"errors": byHTTP(0.5), "height": byHTTP(0)}))
	n.tells()
	start := n.now
	say := func(after time.Duration, errors, height float64) (map[string]view.Fact, bool) {
		n.Step(start.Add(after), FactsSampled{1, map[string]view.Fact{"errors": {Value: errors}, "height": {Value: height}}})
		return n.tells()
	}
	if facts, ok := say(0, 1, 7); !ok || facts["errors"].Value != 1 || facts["height"].Value != 7 {
		t.Fatalf("the first are not published: %v", facts)
	}
	if facts, ok := say(time.Second, 9, 9); ok {
		t.Errorf("after a second: %v", facts)
	}
	if facts, ok := say(11*time.Second, 1.5, 7); ok {
		t.Errorf("it differs by the step, and not by more: %v", facts)
	}
	if facts, ok := say(12*time.Second, 1.6, 7); !ok || facts["errors"].Value != 1.6 {
		t.Errorf("beyond the step: %v", facts)
	}
	n.Step(start.Add(30*time.Second), FactsSampled{1, map[string]view.Fact{"errors": {State: view.FactNoAnswer, Reason: "no\nanswer"}, "height": {Value: 7}}})
	if facts, ok := n.tells(); !ok || facts["errors"] != (view.Fact{State: view.FactNoAnswer, Reason: "no answer"}) {
		t.Errorf("it does not answer: %v", facts)
	}
	// A text alone is not worth a record.
	n.Step(start.Add(60*time.Second), FactsSampled{1, map[string]view.Fact{"errors": {State: view.FactNoAnswer, Reason: "another"}, "height": {Value: 7}}})
	if facts, ok := n.tells(); ok {
		t.Errorf("another text: %v", facts)
	}
	for _, phase := range []upgrade.Phase{upgrade.Draining, upgrade.Transforming, upgrade.Starting, upgrade.Probing} {
		if s := (upgrade.State{Running: 1, Phase: phase}); n.factsSaid(s) != nil {
			t.Errorf("%s, and it says %v", phase, n.factsSaid(s))
		}
	}
	n.Step(start.Add(61*time.Second), FactsSampled{2, map[string]view.Fact{"errors": {Value: 3}}})
	if facts, _ := n.tells(); facts != nil {
		t.Errorf("the facts of other software than runs: %v", facts)
	}
}

// TestFactsWanted: those of the release that runs, and of the coming one what can be asked
// of the software that runs.
func TestFactsWanted(t *testing.T) {
	s := at(1)
	s.Goal, s.Path, s.Phase = 2, []bundle.Version{2}, upgrade.Waiting
	n := newBench(t, s)
	n.releases(1, 2, measured(1, map[string]bundle.Fact{"errors": byHTTP(1)}), measured(2, map[string]bundle.Fact{
		"errors": byHTTP(2), "height": byHTTP(3), "queue": {Exec: []string{"./queue"}, Every: bundle.Duration(time.Second)},
	}))
	if got := n.Facts(); len(got) != 2 || got["errors"].Step != 1 || got["height"].Step != 3 {
		t.Errorf("it asks for %v", got)
	}
	many := map[string]bundle.Fact{}
	for i := range bundle.MaxFacts {
		many[fmt.Sprint("a", i)] = byHTTP(0)
	}
	n.releases(1, 1, measured(1, map[string]bundle.Fact{"zz": byHTTP(0)}))
	n.releases(2, 2, measured(2, many))
	if got := n.Facts(); len(got) != bundle.MaxFacts || got["zz"].Every == 0 {
		t.Errorf("it asks for %v", got)
	}
}

// conditionally has a bench wait for release 2 by conditions, as the last of so many nodes.
func conditionally(t *testing.T, others int, when, holdIf string) (*bench, []ed25519.PrivateKey) {
	s := at(1)
	s.Goal, s.Path, s.Phase = 2, []bundle.Version{2}, upgrade.Waiting
	n := newBench(t, s)
	n.releases(1, 2, measured(1, map[string]bundle.Fact{"errors": byHTTP(0), "height": byHTTP(0)}))
	var keys []ed25519.PrivateKey
	c := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: others + 1, When: when, HoldIf: holdIf}
	for range others {
		_, key, _ := ed25519.GenerateKey(nil)
		keys = append(keys, key)
		c.Roster = append(c.Roster, bundle.NodeIDOf(key.Public().(ed25519.PublicKey)))
	}
	c.Roster = append(c.Roster, n.cfg.Self)
	n.docs.orders[2] = &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{"kv": c}}
	n.Step(n.now, Synced{})
	return n, keys
}

func (r *bench) decides() schedule.Decision {
	in := r.Input(2)
	in.Expired = false // it has no metadata
	return r.cfg.Rules.Decide(in)
}

// TestBarrier: a node goes when its own fact says so, and not while nothing is known.
func TestBarrier(t *testing.T) {
	n, _ := conditionally(t, 0, "self.facts.height >= 100.0", "")
	for i, c := range []struct {
		fact view.Fact
		go_  bool
		text string
	}{
		{view.Fact{State: view.FactNoAnswer, Reason: "it is shut"}, false, "it waits until self.facts.height >= 100.0: self.facts.height has no value (no answer: it is shut)"},
		{view.Fact{Value: 99}, false, "it waits until self.facts.height >= 100.0: self.facts.height is 99"},
		{view.Fact{Value: 100}, true, ""},
		{view.Fact{State: view.FactNotNumber}, false, "self.facts.height has no value"},
	} {
		n.Step(n.now.Add(time.Minute), FactsSampled{1, map[string]view.Fact{"height": c.fact}})
		n.noteFacts()
		if d := n.decides(); d.Go != c.go_ || !strings.Contains(d.Reason.Text, c.text) || !d.Go && d.Reason.Code != schedule.CodeWhen {
			t.Errorf("%d: %+v", i, d)
		}
	}
}

// TestCanaryByFacts: those that have settled are compared with the others.
func TestCanaryByFacts(t *testing.T) {
	n, keys := conditionally(t, 3, "", "settled.errors.p50 > 2.0 * others.errors.p50 + 0.01")
	say := func(i int, seq uint64, version bundle.Version, errors float64) {
		n.record(keys[i], func(r *view.Record) {
			r.Name, r.Seq, r.Version, r.Facts = fmt.Sprint("n", i+2), seq, version, map[string]view.Fact{"errors": {Value: errors}}
		})
	}
	for i := range keys {
		say(i, 1, 1, 0.02)
	}
	if d := n.decides(); !d.Go {
		t.Fatalf("nobody has settled: %+v", d)
	}
	say(0, 2, 2, 0.04)
	if d := n.decides(); !d.Go {
		t.Errorf("not much worse: %+v", d)
	}
	say(0, 3, 2, 0.2)
	const want = "the rollout of class kv is held, since settled.errors.p50 > 2.0 * others.errors.p50 + 0.01: others.errors.p50 is 0.02, settled.errors.p50 is 0.2"
	if d := n.decides(); d.Go || d.Reason.Text != want {
		t.Errorf("%+v, want %s", d, want)
	}
	n.record(keys[0], func(r *view.Record) { r.Name, r.Seq, r.Version = "n2", 4, 2 })
	if d := n.decides(); d.Go || d.Reason.Text != want {
		t.Errorf("it says nothing any more: %+v", d)
	}
	n.record(keys[0], func(r *view.Record) {
		r.Name, r.Seq, r.Version, r.Facts = "n2", 5, 2, map[string]view.Fact{"errors": {State: view.FactNoAnswer}}
	})
	n.conditions = nil // as by another order
	if d := n.decides(); d.Go || d.Reason.Text != want {
		t.Errorf("it answers no more: %+v", d)
	}
	say(0, 6, 2, 0.02)
	if d := n.decides(); !d.Go {
		t.Errorf("it is better: %+v", d)
	}
	say(0, 7, 2, 0.2)
	n.record(keys[0], func(r *view.Record) {
		r.Name, r.Seq, r.Version, r.Left, r.Facts = "n2", 8, 2, true, map[string]view.Fact{"errors": {Value: 9}}
	})
	if d := n.decides(); !d.Go {
		t.Errorf("who has left holds up nothing: %+v", d)
	}
}

// TestConditionsFollow: whatever records come, and in whatever sequence, conditions say what
// they would if all was looked at anew.
func TestConditionsFollow(t *testing.T) {
	const when = "settled.errors.count == 99 || others.errors.mean > 0.5 || settled.errors.max > 0.9 || class.settled > 3"
	n, keys := conditionally(t, 5, when, "self.facts.errors > 0.5")
	rnd := rand.New(rand.NewPCG(1, 2))
	for seq := uint64(1); seq < 300; seq++ {
		n.record(keys[rnd.IntN(len(keys))], func(r *view.Record) {
			r.Name, r.Seq, r.Version = "n2", seq, bundle.Version(1+rnd.IntN(2))
			if r.Version == 2 || rnd.IntN(4) > 0 { // of the settled the last numbers count
				r.Facts = map[string]view.Fact{"errors": {Value: rnd.Float64()}}
			}
			r.Left = rnd.IntN(10) == 0
		})
		got := n.decides()
		n.conditions = nil
		if want := n.decides(); got.Go != want.Go || got.Reason.Text+got.Reason.Note != want.Reason.Text+want.Reason.Note {
			t.Fatalf("record %d: %+v, looked at anew %+v", seq, got, want)
		}
	}
}

// TestConditionsOfTwoOrders: the conditions of the order that a node goes by, and of the newest, are
// kept beside each other, and no more.
func TestConditionsOfTwoOrders(t *testing.T) {
	n, keys := conditionally(t, 2, "class.settled > 3", "")
	by := n.docs.orders[2]
	newest, other := *by, *by
	kept := n.conditionsOf(by)
	n.conditionsOf(&newest)
	n.record(keys[0], func(r *view.Record) { r.Name, r.Seq, r.Version = "n2", 9, 2 })
	if c := n.conditionsOf(by); c != kept || len(c.changed) != 0 || len(n.conditions) != 2 {
		t.Errorf("counted anew: %v, of %d orders; %d changes waited for", c != kept, len(n.conditions), len(c.changed))
	}
	if c := n.conditionsOf(&newest); len(c.changed) != 0 {
		t.Error("what is said is not taken in by both")
	}
	n.conditionsOf(&other)
	if len(n.conditions) != maxConditions || n.conditionsOf(&newest) != n.conditions[0] {
		t.Errorf("of %d orders", len(n.conditions))
	}
}

// TestFactsOutliveTheAgent: a new agent goes on saying what was said of the software that
// still runs, and nothing of other software.
func TestFactsOutliveTheAgent(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(nil)
	for running, want := range map[bundle.Version]float64{1: 7, 2: 0} {
		rec := view.Record{Name: "n1", Class: "kv", Seq: 3, Version: 1, Running: running, Phase: "current", Facts: map[string]view.Fact{"errors": {Value: 7}}}
		s, err := view.Sign(key, rec)
		if err != nil {
			t.Fatal(err)
		}
		state := at(1)
		n, err := New(Config{Self: bundle.NodeIDOf(pub), Key: pub, Name: "n1", Class: "kv"}, Memory{State: &state, Floor: Floor{Numbers: 10}, Records: []view.Signed{s}}, time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		if got := n.record().Facts["errors"].Value; got != want {
			t.Errorf("of software %d: %v, want %v", running, got, want)
		}
	}
}

// TestNumbersBounded: of one node no more is kept than it may say at once.
func TestNumbersBounded(t *testing.T) {
	n, keys := conditionally(t, 1, "", "")
	for seq := range uint64(5) {
		id := n.record(keys[0], func(r *view.Record) {
			r.Seq, r.Facts = seq+1, map[string]view.Fact{}
			for i := range 5 {
				r.Facts[fmt.Sprint("f", seq, "x", i)] = view.Fact{Value: 1}
			}
		})
		if got := len(n.numbers[id].last); got > bundle.MaxFacts {
			t.Fatal(got)
		}
	}
}

// TestConditionsWithoutLabels: a node that has no labels has none of any name.
func TestConditionsWithoutLabels(t *testing.T) {
	n, _ := conditionally(t, 0, `!("canary" in self.labels)`, "")
	n.record(n.key, func(r *view.Record) { r.Name = "n1" })
	if d := n.decides(); !d.Go {
		t.Errorf("%+v", d)
	}
}

// TestConditionsReadAgain: what a condition names may be in a release that is not here yet.
func TestConditionsReadAgain(t *testing.T) {
	n, keys := conditionally(t, 1, "", "settled.errors.p50 > 0.5")
	n.record(keys[0], func(r *view.Record) { r.Version, r.Facts = 2, map[string]view.Fact{"errors": {Value: 0.1}} })
	n.releases(1, 2)
	if d := n.decides(); d.Go || d.Reason.Code != schedule.CodeHoldIf || !strings.Contains(d.Reason.Text, "it cannot be read here") {
		t.Errorf("nobody knows what it says: %+v", d)
	}
	n.releases(1, 2, measured(1, map[string]bundle.Fact{"errors": byHTTP(0)}))
	if d := n.decides(); !d.Go {
		t.Errorf("it says no: %+v", d)
	}
}

// TestHeldOnNewSoftware: a node that failed on its way, and still runs the new software, is no
// measure of how the one before fares.
func TestHeldOnNewSoftware(t *testing.T) {
	n, keys := conditionally(t, 3, "", "settled.errors.p50 > 2.0 * others.errors.mean + 0.01")
	for i, r := range []view.Record{{Version: 2, Running: 2}, {Version: 1, Running: 1}, {Version: 1, Running: 2, Phase: view.Held}} {
		r.Facts = map[string]view.Fact{"errors": {Value: []float64{0.2, 0.02, 0.9}[i]}}
		n.record(keys[i], func(to *view.Record) {
			to.Name, to.Seq, to.Version, to.Running, to.Facts = fmt.Sprint("n", i+2), 1, r.Version, r.Running, r.Facts
			if r.Phase != "" {
				to.Phase = r.Phase
			}
		})
	}
	if d := n.decides(); d.Go || !strings.Contains(d.Reason.Text, "others.errors.mean is 0.02, settled.errors.p50 is 0.2") {
		t.Errorf("%+v", d)
	}
}

func TestConditionNotUnderstood(t *testing.T) {
	n, _ := conditionally(t, 0, "self.facts.none > 1.0", "")
	if d := n.decides(); d.Go || !strings.Contains(d.Reason.Text, "it cannot be read here: line 1, column 11: undeclared reference to 'self.facts.none'") {
		t.Errorf("%+v", d)
	}
}

// TestDecideWithConditions: in the steady state a condition costs a decision nothing to
// speak of.
func TestDecideWithConditions(t *testing.T) {
	n, _ := conditionally(t, 0, "", "settled.errors.p50 > 1.0 || others.errors.p50 > 1.0")
	ask := n.ask(n.docs.orders[2])
	of := n.docs.orders[2].Classes["kv"].HoldIf
	ask("kv", n.cfg.Self, of)
	if allocs := testing.AllocsPerRun(100, func() { ask("kv", n.cfg.Self, of) }); allocs != 0 {
		t.Errorf("%v allocations each time", allocs)
	}
}

func BenchmarkConditions(b *testing.B) {
	const nodes = 10_000
	var sums expr.Group
	for i := range nodes {
		sums.Add(float64(i))
	}
	e, err := expr.Compile("others.errors.p50 > 2.0 * others.errors.mean", []string{"errors"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() { // one node says another number, and the condition is asked
		sums.Remove(5000)
		sums.Add(5000)
		e.Eval(func(name string) (any, bool) {
			_, _, aggregate, _ := expr.Split(name)
			return sums.Value(aggregate)
		})
	}
}
