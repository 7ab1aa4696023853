package operator

import (
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/store/bundle"
)

// Agents are replaced only where the operator says so, and what says nothing is refused.
func TestCheckAgents(t *testing.T) {
	classes := map[bundle.Class]bundle.ClassUpgrade{"kv": {}}
	for _, tc := range []struct {
		m      bundle.Manifest
		agents bool
		want   string
	}{
		{bundle.Manifest{Version: 2, Classes: classes}, false, ""},
		{bundle.Manifest{Version: 2, Classes: classes}, true, "release 2 brings no agent"},
		{bundle.Manifest{Version: 2, Classes: classes, Agent: &bundle.AgentUpgrade{}}, false, ""},
		{bundle.Manifest{Version: 2, Classes: classes, Agent: &bundle.AgentUpgrade{}}, true, ""},
		{bundle.Manifest{Version: 2, Agent: &bundle.AgentUpgrade{}}, true, ""},
		{bundle.Manifest{Version: 2, Agent: &bundle.AgentUpgrade{}}, false, "without --agents it would do nothing"},
	} {
		if err := checkAgents(&tc.m, tc.agents); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

// A node whose agent was put back tries that again, and goes down again only where it is held.
func TestRetryAgent(t *testing.T) {
	id := bundle.NodeID(bundle.Sum([]byte("n1")))
	m := &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{}, Agent: &bundle.AgentUpgrade{MaxUnavailable: "1", HealthyDeadline: bundle.MinAgentDeadline}}
	o, err := schedule.Instantiate(m, bundle.Sum([]byte("2")), nil, []schedule.Candidate{{ID: id, Class: "kv", Version: 1, Reachable: true}})
	if err != nil {
		t.Fatal(err)
	}
	o, err = Agents(m).Apply(o)
	if err != nil || o.Serial != 2 || o.AgentAttempts(id) != 1 {
		t.Fatal(o, err)
	}
	if _, err := Agents(m).Apply(o); err == nil {
		t.Error("said twice")
	}
	for _, tc := range []struct {
		failed        bundle.Version
		phase         string
		agent, itself int
	}{{0, "held", 1, 2}, {2, "current", 2, 1}, {2, "held", 2, 2}, {1, "current", 1, 2}} {
		n := control.NodeStatus{ID: id, Class: "kv", Phase: tc.phase}
		n.Agent.Failed = tc.failed
		c, err := ForNode("retry", n, "n1")
		if err != nil {
			t.Fatal(err)
		}
		next, err := c.Apply(o)
		if err != nil || next.AgentAttempts(id) != tc.agent || next.Attempts("kv", id) != tc.itself || next.Serial != o.Serial+1 {
			t.Errorf("%+v: %+v, %v", tc, next, err)
		}
	}
}

// Nodes whose platform has no agent are named beforehand.
func TestWithoutAgent(t *testing.T) {
	m := &bundle.Manifest{Version: 2, Agent: &bundle.AgentUpgrade{Artifacts: []bundle.AgentArtifact{{Artifact: bundle.Artifact{Platform: bundle.Platform{OS: "linux", Arch: "amd64"}}}}}}
	status := control.Status{Nodes: []control.NodeStatus{
		{Name: "n1", Platform: bundle.Platform{OS: "linux", Arch: "amd64"}}, {Name: "n2", Platform: bundle.Platform{OS: "linux", Arch: "arm64"}},
		{Name: "n3", Platform: bundle.Platform{OS: "linux", Arch: "arm64"}, Standing: "left"}, {Name: "n4"},
	}}
	if texts := Doubts(m, status); len(texts) != 1 || !strings.Contains(texts[0], "not for the platforms of n2 (linux/arm64), which keep theirs") {
		t.Errorf("%q", texts)
	}
	m.Agent = nil
	if texts := Doubts(m, status); len(texts) != 0 {
		t.Errorf("%q", texts)
	}
}
