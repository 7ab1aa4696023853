package operator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// plainManifest is a small valid manifest of release n.
func plainManifest(t *testing.T, n bundle.Version, previous bundle.Digest) (*bundle.Manifest, []byte) {
	t.Helper()
	blob := bundle.Chunk{Digest: bundle.Sum([]byte("kv")), Length: 2}
	m := &bundle.Manifest{Format: bundle.FormatVersion, Version: n, Previous: previous, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {
		From: n - 1,
		Artifacts: []bundle.Artifact{{Platform: bundle.Platform{OS: "linux", Arch: "amd64"}, Digest: blob.Digest, Length: blob.Length,
			Chunks: []bundle.Chunk{blob}}},
		Command:  []string{"./kv"},
		Health:   bundle.Health{Notify: true, Interval: bundle.Duration(time.Second), HealthyDeadline: bundle.Duration(time.Minute)},
		Past:     bundle.Simulation{Kind: bundle.SimulateCompatible},
		Future:   bundle.Simulation{Kind: bundle.SimulateCompatible},
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1", FailureMax: 1},
	}}}
	data, err := bundle.MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	return m, data
}

// TestOrderBefore: a first order follows the newest order that was signed,
// also where that has not arrived at the peer.
func TestOrderBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trust")
	if err := trust.Init(dir, trust.InitOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	f, err := trust.OpenFolder(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	node := []schedule.Candidate{{ID: bundle.NodeID{1}, Class: "kv", Reachable: true}}
	var before *schedule.Order
	var digest bundle.Digest
	orders := map[bundle.Version][]byte{}
	for n := bundle.Version(1); n <= 2; n++ {
		m, data := plainManifest(t, n, digest)
		digest = bundle.Sum(data)
		if _, err := f.AddRelease(n, data); err != nil {
			t.Fatal(err)
		}
		if before, err = schedule.Instantiate(m, digest, before, node); err != nil {
			t.Fatal(err)
		}
		if orders[n], err = schedule.MarshalOrder(before); err != nil {
			t.Fatal(err)
		}
		if _, err := f.AddOrder(n, 1, orders[n]); err != nil {
			t.Fatal(err)
		}
	}
	late := control.Trust{Orders: map[bundle.Version][]byte{1: orders[1]}} // the order of release 2 is on its way
	for name, peer := range map[string]control.Trust{"at the peer": {Orders: orders}, "in the folder only": late} {
		if o, err := New(f).orderBefore(peer, 3); err != nil || o == nil || o.Release != 2 {
			t.Errorf("%s: %+v, %v, want the order of release 2", name, o, err)
		}
	}
	if o, err := New(f).orderBefore(late, 1); o != nil || err != nil {
		t.Errorf("before release 1: %+v, %v", o, err)
	}
	if err := os.Remove(filepath.Join(dir, "rollouts", "2.1.json")); err != nil { // another operator's
		t.Fatal(err)
	}
	if o, err := New(f).orderBefore(late, 3); err == nil || !strings.Contains(err.Error(), "release 2") {
		t.Errorf("the order of release 2 is nowhere: %+v, %v", o, err)
	}
	if o, err := New(f).orderBefore(control.Trust{Orders: orders}, 3); err != nil || o.Release != 2 {
		t.Errorf("the peer has the order of release 2: %+v, %v", o, err)
	}
}
