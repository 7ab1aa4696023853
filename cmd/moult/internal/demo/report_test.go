package demo

import (
	"testing"

	"moult/agent/control"
	"moult/store/bundle"
)

// A node that has just settled counts, as it does for the release to be complete.
func TestDemoReportCounts(t *testing.T) {
	s := control.Status{
		Release: control.ReleaseStatus{Version: 2, State: control.StateComplete},
		Nodes:   []control.NodeStatus{{Class: "kv", Version: 2, Phase: "current"}, {Class: "kv", Version: 2, Phase: "settled"}},
		Classes: map[bundle.Class]control.ClassStatus{"kv": {Total: 2, Settled: 2, Budget: 1}},
	}
	if r := newReport(2, 1, s); r.Settled != 2 || r.Budget != 1 {
		t.Errorf("%+v", r)
	}
}
