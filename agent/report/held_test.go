package report

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// TestHeldByOne: a condition over the node itself may hold any of those that wait, and one
// that waits no more for it says nothing of the others.
func TestHeldByOne(t *testing.T) {
	now := time.Unix(1e9, 0)
	pub, _, _ := ed25519.GenerateKey(nil)
	n, err := node.New(node.Config{Self: bundle.NodeIDOf(pub), Key: pub, Name: "n0", Class: "kv"}, node.Memory{Metadata: node.Metadata{Expires: now.Add(time.Hour)}}, now)
	if err != nil {
		t.Fatal(err)
	}
	for v := bundle.Version(1); v <= 2; v++ {
		n.Manifests()[v] = &bundle.Manifest{Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: v - 1}}}
	}
	c := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 3}
	for i := range 3 {
		_, key, _ := ed25519.GenerateKey(nil)
		r := view.Record{Name: fmt.Sprint("n", i+1), Class: "kv", Seq: 1, Version: 1, Running: 1, Target: 2, Phase: upgrade.Waiting}
		s, err := view.Sign(key, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Merge(now, s); err != nil {
			t.Fatal(err)
		}
		c.Roster = append(c.Roster, bundle.NodeIDOf(key.Public().(ed25519.PublicKey)))
	}
	for i := range 3 {
		c.HoldIf = fmt.Sprintf("self.name == 'n%d'", i+1)
		o := &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{"kv": c}}
		n.Orders()[2] = o
		if held := (Peer{ID: n.Self(), Node: n, Now: now}).heldBy(o); !strings.Contains(held, c.HoldIf+": self.name is") {
			t.Errorf("%s: %q", c.HoldIf, held)
		}
	}
}

// TestWayBack: what prints how a release is taken back does so where a node is at it, and
// nowhere where it cannot be.
func TestWayBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	_, key, _ := ed25519.GenerateKey(nil)
	self := bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
	for _, c := range []struct {
		what    string
		running bundle.Version
		reverse *bundle.Reverse
		turn    int
		want    string
	}{
		{"a node is at it", 2, &bundle.Reverse{}, 0, "`moult revert 2` takes it back"},
		{"nobody is", 1, &bundle.Reverse{}, 0, ""},
		{"it has no reverse", 2, nil, 0, ""},
		{"it is taken back", 2, &bundle.Reverse{}, 1, ""},
		{"it was gone forward to again", 2, &bundle.Reverse{}, 2, "`moult revert 2` takes it back"},
	} {
		n, err := node.New(node.Config{Self: self, Key: key.Public().(ed25519.PublicKey), Name: "n1", Class: "kv"}, node.Memory{Metadata: node.Metadata{Expires: now.Add(time.Hour)}}, now)
		if err != nil {
			t.Fatal(err)
		}
		n.Manifests()[1] = &bundle.Manifest{Version: 1, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {}}}
		n.Manifests()[2] = &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: 1, Transform: bundle.Transform{Reverse: c.reverse}}}}
		_, other, _ := ed25519.GenerateKey(nil)
		s, err := view.Sign(other, view.Record{Name: "n2", Class: "kv", Seq: 1, Version: c.running, Running: c.running, Phase: upgrade.Current})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Merge(now, s); err != nil {
			t.Fatal(err)
		}
		o := &schedule.Order{Release: 2, Turn: c.turn, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{"kv": {}}}
		if got := (Peer{ID: n.Self(), Node: n, Now: now}).wayBack(o); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// A node that cannot go back says why itself: that is what is told of it, with what leads on.
func TestWhyItCannotGoBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	pub, key, _ := ed25519.GenerateKey(nil)
	n, err := node.New(node.Config{Self: bundle.NodeIDOf(pub), Key: pub, Name: "n0", Class: "kv"}, node.Memory{Metadata: node.Metadata{Expires: now.Add(time.Hour)}}, now)
	if err != nil {
		t.Fatal(err)
	}
	for v := bundle.Version(1); v <= 2; v++ {
		n.Manifests()[v] = &bundle.Manifest{Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: v - 1}}}
	}
	why := "release 2 is taken back, and cannot be here: release 1, before it, has not arrived"
	s, err := view.Sign(key, view.Record{Name: "n0", Class: "kv", Seq: 1, Version: 2, Running: 2, Phase: upgrade.Current, Reason: why})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Merge(now, s); err != nil {
		t.Fatal(err)
	}
	n.Orders()[2] = &schedule.Order{Release: 2, Turn: 1, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{
		"kv": {Strategy: bundle.StrategyRolling, MaxUnavailable: 1, Roster: []bundle.NodeID{n.Self()}},
	}}
	w, err := Peer{ID: n.Self(), Node: n, Now: now}.Why("n0")
	if err != nil || w.Reason != why || w.Command != "moult inject BUNDLE" {
		t.Errorf("%+v, %v", w, err)
	}
}
