package home

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"moult/agent/config"
	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// newHome is a data folder with a clock that a test moves, and what opens it again.
func newHome(t *testing.T, now *time.Time) func() *Home {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, "trust")
	if err := trust.Init(folder, trust.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Name, cfg.Class, cfg.Data, cfg.Root = "n1", "kv", filepath.Join(dir, "data"), filepath.Join(folder, "root.json")
	if err := os.Mkdir(cfg.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	var last io.Closer
	return func() *Home {
		if last != nil {
			if err := last.Close(); err != nil {
				t.Fatal(err)
			}
		}
		h, err := Open(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		h.now, last = func() time.Time { return *now }, h
		return h
	}
}

func lines(p control.History) (all []string) {
	for _, x := range p.Phases {
		all = append(all, fmt.Sprintf("%s %d.%d to %d in %v%s", x.Phase, x.Version, x.Running, x.Release, time.Duration(x.Took), x.Reason))
	}
	return all
}

// What the node went through is told with how long each phase took, also by the next agent;
// entries of an agent that knew no time say none.
func TestHistory(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	open := newHome(t, &now)
	h := open()
	save := func(s upgrade.State) {
		t.Helper()
		if err := h.Save(node.Save{State: &s}, Beside{}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	old := upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}
	data, err := old.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Store.Append(journalUpgrade, data); err != nil {
		t.Fatal(err)
	}
	attempt := upgrade.State{Step: 1, Phase: upgrade.Fetching, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}}
	save(attempt)
	attempt.Phase, attempt.Step = upgrade.Transforming, 2
	save(attempt)
	attempt.Done = 1
	save(attempt)
	h = open()
	save(upgrade.State{Step: 3, Phase: upgrade.Held, Version: 1, Running: 1, Served: true, EndedRelease: 2, EndedCount: 1, Reason: ": exit status 1"})
	want := []string{
		"current 1.1 to 0 in 0s", "fetching 1.1 to 2 in 1s", "transforming 1.1 to 2 in 2s", "held 1.1 to 2 in 0s: exit status 1",
	}
	past, err := h.History()
	if err != nil || past.Older || past.ID != h.ID || !slices.Equal(lines(past), want) {
		t.Errorf("%q, %v, want %q", lines(past), err, want)
	}
	if at := past.Phases; !at[0].At.IsZero() || !at[1].At.Equal(time.Unix(1e9, 0)) {
		t.Errorf("from %v, %v", at[0].At, at[1].At)
	}
}

// However much there is in the journal, the newest are told, and that there is more.
func TestHistoryBounded(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	h := newHome(t, &now)()
	const most = 10
	for i := range 2*most + 5 {
		s := upgrade.State{Phase: upgrade.Current, Version: bundle.Version(i + 1), Running: bundle.Version(i + 1), Served: true}
		if err := h.Store.Update(func(tx *store.Tx) error { return h.putState(tx, &s, nil) }); err != nil {
			t.Fatal(err)
		}
	}
	past, err := h.history(most)
	if n := len(past.Phases); err != nil || n != most || !past.Older || past.Phases[n-1].Version != 2*most+5 {
		t.Errorf("%d phases, older %v, %v", n, past.Older, err)
	}
}

// How long a release has been as it must be to be finalized is kept, and tells no history, however
// often it begins anew; nor does whom the node answers.
func TestObservedIsNoHistory(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	open := newHome(t, &now)
	h := open()
	s := upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true}
	if err := h.Save(node.Save{State: &s}, Beside{}); err != nil {
		t.Fatal(err)
	}
	o := schedule.Observed{Release: 2, Serial: 2, Seen: now}
	for range 3 {
		o.For += bundle.Duration(time.Minute)
		if err := h.Save(node.Save{Observed: &o, Answering: &node.Answering{}}, Beside{}); err != nil {
			t.Fatal(err)
		}
	}
	h = open()
	m, err := h.Recall(0)
	if err != nil || m.Observed != o {
		t.Errorf("%+v, %v", m.Observed, err)
	}
	if past, err := h.history(10); err != nil || len(past.Phases) != 1 {
		t.Errorf("%d phases, %v", len(past.Phases), err)
	}
}

// What was signed is told with who signed it and when it was verified, also where it came with
// nothing else; an order that came later than the metadata says what it says once it is here.
// What the software wrote last stands with the phase that its failure led to.
func TestHistorySigned(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	open := newHome(t, &now)
	h := open()
	order, err := h.Depot.PutBlob([]byte(`{"release":2,"serial":3,"state":"running"}`))
	if err != nil {
		t.Fatal(err)
	}
	state := upgrade.State{Step: 1, Phase: upgrade.Held, Version: 1, Running: 1, Served: true, EndedRelease: 2, EndedCount: 1, Reason: "it ended"}
	for _, b := range []struct {
		save node.Save
		with Beside
	}{
		{node.Save{Metadata: bundle.Digest{1}}, Beside{InForce: order.Digest, Signed: []control.HistorySigned{
			{Kind: control.SignedRelease, Release: 2, Digest: bundle.Digest{2}, Role: control.RolePublisher, Keys: []string{"aa"}},
			{Kind: control.SignedOrder, Release: 2, Digest: order.Digest, Role: control.RoleOperator, Keys: []string{"bb"}},
		}}},
		{node.Save{Metadata: bundle.Digest{3}}, Beside{InForce: order.Digest}}, // a new timestamp
		{node.Save{State: &state}, Beside{Log: []string{"panic: no"}}},
	} {
		if err := h.Save(b.save, b.with); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	past, err := open().History()
	if err != nil {
		t.Fatal(err)
	}
	if len(past.Signed) != 2 || past.Signed[0].Keys[0] != "aa" || !past.Signed[1].At.Equal(time.Unix(1e9, 0)) ||
		past.Signed[1].Role != control.RoleOperator || past.Signed[1].Says != "running, turn 0, serial 3" {
		t.Errorf("signed: %+v", past.Signed)
	}
	if len(past.Phases) != 1 || !slices.Equal(past.Phases[0].Log, []string{"panic: no"}) {
		t.Errorf("phases: %+v", past.Phases)
	}
}

// Of another node the newest phases that were seen are kept, each once, also by the next
// agent; of one that is forgotten nothing is.
func TestSeen(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	open := newHome(t, &now)
	h := open()
	id := bundle.NodeID{7}
	see := func(i int) Sighting {
		return SightingOf(view.Record{Node: id, Seq: uint64(i), Name: "n7", Class: "kv", Version: bundle.Version(i), Running: bundle.Version(i), Target: bundle.Version(i), Phase: view.Current, Since: now.Add(time.Duration(i) * time.Minute)})
	}
	for i := 1; i <= maxSeen+5; i++ {
		if err := h.AddSightings([]Sighting{see(i - 1), see(i), see(i)}); err != nil {
			t.Fatal(err)
		}
	}
	h = open()
	if err := h.AddSightings([]Sighting{see(3), see(maxSeen + 5)}); err != nil { // an old record, and one that is known
		t.Fatal(err)
	}
	past, err := h.Seen(id)
	if n := len(past.Phases); err != nil || n != maxSeen || !past.Older || !past.Seen || past.Node != "n7" ||
		past.Phases[n-1].Version != maxSeen+5 || past.Phases[n-2].Took != bundle.Duration(time.Minute) || past.Phases[n-1].Took != 0 || past.Phases[0].Version != 6 {
		t.Errorf("%d phases, %v, %+v", n, err, past.History)
	}
	// A clock that was ahead once, and a document of an agent that kept no numbers.
	ahead := see(maxSeen + 6)
	ahead.Phase.At = now.AddDate(50, 0, 0)
	if err := h.AddSightings([]Sighting{ahead}); err != nil {
		t.Fatal(err)
	}
	past, err = h.Seen(id)
	if err != nil {
		t.Fatal(err)
	}
	old, err := json.Marshal(past.History)
	if err != nil || bytes.Contains(old, []byte(`"number"`)) {
		t.Fatalf("%s, %v", old, err)
	}
	for _, doc := range [][]byte{nil, old} {
		if doc != nil {
			if err := h.Store.Put(bucketSeen, id.String(), doc); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.AddSightings([]Sighting{see(maxSeen + 7)}); err != nil {
			t.Fatal(err)
		}
		past, err := h.Seen(id)
		if n := len(past.Phases); err != nil || n != maxSeen || past.Phases[n-1].Version != maxSeen+7 || past.Phases[n-2].Took != 0 || !past.Phases[n-2].At.Equal(ahead.Phase.At) {
			t.Errorf("after a clock that was ahead: %d phases, %v, %+v", n, err, past.History)
		}
	}
	if past.See(Sighting{Node: id}) {
		t.Error("no record has told of a phase")
	}
	if err := h.Remember([]Known{{Node: id}}); err != nil {
		t.Fatal(err)
	}
	if past, err := h.Seen(id); err != nil || len(past.Phases) != 0 {
		t.Errorf("of a forgotten node: %+v, %v", past.Phases, err)
	}
}
