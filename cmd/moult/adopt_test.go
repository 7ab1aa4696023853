package main

import (
	"os"
	"path/filepath"
	"testing"

	"moult/agent/control"
)

// TestAdopted has software that ran before moult start under it, on its state,
// live through a restart of the agent, and be upgraded like any other.
func TestAdopted(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	c := newCluster(t, 1)
	a := c.Agents[0]
	old := filepath.Join(c.dir, "old-state")
	if err := os.Mkdir(old, 0o700); err != nil {
		t.Fatal(err)
	}
	c.adopt(a, old)
	c.up(c.Agents)
	serves := func(s control.Status) bool { return len(s.Nodes) == 1 && s.Nodes[0].Version == 1 }
	c.until(a, "the adopted node", serves)
	c.fill(a)
	before, err := a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.kill(a)
	c.up(c.Agents)
	c.until(a, "the adopted node again", serves)
	c.check(a, 1)
	after, err := a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.NodePID == 0 || after.NodePID != before.NodePID {
		t.Errorf("the node is process %d after the restart of its agent, was %d", after.NodePID, before.NodePID)
	}
	c.releaseAt(a, 1, spec{})
	c.releaseAt(a, 2, spec{})
	c.settledAt(a, 2, 1)
	c.check(a, 1)
	c.check(a, 2)
}
