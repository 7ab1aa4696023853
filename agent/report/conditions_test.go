package report

import (
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// TestConditions: what somebody may want to be told of has a key that stays while it holds.
func TestConditions(t *testing.T) {
	now := time.Unix(1e9, 0)
	_, key, _ := ed25519.GenerateKey(nil)
	_, other, _ := ed25519.GenerateKey(nil)
	self, second := bundle.NodeIDOf(key.Public().(ed25519.PublicKey)), bundle.NodeIDOf(other.Public().(ed25519.PublicKey))
	for _, c := range []struct {
		what  string
		self  upgrade.State
		order string
		turn  int
		other bundle.Version
		want  []string
	}{
		{"nothing has happened", upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}, schedule.StateRunning, 0, 1, nil},
		{"this node is held", upgrade.State{Phase: upgrade.Held, Version: 1, Running: 1, Served: true, EndedRelease: 2, EndedCount: 3, Reason: "why"}, schedule.StateRunning, 0, 1, []string{"held 2.3: why"}},
		{"it is paused", upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}, schedule.StatePaused, 0, 1, []string{"stopped 2.0 paused"}},
		{"it is aborted", upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}, schedule.StateAborted, 0, 1, []string{"stopped 2.0 aborted"}},
		{"it is being taken back", upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}, schedule.StateRunning, 1, 2, nil},
		{"it is complete", upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true}, schedule.StateRunning, 0, 2, []string{"complete 2.0"}},
		{"it is complete but for one", upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true}, schedule.StateRunning, 0, 1, nil},
	} {
		m := node.Memory{Metadata: node.Metadata{Expires: now.Add(time.Hour), Releases: map[bundle.Version]trust.Ref{2: {Digest: bundle.Sum([]byte("r"))}}, Orders: map[bundle.Version]trust.Ref{2: {Digest: bundle.Sum([]byte("o"))}}}, State: &c.self}
		n, err := node.New(node.Config{Self: self, Key: key.Public().(ed25519.PublicKey), Name: "n1", Class: "kv"}, m, now)
		if err != nil {
			t.Fatal(err)
		}
		n.Manifests()[1] = &bundle.Manifest{Version: 1, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {}}}
		n.Manifests()[2] = &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: 1}}}
		class := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1, Roster: []bundle.NodeID{self, second}}
		n.Orders()[2] = &schedule.Order{Release: 2, State: c.order, Turn: c.turn, Classes: map[bundle.Class]schedule.ClassOrder{"kv": class}}
		var records []view.Signed
		for _, r := range []struct {
			key    ed25519.PrivateKey
			record view.Record
		}{
			{key, view.Record{Name: "n1", Class: "kv", Seq: 1, Version: c.self.Version, Running: c.self.Running, Phase: c.self.Phase, Reason: c.self.Reason, Health: view.Health{State: view.HealthWell}, Held: c.self.Phase == upgrade.Held, Ended: view.Ended{Release: c.self.EndedRelease, Count: c.self.EndedCount}}},
			{other, view.Record{Name: "n2", Class: "kv", Seq: 1, Version: c.other, Running: c.other, Phase: upgrade.Current, Health: view.Health{State: view.HealthWell}}},
		} {
			s, err := view.Sign(r.key, r.record)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, s)
		}
		n.Step(now, node.Told{Record: records[0]})
		if _, err := n.Merge(now, records...); err != nil {
			t.Fatal(err)
		}
		n.Step(now, node.Members{Alive: map[bundle.NodeID]bool{self: true, second: true}})
		n.Step(now, node.Alarm{Cause: "disk", Text: "full"})
		var got []string
		for _, x := range (Peer{ID: self, Node: n, Trust: &trust.Verified{}, Now: now}).Conditions() {
			if x.Key == "alarm disk" && x.Kind == KindAlarm && x.Text == "full" {
				continue
			}
			if x.Kind == KindHeld {
				x.Key += ": " + x.Text
			}
			got = append(got, x.Key)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
