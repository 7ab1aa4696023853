package operator

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/testdata/kit/bundles"
)

// TestContradictingOrders: two operators change one order at once. Whoever has one half in a
// folder and meets an agent with the other is told; pause joins them, and nothing else does;
// and it is resumed when every node has said that it is up and has it.
func TestContradictingOrders(t *testing.T) {
	f := bundles.Folder(t, filepath.Join(t.TempDir(), "trust"), time.Now())
	m, data := bundles.Manifest(t, 1, bundle.Digest{}, "kv")
	if _, err := f.AddRelease(1, data); err != nil {
		t.Fatal(err)
	}
	ids := []bundle.NodeID{{1}, {2}}
	first, err := schedule.Instantiate(m, bundle.Sum(data), nil, []schedule.Candidate{{ID: ids[0], Class: "kv", Reachable: true}, {ID: ids[1], Class: "kv", Reachable: true}})
	if err != nil {
		t.Fatal(err)
	}
	change := func(o *schedule.Order, f func(*schedule.Order) (*schedule.Order, error)) (*schedule.Order, []byte) {
		t.Helper()
		next, err := f(o)
		if err != nil {
			t.Fatal(err)
		}
		data, err := schedule.MarshalOrder(next)
		if err != nil {
			t.Fatal(err)
		}
		return next, data
	}
	retry := func(id bundle.NodeID) func(*schedule.Order) (*schedule.Order, error) {
		return func(o *schedule.Order) (*schedule.Order, error) { return o.Retry("kv", id) }
	}
	_, theirs := change(first, retry(ids[0]))
	own, ours := change(first, retry(ids[1]))
	_, ours2 := change(own, (*schedule.Order).Pause)
	begun, err := schedule.MarshalOrder(first)
	if err != nil {
		t.Fatal(err)
	}
	for serial, data := range [][]byte{begun, ours, ours2} {
		if _, err := f.AddOrder(1, uint64(serial+1), data); err != nil {
			t.Fatal(err)
		}
	}
	o, peer := New(f), control.Trust{Orders: map[bundle.Version][]byte{1: theirs}}
	if _, err := o.changing(peer, 1, Change{Name: "skip"}); err == nil || !strings.Contains(err.Error(), "contradict each other") {
		t.Errorf("skip: %v", err)
	}
	joined, err := o.changing(peer, 1, Change{Name: "pause", Joins: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, half := range map[string][]byte{"theirs": theirs, "ours": ours2, "ours before": ours} {
		if !joined.Joins(bundle.Sum(half)) {
			t.Errorf("it does not take the place of %s", name)
		}
	}
	if joined.Joins(bundle.Sum(begun)) || joined.Serial != 4 || joined.State != schedule.StatePaused || o.signed(joined) {
		t.Errorf("joined: %+v", joined)
	}
	for _, plain := range [][]byte{begun, ours, ours2} { // these follow each other
		if got, err := o.changing(control.Trust{Orders: map[bundle.Version][]byte{1: plain}}, 1, Change{Name: "skip"}); err != nil || got.Serial != 3 {
			t.Errorf("without a contradiction: %+v, %v", got, err)
		}
	}
	status := control.Status{Nodes: []control.NodeStatus{
		{ID: ids[0], Name: "n1", Phase: "waiting", Metadata: 9}, {ID: ids[1], Name: "n2", Phase: "starting", Metadata: 9},
	}}
	if err := mayResume(joined, 9, status); err == nil || !strings.Contains(err.Error(), "n2") || strings.Contains(err.Error(), "n1") {
		t.Errorf("while a node is down: %v", err)
	}
	status.Nodes[1].Phase, status.Nodes[0].Metadata = "held", 8
	if err := mayResume(joined, 9, status); err == nil || !strings.Contains(err.Error(), "n1") {
		t.Errorf("while a node has not said that it has it: %v", err)
	}
	status.Nodes[0].Metadata = 9
	if err := mayResume(joined, 9, status); err != nil {
		t.Error(err)
	}
}
