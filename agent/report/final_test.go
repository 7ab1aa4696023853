package report

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// TestWhenFinal: no time is named at which nobody finalizes a release, but the reason.
func TestWhenFinal(t *testing.T) {
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now, self := time.Unix(1_800_000_000, 0).UTC(), bundle.NodeIDOf(key)
	begin := func(expires time.Time) (Peer, *schedule.Order) {
		n, err := node.New(node.Config{Self: self, Key: key, Name: "n1", Class: "kv"}, node.Memory{
			State:    &upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true, Step: 1},
			Metadata: node.Metadata{Expires: expires},
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		o := &schedule.Order{Release: 2, State: schedule.StateRunning, FinalizeAfter: bundle.Duration(time.Hour), Classes: map[bundle.Class]schedule.ClassOrder{"kv": {Roster: []bundle.NodeID{self}, MaxUnavailable: 1}}}
		n.Orders()[2] = o
		return Peer{Node: n}, o
	}
	look := func(p Peer, events ...node.Event) {
		for _, e := range events {
			p.Node.Step(now, e)
		}
		p.Node.Ready()
	}
	p, o := begin(now.Add(time.Hour))
	if look(p); !strings.Contains(p.whenFinal(o), "since this agent has not heard from a peer") {
		t.Errorf("before it has heard from a peer: %q", p.whenFinal(o))
	}
	if look(p, node.Synced{}, node.Members{}); !strings.Contains(p.whenFinal(o), now.Add(time.Hour).Format(time.RFC3339)) {
		t.Errorf("while the time runs: %q", p.whenFinal(o))
	}
	p, o = begin(now.Add(-time.Hour))
	if look(p, node.Synced{}, node.Members{}); !strings.Contains(p.whenFinal(o), "since the trust metadata have expired") || !p.Node.Finalizing().At.IsZero() {
		t.Errorf("once the metadata have expired: %q", p.whenFinal(o))
	}
}
