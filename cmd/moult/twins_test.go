//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
)

// cloned makes the machine of an agent, which has ended, a second time, at the addresses of
// another agent of the cluster that was never started.
func (c *testCluster) cloned(a, to *cluster.Agent) {
	c.t.Helper()
	config := c.config(to)
	err := os.RemoveAll(to.Data)
	if err == nil {
		err = os.CopyFS(to.Data, os.DirFS(a.Data))
	}
	for _, file := range []string{"process.json", "agent.log"} { // that process is not on this machine
		if err == nil {
			err = os.Remove(filepath.Join(to.Data, file))
		}
	}
	text := strings.Replace(config, `name  = "`+to.Name+`"`, `name  = "`+a.Name+`"`, 1)
	if err == nil {
		err = to.Configure(text)
	}
	if err != nil || text == config {
		c.t.Fatalf("clone %s: %v", a.Name, err)
	}
}

// says waits until an agent has an alarm with these words.
func (c *testCluster) says(a *cluster.Agent, words string) control.Status {
	c.t.Helper()
	return c.until(a, "to say: "+words, func(s control.Status) bool {
		return slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.Contains(text, words) })
	})
}

// here says that an agent's data folder is the node.
func (c *testCluster) here(a *cluster.Agent) {
	c.t.Helper()
	if err := a.End(); err != nil {
		c.t.Fatal(err)
	}
	c.must("restore", "--here", "--data", a.Data)
	c.up([]*cluster.Agent{a})
}

const otherKey = "has this node's key, too"

// anew gives an agent an empty data folder, with a configuration.
func (c *testCluster) anew(a *cluster.Agent, config string) {
	c.t.Helper()
	if err := errors.Join(os.RemoveAll(a.Data), a.Configure(config)); err != nil {
		c.t.Fatal(err)
	}
	c.up([]*cluster.Agent{a})
}

// cut ends an agent and its node, as a power cut does.
func (c *testCluster) cut(a *cluster.Agent) {
	c.t.Helper()
	pid := c.pid(a) // never 0, which would be this process's group
	c.kill(a)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) config(a *cluster.Agent) string {
	c.t.Helper()
	text, err := os.ReadFile(a.ConfigPath())
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// budgetHeld checks that nodes went down so many times, or more, and one at a time.
func (c *testCluster) budgetHeld(downs int) {
	c.t.Helper()
	var all []cluster.Down
	for _, a := range c.Agents[:4] {
		downs, err := a.Downs()
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, downs...)
	}
	if most := cluster.MostAtOnce(all); most != 1 || len(all) < downs {
		c.t.Errorf("%d nodes were down at once, in %d times; want one, in %d at least", most, len(all), downs)
	}
}

// TestTwins: two machines are cloned from one disk image; a node takes another's name; one moves to
// another address; one is installed anew. While rollouts are under way, one node is down at a time.
func TestTwins(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 5)
	c.up(c.Agents[:3])
	c.formed(3)
	first, second, third, other, spare := c.Agents[0], c.Agents[1], c.Agents[2], c.Agents[3], c.Agents[4]
	c.next(first, 1)
	c.complete(first, 1, 3)

	// A clone: both say so, and neither goes down, whatever else happens.
	config := c.config(other)
	if err := third.End(); err != nil {
		t.Fatal(err)
	}
	c.cloned(third, other)
	c.up(c.Agents[2:4])
	c.says(third, otherKey)
	c.says(other, otherKey)
	c.says(first, "in use by node \"n3\"")
	c.next(first, 2)
	for _, a := range []*cluster.Agent{third, other} {
		c.kill(a)
		c.up([]*cluster.Agent{a})
		c.says(a, otherKey) // it has not forgotten
	}
	c.until(first, "the others to wait for n3, or to have gone before it", func(s control.Status) bool {
		return cluster.Settled(s, 2) == 2 || cluster.Settled(s, 2) < 2 && strings.Contains(s.Release.Reason+node(s, "n1").Reason+node(s, "n2").Reason, "n3")
	})
	c.cut(other)
	c.here(third)
	c.complete(first, 2, 3)
	c.budgetHeld(3)

	// A name that is another node's.
	c.anew(other, strings.Replace(config, "\"n4\"", "\"n1\"", 1))
	c.says(second, "node name \"n1\" is in use by node")
	c.says(other, "node name \"n1\" is in use by node")
	c.kill(other)
	c.anew(other, config)
	c.until(first, "n4", func(s control.Status) bool { return node(s, "n4").Reachable && node(s, "n4").Version == 2 })
	c.member(first, "add", "n4")

	// Another address, in a rollout.
	if err := second.End(); err != nil {
		t.Fatal(err)
	}
	c.next(first, 3)
	if err := second.Configure(strings.Replace(c.config(second), second.Ring(), spare.Ring(), 1)); err != nil {
		t.Fatal(err)
	}
	c.up([]*cluster.Agent{second})
	s := c.complete(first, 3, 4)
	if n := node(s, "n2"); n.Address != spare.Ring() || !n.Reachable {
		t.Errorf("n2 is at %s, and was moved to %s", n.Address, spare.Ring())
	}
	if s := c.until(second, "to see all", func(s control.Status) bool { return cluster.Reachable(s) == 4 }); len(s.Alarms) > 0 {
		t.Errorf("n2 says %q", s.Alarms)
	}
	c.budgetHeld(7)

	// Installed anew, in a rollout: the new node has the name, and not the old one's place.
	c.cut(other)
	c.next(first, 4)
	c.anew(other, config)
	old := node(s, "n4").ID
	c.until(first, "another n4", func(s control.Status) bool {
		return slices.ContainsFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Name == "n4" && n.ID != old && n.Reachable })
	})
	c.wayOut(first, old.String(), "moult skip --release 4 "+old.Short())
	c.complete(first, 4, 3)
	c.wayOut(first, old.String(), "moult forget "+old.Short())
	c.until(first, "one n4", func(s control.Status) bool { return node(s, "n4").ID != old })
	c.wayOut(first, "n4", "moult member add n4")
	s = c.until(first, "the new n4 to count", func(s control.Status) bool { return standing(s, "n4") == "" && node(s, "n4").Version >= 3 })
	if node(s, "n4").Version == 3 { // it had come before release 4
		c.wayOut(first, "n4", "moult retry")
	}
	s = c.complete(first, 4, 4)
	if n := node(s, "n4"); n.Version != 4 || n.ID == old {
		t.Errorf("the new n4: %+v", n)
	}
	c.budgetHeld(9) // n4 has begun a new log since
}
