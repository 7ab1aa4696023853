package schedule

import (
	"encoding/binary"
	"testing"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// TestRandomRate shows that about so many nodes go in an hour as the rate says, from the first
// hour to when few are left.
func TestRandomRate(t *testing.T) {
	var nodes []Candidate
	for i := range 400 {
		var id bundle.NodeID
		binary.BigEndian.PutUint64(id[:], uint64(i))
		nodes = append(nodes, Candidate{ID: id, Class: "kv", Reachable: true})
	}
	spec := bundle.ScheduleSpec{Strategy: bundle.StrategyRandom, Rate: 100}
	o, err := Instantiate(&bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {Schedule: spec}}}, bundle.Sum([]byte("m")), nil, nodes)
	if err != nil {
		t.Fatal(err)
	}
	version := map[bundle.NodeID]bundle.Version{}
	in := Input{Class: "kv", Order: o, Synced: true, Lookup: func(id bundle.NodeID) (view.Record, bool) {
		return view.Record{Node: id, Version: max(1, version[id])}, true
	}}
	in.Tally = NewTally(o, in.Lookup)
	in.Now = time.Date(2026, 12, 5, 0, 0, 0, 0, time.UTC)
	for hour := range 3 {
		went := 0
		for range 60 {
			for _, n := range nodes {
				if in.Self = n.ID; version[n.ID] == 0 && Decide(in).Go {
					version[n.ID] = 2
					rec, _ := in.Lookup(n.ID)
					in.Tally.Note(n.ID, rec, true)
					went++
				}
			}
			in.Now = in.Now.Add(drawEvery)
		}
		if went < 70 || went > 135 {
			t.Errorf("in hour %d %d nodes went, and the rate is 100", hour, went)
		}
	}
}
