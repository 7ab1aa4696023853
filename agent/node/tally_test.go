package node

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// BenchmarkDecide asks a node of 10,000, half of which have settled, after each record that is
// news, which is not measured: by the tally that it keeps, and where all is counted anew.
func BenchmarkDecide(b *testing.B) {
	const nodes = 10_000
	s := at(1)
	s.Goal, s.Path, s.Phase = 2, []bundle.Version{2}, upgrade.Waiting
	n := newBench(b, s)
	n.releases(1, 2)
	c := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: nodes / 100, Canary: 1, FailureMax: 10}
	var keys []ed25519.PrivateKey
	for i := range nodes - 1 {
		var seed [ed25519.SeedSize]byte
		binary.BigEndian.PutUint64(seed[:], uint64(i))
		keys = append(keys, ed25519.NewKeyFromSeed(seed[:]))
	}
	say := func(i int, number uint64) bundle.NodeID {
		return n.record(keys[i], func(r *view.Record) {
			r.Name, r.Seq, r.Reads = fmt.Sprint("n", i), number, view.ReadsTurns
			if r.Phase = view.Waiting; i < nodes/2 {
				r.Version, r.Phase, r.Health = 2, view.Current, view.Health{State: view.HealthWell, Soaked: 2}
			}
		})
	}
	for i := range keys {
		c.Roster = append(c.Roster, say(i, 1))
	}
	c.Roster = slices.Insert(c.Roster, nodes/2+100, n.cfg.Self)
	n.docs.orders[2] = &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{"kv": c}}
	n.Step(n.now, Synced{})
	for _, kept := range []bool{true, false} {
		b.Run(map[bool]string{true: "kept", false: "anew"}[kept], func(b *testing.B) {
			b.ReportAllocs()
			number := uint64(1)
			for i := 0; b.Loop(); i++ {
				if i%len(keys) == 0 {
					number++
				}
				b.StopTimer()
				n.heard(say(i%len(keys), number))
				b.StartTimer()
				in := n.Input(2)
				in.Expired = false // it has no metadata
				if kept {
					in.Tally = n.tallyOf(in.Order)
				}
				if d := schedule.Decide(in); d.Go || len(d.Reason.Nodes) != nodes/100 {
					b.Fatalf("%+v", d.Reason)
				}
			}
		})
	}
}

// TestNameOf: a node is called by its name while that is its alone, whoever comes, goes, or
// takes another name.
func TestNameOf(t *testing.T) {
	n := newBench(t, at(1))
	_, one, _ := ed25519.GenerateKey(nil) // it never fails
	_, two, _ := ed25519.GenerateKey(nil)
	called := func(key ed25519.PrivateKey, number uint64, name string) bundle.NodeID {
		return n.record(key, func(r *view.Record) { r.Name, r.Seq = name, number })
	}
	first := called(one, 1, "a")
	if got := n.NameOf(first); got != "a" {
		t.Errorf("alone it is called %q", got)
	}
	second := called(two, 1, "a")
	if a, b := n.NameOf(first), n.NameOf(second); a != first.Short() || b != second.Short() {
		t.Errorf("two of one name are called %q and %q", a, b)
	}
	called(two, 2, "b")
	if a, b := n.NameOf(first), n.NameOf(second); a != "a" || b != "b" {
		t.Errorf("one has taken another name; they are called %q and %q", a, b)
	}
	called(one, 2, "b")
	n.view.Drop(second)
	n.gone(second)
	if a, b := n.NameOf(first), n.NameOf(second); a != "b" || b != second.Short() {
		t.Errorf("one has gone; they are called %q and %q", a, b)
	}
}
