package agent

import (
	"os"
	"path/filepath"
	"testing"

	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// The floor file is lost together with the journal's end: the slot that callers have
// written to is neither made anew nor left for an older one.
func TestFloorLostWithJournalsEnd(t *testing.T) {
	cfg := benchConfig(t)
	b := newBench(t, cfg, 0)
	s := upgrade.State{Step: 4, Phase: upgrade.Transforming, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}}
	if err := b.Save(node.Save{State: &s}, home.Beside{}); err != nil {
		t.Fatal(err)
	}
	for _, v := range []bundle.Version{1, 2} { // what was written after that: 2 was admitted
		if err := b.Slots.Create(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Slots.Switch(2); err != nil {
		t.Fatal(err)
	}
	written := filepath.Join(b.Slots.Path(2), "acknowledged")
	if err := os.WriteFile(written, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.close()
	if err := os.Remove(filepath.Join(cfg.Data, "floor.json")); err != nil {
		t.Fatal(err)
	}
	again := newBench(t, cfg, 0)
	again.do(func() {
		if again.saved.Running != 2 || again.saved.Phase.Down() || again.alarmed("version 2 is live") != 1 || again.alarmed("the floor file is missing") != 1 {
			t.Errorf("goes on from %+v, alarms %q", again.saved, again.node.Alarms())
		}
	})
	if _, err := os.Stat(written); err != nil {
		t.Error(err)
	}
}
