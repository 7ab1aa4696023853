package report

import (
	"crypto/ed25519"
	"testing"
	"time"

	"moult/agent/node"
	"moult/gossip/view"
	"moult/store/bundle"
)

// A record that claims what no release brings costs no more than others.
func TestRunsByManifests(t *testing.T) {
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(node.Config{Self: bundle.NodeIDOf(key), Key: key, Name: "n1", Class: "kv"}, node.Memory{}, time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	for v := bundle.Version(1); v <= 3; v++ {
		n.Manifests()[v] = &bundle.Manifest{Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: v - 1}}}
	}
	for _, c := range []struct{ running, version, want bundle.Version }{
		{1, bundle.MaxVersion, 1}, {bundle.MaxVersion, 3, 0}, {1, 1, 0}, {1, 2, 1}, {3, 2, 3}, {0, 2, 0},
	} {
		if got := (Peer{Node: n}).runs(view.Record{Class: "kv", Running: c.running, Version: c.version}); got != c.want {
			t.Errorf("at version %d, running %d: %d", c.version, c.running, got)
		}
	}
}
