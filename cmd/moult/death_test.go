package main

import (
	"testing"

	"moult/agent/control"
)

// TestAgentDiesUnderLoad ends the agent of a node as a crash would, while clients
// call the node: where their calls go past the agent none fails, and the next agent
// takes the same process over, and upgrades it.
func TestAgentDiesUnderLoad(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	for _, k := range []kind{{"steer", "connect"}, {"inherit", "connect"}} {
		t.Run(k.attach, func(t *testing.T) {
			t.Parallel()
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			c := newCluster(t, 2)
			c.use(k, "")
			c.up(c.agents)
			c.formed(2)
			c.releaseAt(c.agents[0], 1, spec{})
			c.settledAt(c.agents[0], 1, 2)
			c.inUse(k)
			c.fill(c.agents[1])
			pids := map[string]int{}
			for _, a := range c.agents {
				pids[a.name] = c.nodePID(a)
			}

			l := c.loads()
			defer l.stop()
			l.versioned(1)
			if k.attach == "steer" { // under inherit the public address is relayed
				l.begin("clients of the public addresses", "public", 1, func(a *demoAgent) string { return a.addr(portPublic) })
			}
			l.flow(50)
			victim := c.agents[1]
			for range 2 {
				c.kill(victim)
				l.flow(100) // with no agent there
				c.up([]*demoAgent{victim})
				c.until(victim, "the node again", func(s control.Status) bool { return len(s.Nodes) == 2 })
				if pid := c.nodePID(victim); pid != pids[victim.name] {
					t.Errorf("after its agent's death the node is process %d, was %d", pid, pids[victim.name])
				}
				l.flow(50)
			}
			l.end(nil)

			c.releaseAt(c.agents[0], 2, spec{})
			c.settledAt(c.agents[0], 2, 2)
			c.check(victim, 2)
		})
	}
}

// nodePID waits until a node is known to run, and returns its process ID.
func (c *testCluster) nodePID(a *demoAgent) (pid int) {
	c.t.Helper()
	c.until(a, "the node's process", func(control.Status) bool {
		info, err := a.api.Info(c.t.Context())
		pid = info.NodePID
		return err == nil && pid != 0
	})
	return pid
}
