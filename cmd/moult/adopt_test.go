//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// TestAdoptedDies adopts software that cannot run: it is not taken for settled.
func TestAdoptedDies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	for name, one := range map[string]struct{ command, health, reason string }{
		"ends at once":       {`"/bin/sh", "-c", "exit 4",`, "restarting", "exit status 4"},
		"ends well":          {`"/bin/true",`, "restarting", "exit status 0"},
		"no such program":    {`"/no/such/program",`, "not ready", "/no/such/program does not exist"},
		"goes to background": {`"/bin/sh", "-c", "sleep 1000 & exit 0",`, "restarting", "exit status 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 1)
			a := c.Agents[0]
			old := filepath.Join(c.dir, "old-state")
			if err := os.Mkdir(old, 0o700); err != nil {
				t.Fatal(err)
			}
			c.adopt(a, old)
			config, err := os.ReadFile(a.ConfigPath())
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(string(config), strconv.Quote(c.software())+",", one.command, 1)
			if err := os.WriteFile(a.ConfigPath(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c.up(c.Agents)
			s := c.until(a, "its health", func(s control.Status) bool { return len(s.Nodes) == 1 && s.Nodes[0].Health == one.health })
			if n := s.Classes["kv"]; n.Settled != 0 || n.Unwell != 1 {
				t.Errorf("counts %+v", n)
			}
			if len(s.Alarms) != 1 || !strings.Contains(s.Alarms[0], one.reason) || !strings.Contains(s.Nodes[0].Reason, one.reason) {
				t.Errorf("alarms %q, reason %q; want %q", s.Alarms, s.Nodes[0].Reason, one.reason)
			}
			if _, out, _ := c.command(a, "why", a.Name); !strings.Contains(out, one.reason) {
				t.Errorf("why: %s", out)
			}
		})
	}
}
