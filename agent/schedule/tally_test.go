package schedule

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// TestTallyKept shows that it makes no difference whether a tally is kept or made anew:
// whatever order it is, and in whatever sequence nodes say things.
func TestTallyKept(t *testing.T) {
	codes := map[string]int{}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		o, ids := anyOrder(t, r)
		records := map[bundle.NodeID]view.Record{}
		lookup := func(id bundle.NodeID) (view.Record, bool) { rec, ok := records[id]; return rec, ok }
		kept := NewTally(o, lookup)
		for range 80 {
			id := ids[r.IntN(len(ids))]
			if r.IntN(20) == 0 {
				delete(records, id)
				kept.Note(id, view.Record{}, false)
				continue
			}
			records[id] = anyRecord(r, id)
			kept.Note(id, records[id], true)
			in := Input{
				Self: ids[r.IntN(len(ids))], Class: "kv", Order: o, Lookup: lookup, Synced: true,
				SettledFor: func(bundle.NodeID) time.Duration { return time.Minute },
				Reachable:  func(id bundle.NodeID) bool { return id[0]%4 > 0 },
			}
			want := Decide(in)
			in.Tally = kept
			if got := Decide(in); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: with a tally that was kept %+v, and else %+v", seed, got, want)
			}
			codes[want.Reason.Code]++
		}
	}
	for _, code := range []string{CodeGo, CodeDone, CodeSkipped, CodeUsedUp, CodeNotStarted, CodeStopped, CodeCanary, CodeSoak, CodeRehearsals, CodeUnwell, CodeBudget, CodeAfter, CodeSpread} {
		if codes[code] == 0 {
			t.Errorf("no decision was %s", code)
		}
	}
}

func anyOrder(t *testing.T, r *rand.Rand) (*Order, []bundle.NodeID) {
	spec := bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: fmt.Sprint(1 + r.IntN(4)), FailureMax: 1 + r.IntN(5)}
	switch r.IntN(5) {
	case 0:
		spec.Strategy = bundle.StrategyManual
	case 1:
		spec.Canary, spec.Soak = 2, bundle.Duration(time.Hour)
	case 2:
		spec.Waves = []bundle.Wave{{Each: "zone", Soak: bundle.Duration(r.IntN(2))}}
	case 3:
		spec.Spread = &bundle.Spread{Label: "zone", Max: 1}
	case 4:
		spec.After = []bundle.Class{"auth"}
	}
	var nodes []Candidate
	var ids []bundle.NodeID
	for i := range 9 {
		c := Candidate{ID: bundle.NodeID{byte(i + 1)}, Class: "kv", Reachable: true, Labels: map[string]string{"zone": []string{"a", "b", ""}[i%3]}}
		ids = append(ids, c.ID)
		if i == 8 {
			c.Class = "auth"
		}
		nodes = append(nodes, c)
	}
	class := bundle.ClassUpgrade{Schedule: spec}
	auth := bundle.ClassUpgrade{Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1"}}
	m := &bundle.Manifest{Version: 3, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": class, "auth": auth}}
	var previous *Order
	if r.IntN(2) == 0 {
		first := *m
		first.Version = 2
		var err error
		if previous, err = Instantiate(&first, bundle.Sum([]byte("2")), nil, nodes); err != nil {
			t.Fatal(err)
		}
	}
	o, err := Instantiate(m, bundle.Sum([]byte{byte(r.IntN(50))}), previous, nodes)
	if err != nil {
		t.Fatal(err)
	}
	for range r.IntN(6) {
		id := ids[r.IntN(8)]
		for _, change := range []func() (*Order, error){
			func() (*Order, error) { return o.Skip("kv", id) },
			func() (*Order, error) { return o.Retry("kv", id) },
			func() (*Order, error) { return o.Start("kv", id) },
		}[r.IntN(3):] {
			if next, err := change(); err == nil {
				o = next
				break
			}
		}
	}
	return o, ids
}

func anyRecord(r *rand.Rand, id bundle.NodeID) view.Record {
	rec := view.Record{
		Node: id, Class: "kv", Version: bundle.Version(1 + r.IntN(3)), Reads: view.ReadsRehearsals, Target: 3,
		Phase: []view.Phase{view.Current, view.Waiting, view.Transforming, view.Held}[r.IntN(4)], Left: r.IntN(12) == 0,
	}
	if r.IntN(4) == 0 {
		rec.Obeys = bundle.Version(1 + r.IntN(4))
	}
	if r.IntN(4) == 0 {
		rec.Ended = view.Ended{Release: 3, Count: 1 + r.IntN(2)}
	}
	switch r.IntN(4) {
	case 0:
		rec.Health = view.Health{State: view.HealthWell, Soaked: bundle.Version(2 + r.IntN(2))}
	case 1:
		rec.Health = view.Health{State: view.HealthState("failing"), Failed: view.Ended{Release: 3, Count: r.IntN(3)}}
	}
	if r.IntN(3) == 0 {
		rec.Rehearsed = view.Rehearsal{Release: 3, Outcome: []view.Outcome{view.RehearsalOK, view.RehearsalFailed}[r.IntN(2)]}
	}
	return rec
}

// BenchmarkTally asks in the middle of a rollout on 10,000 nodes, of which 1 % may be down:
// with a tally that is kept, after one record that is news, and without.
func BenchmarkTally(b *testing.B) {
	const n = 10_000
	var nodes []Candidate
	records := make(map[bundle.NodeID]view.Record, n)
	for i := range n {
		var id bundle.NodeID
		binary.BigEndian.PutUint64(id[:], uint64(i))
		nodes = append(nodes, Candidate{ID: id, Class: "kv", Reachable: true})
	}
	spec := bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1%", Canary: 1, FailureMax: 10}
	o, err := Instantiate(&bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {Schedule: spec}}}, bundle.Sum([]byte("m")), nil, nodes)
	if err != nil {
		b.Fatal(err)
	}
	roster := o.Classes["kv"].Roster
	for i, id := range roster {
		rec := view.Record{Node: id, Class: "kv", Name: fmt.Sprint("n", i), Version: 1, Phase: view.Waiting, Reads: view.ReadsRehearsals}
		if i < n/2 {
			rec.Version, rec.Phase, rec.Health = 2, view.Current, view.Health{State: view.HealthWell, Soaked: 2}
		}
		records[id] = rec
	}
	in := Input{Self: roster[n/2+100], Class: "kv", Order: o, Synced: true, Lookup: func(id bundle.NodeID) (view.Record, bool) { r, ok := records[id]; return r, ok }}
	run := func(name string, t *Tally) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if t != nil {
					id := roster[i%n]
					t.Note(id, records[id], true)
				}
				in.Tally = t
				if d := Decide(in); d.Go || len(d.Reason.Nodes) != 100 {
					b.Fatalf("%+v", d.Reason)
				}
			}
		})
	}
	run("kept", NewTally(o, in.Lookup))
	run("anew", nil)
}
