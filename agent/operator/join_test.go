package operator

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
	"moult/testdata/kit/bundles"
)

// begunFolder is a trust folder with release 1, and the first order of that for two nodes.
func begunFolder(t *testing.T) (*trust.Folder, *schedule.Order, []bundle.NodeID) {
	t.Helper()
	f := bundles.Folder(t, filepath.Join(kit.MemDir(t), "trust"), time.Now())
	m, data := bundles.Manifest(t, 1, bundle.Digest{}, "kv")
	if _, err := f.AddRelease(1, data); err != nil {
		t.Fatal(err)
	}
	ids := []bundle.NodeID{{1}, {2}}
	first, err := schedule.Instantiate(m, bundle.Sum(data), nil, []schedule.Candidate{{ID: ids[0], Class: "kv", Reachable: true}, {ID: ids[1], Class: "kv", Reachable: true}})
	if err != nil {
		t.Fatal(err)
	}
	return f, first, ids
}

// encoded is an order as it is signed.
func encoded(t *testing.T) func(*schedule.Order, error) []byte {
	return func(o *schedule.Order, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		data, err := schedule.MarshalOrder(o)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
}

// signAll signs orders of release 1, from serial 1 on.
func signAll(t *testing.T, f *trust.Folder, orders ...[]byte) {
	t.Helper()
	for i, data := range orders {
		if _, err := f.AddOrder(1, uint64(i+1), data); err != nil {
			t.Fatal(err)
		}
	}
}

// TestContradictingOrders: two operators change one order at once. Whoever has one half in a
// folder and meets an agent with the other is told; pause joins them, and nothing else does;
// and it is resumed when every node has said that it is up and has it.
func TestContradictingOrders(t *testing.T) {
	f, first, ids := begunFolder(t)
	theirs := encoded(t)(first.Retry("kv", ids[0]))
	own, err := first.Retry("kv", ids[1])
	begun, ours, ours2 := encoded(t)(first, nil), encoded(t)(own, err), encoded(t)(own.Pause())
	signAll(t, f, begun, ours, ours2)
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
	digest := bundle.Sum(encoded(t)(joined, nil))
	status := control.Status{Nodes: []control.NodeStatus{
		{ID: ids[0], Name: "n1", Phase: "waiting", Metadata: 9, Joined: digest, Reads: 2}, {ID: ids[1], Name: "n2", Phase: "starting", Metadata: 9, Reads: 1},
	}}
	if err := mayResume(joined, digest, 9, status, ids[0]); err == nil || !strings.Contains(err.Error(), "n2") || strings.Contains(err.Error(), "n1") {
		t.Errorf("while a node is down: %v", err)
	}
	status.Nodes[1].Phase, status.Nodes[0].Joined = "held", bundle.Digest{}
	if err := mayResume(joined, digest, 9, status, ids[0]); err == nil || !strings.Contains(err.Error(), "n1") {
		t.Errorf("while a node has not said that it has it: %v", err)
	}
	status.Nodes[0].Joined = digest
	if err := mayResume(joined, digest, 9, status, ids[0]); err != nil {
		t.Error(err)
	}
	// An agent of an older moult knows nothing of the field by which they say it.
	for i := range status.Nodes {
		status.Nodes[i].Joined, status.Nodes[i].Reads = bundle.Digest{}, 2-i
	}
	err = mayResume(joined, digest, 9, status, ids[1])
	if e, ok := errors.AsType[*control.Error](err); !ok || !strings.Contains(e.Message, "this agent is of an older moult") || !strings.Contains(e.Hint, "ask an agent of this moult") || strings.Contains(e.Hint, "skip") {
		t.Errorf("an older agent is asked: %v", err)
	}
	if err := mayResume(joined, digest, 9, status, ids[0]); err == nil || !strings.Contains(err.Error(), "n1") {
		t.Errorf("an agent of this moult is asked: %v", err)
	}
}
