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
	"moult/testdata/kit"
	"moult/testdata/kit/bundles"
)

// TestOrderBefore: a first order follows the newest order that was signed,
// also where that has not arrived at the peer.
func TestOrderBefore(t *testing.T) {
	dir := filepath.Join(kit.MemDir(t), "trust")
	f := bundles.Folder(t, dir, time.Now())
	node := []schedule.Candidate{{ID: bundle.NodeID{1}, Class: "kv", Reachable: true}}
	var before *schedule.Order
	var digest bundle.Digest
	orders := map[bundle.Version][]byte{}
	for n := bundle.Version(1); n <= 2; n++ {
		m, data := bundles.Manifest(t, n, digest, "kv")
		digest = bundle.Sum(data)
		if _, err := f.AddRelease(n, data); err != nil {
			t.Fatal(err)
		}
		var err error
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
