//go:build unix

package main

import (
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
)

// TestAgentDiesUnderLoad ends the agent of a node as a crash would, while clients
// call the node: where their calls go past the agent none fails, and the next agent
// takes the same process over, and upgrades it.
func TestAgentDiesUnderLoad(t *testing.T) {
	inMixed(t)
	eachDirect(t, []kind{{"steer", "connect"}, {"inherit", "connect"}}, func(t *testing.T, k kind) {
		c := newCluster(t, 2)
		c.use(k, "")
		c.up(c.Agents)
		c.formed(2)
		c.releaseAt(c.Agents[0], 1, spec{})
		c.settledAt(c.Agents[0], 1, 2)
		c.inUse(k)
		c.fill(c.Agents[1])
		pids := map[string]int{}
		for _, a := range c.Agents {
			pids[a.Name] = c.nodePID(a)
		}

		l := c.loads()
		defer l.stop()
		l.versioned(1)
		if k.attach == "steer" { // under inherit the public address is relayed
			l.begin("clients of the public addresses", "public", 1, func(a *cluster.Agent) string { return a.Public() })
		}
		l.flow(50)
		victim := c.Agents[1]
		for range 2 {
			c.kill(victim)
			l.flow(100) // with no agent there
			c.up([]*cluster.Agent{victim})
			c.until(victim, "the node again", func(s control.Status) bool { return len(s.Nodes) == 2 })
			if pid := c.nodePID(victim); pid != pids[victim.Name] {
				t.Errorf("after its agent's death the node is process %d, was %d", pid, pids[victim.Name])
			}
			l.flow(50)
		}
		l.end(nil)

		c.releaseAt(c.Agents[0], 2, spec{})
		c.settledAt(c.Agents[0], 2, 2)
		c.check(victim, 2)
	})
}

// nodePID waits until a node is known to run, and returns its process ID.
func (c *testCluster) nodePID(a *cluster.Agent) (pid int) {
	c.t.Helper()
	c.until(a, "the node's process", func(control.Status) bool {
		info, err := a.API.Info(c.t.Context())
		pid = info.NodePID
		return err == nil && pid != 0
	})
	return pid
}
