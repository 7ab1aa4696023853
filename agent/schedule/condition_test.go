package schedule

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"moult/gossip/view"
	"moult/store/bundle"
)

// TestConditionsOnlyAdd: whatever conditions say, nobody goes who would not go without
// them; and nobody goes unless each says what it must.
func TestConditionsOnlyAdd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roster := []bundle.NodeID{idOf("n1"), idOf("n2"), idOf("n3")}
		c := ClassOrder{Strategy: rapid.SampledFrom([]string{bundle.StrategyRolling, bundle.StrategyAtOnce}).Draw(t, "strategy"), MaxUnavailable: rapid.IntRange(1, 3).Draw(t, "k"), Roster: roster, When: "ripe", HoldIf: "rotten"}
		if rapid.Bool().Draw(t, "by hand") {
			c.Now = []int{1}
		}
		records := map[bundle.NodeID]view.Record{}
		for _, id := range roster {
			if version := rapid.IntRange(-1, 2).Draw(t, "version"); version >= 0 {
				records[id] = view.Record{Node: id, Version: bundle.Version(version), Phase: view.Waiting}
			}
		}
		answers := map[string]Answer{"ripe": Answer(rapid.IntRange(0, 2).Draw(t, "ripe")), "rotten": Answer(rapid.IntRange(0, 2).Draw(t, "rotten"))}
		in := Input{
			Self: roster[1], Class: "kv", Synced: true,
			Lookup: func(id bundle.NodeID) (view.Record, bool) { r, ok := records[id]; return r, ok },
			Ask:    func(_ bundle.Class, _ bundle.NodeID, condition string) Said { return Said{answers[condition], "…"} },
		}
		order := func(c ClassOrder) *Order {
			return &Order{Release: 2, Serial: 1, State: StateRunning, Classes: map[bundle.Class]ClassOrder{"kv": c}}
		}
		in.Order = order(c)
		with := Decide(in)
		c.When, c.HoldIf = "", ""
		in.Order = order(c)
		without := Decide(in)
		let := len(c.Now) > 0 || answers["ripe"] == AnswerYes && answers["rotten"] != AnswerYes
		if with.Go != (without.Go && let) {
			t.Fatalf("%+v, and without conditions %+v", with, without)
		}
		in.Ask, in.Order = nil, order(ClassOrder{Strategy: c.Strategy, MaxUnavailable: 3, Roster: roster, When: "ripe"})
		if d := Decide(in); d.Go {
			t.Fatalf("it goes, and nothing is known: %+v", d)
		}
	})
}

func TestConditionsOfAnOrder(t *testing.T) {
	c := ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1, When: "true"}
	o := &Order{Format: FormatFacts, Release: 2, Manifest: bundle.Sum([]byte("m")), Serial: 1, State: StateRunning, Classes: map[bundle.Class]ClassOrder{"kv": c}}
	data, err := MarshalOrder(o)
	if err != nil || !strings.HasPrefix(string(data), `{"format":5,`) {
		t.Fatalf("%s %v", data, err)
	}
	for _, bad := range []string{strings.Repeat("a", bundle.MaxExpressionBytes+1), "a\x00", "\xff"} {
		c.When, c.HoldIf = "true", bad
		o.Classes["kv"] = c
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "classes.kv.hold_if") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	a, b := *o, *o
	for half, when := range map[*Order]string{&a: "x", &b: "y"} {
		half.Classes = map[bundle.Class]ClassOrder{"kv": {Strategy: bundle.StrategyRolling, MaxUnavailable: 1, When: when}}
	}
	if _, err := Join(&a, &b, bundle.Sum([]byte("a")), bundle.Sum([]byte("b"))); err == nil || !strings.Contains(err.Error(), "different conditions") {
		t.Error(err)
	}
	b.Classes["kv"] = ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1, HoldIf: "z"}
	joined, err := Join(&a, &b, bundle.Sum([]byte("a")), bundle.Sum([]byte("b")))
	if err != nil || joined.Classes["kv"].When != "x" || joined.Classes["kv"].HoldIf != "z" {
		t.Errorf("%+v %v", joined, err)
	}
}
