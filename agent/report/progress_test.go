package report

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// TestProgressAlarm: without a deadline, what the order itself makes a class pause for is no
// alarm.
func TestProgressAlarm(t *testing.T) {
	const day = 24 * time.Hour
	_, key, _ := ed25519.GenerateKey(nil)
	self := bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
	rolling := schedule.ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1}
	with := func(change func(*schedule.ClassOrder)) schedule.ClassOrder {
		c := rolling
		change(&c)
		return c
	}
	for _, tc := range []struct {
		what  string
		class schedule.ClassOrder
		after time.Duration
	}{
		{"no pause", rolling, 2 * time.Hour},
		{"a deadline", with(func(c *schedule.ClassOrder) { c.ProgressDeadline = bundle.Duration(time.Hour) }), time.Hour},
		{"a canary's soak", with(func(c *schedule.ClassOrder) { c.Canary, c.Soak = 1, bundle.Duration(day) }), day + 2*time.Hour},
		{"the longest soak of waves", with(func(c *schedule.ClassOrder) {
			c.Waves = []schedule.Wave{{UpTo: 1, Soak: bundle.Duration(3 * day)}, {UpTo: 2, Soak: bundle.Duration(day)}}
		}), 3*day + 2*time.Hour},
		{"chance", schedule.ClassOrder{Strategy: bundle.StrategyRandom, Rate: 2}, 7 * time.Hour},
	} {
		now := time.Unix(1e9, 0)
		n, err := node.New(node.Config{Self: self, Key: key.Public().(ed25519.PublicKey), Name: "n1", Class: "kv"}, node.Memory{Metadata: node.Metadata{Expires: now.Add(100 * day)}}, now)
		if err != nil {
			t.Fatal(err)
		}
		s, err := view.Sign(key, view.Record{Name: "n1", Class: "kv", Seq: 1, Version: 1, Running: 1, Phase: view.Current})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Merge(now, s); err != nil {
			t.Fatal(err)
		}
		tc.class.Roster = []bundle.NodeID{self}
		n.Orders()[2] = &schedule.Order{Release: 2, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{"kv": tc.class}}
		alarm := func(at time.Duration) string {
			n.Step(now.Add(at), node.Tick{})
			n.Ready() // takes the decisions that are due
			p := Peer{ID: self, Node: n, Now: now.Add(at), Trust: &trust.Verified{}}
			return p.idle(&control.Status{Nodes: []control.NodeStatus{{ID: self, Class: "kv", Version: 1}}})
		}
		alarm(0)
		if text := alarm(tc.after - time.Second); text != "" {
			t.Errorf("%s: too early: %s", tc.what, text)
		}
		if text := alarm(tc.after); !strings.Contains(text, "does not get on") {
			t.Errorf("%s: no alarm: %q", tc.what, text)
		}
	}
}
