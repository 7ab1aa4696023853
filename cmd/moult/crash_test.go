//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store"
	"moult/testdata/kit"
	"moult/transforms"
)

// Failpoints of an upgrade that succeeds, and of one that fails and rolls
// back: see docs/operations.md.
var (
	goodPoints = []string{
		"fetching.saved", "fetching.done", "waiting.saved", "draining.saved", "draining.done",
		"transforming.saved", "transforming.done", "starting.saved", "starting.done",
		"probing.saved", "probing.done", "settled.saved", "settled.done", "current.saved",
	}
	badPoints = []string{"rolling-back.saved", "rolling-back.done", "held.saved"}
)

// points are those to be tried: all, or the few that stand for them.
func points(all []string, few ...string) []string {
	if *everyPoint {
		return all
	}
	return few
}

// TestCrash kills the agent at failpoints, twice in a row, and has the next agent
// finish what it began.
func TestCrash(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	for _, point := range points(goodPoints, "transforming.done") {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			testCrash(t, point, spec{}, func(c *testCluster, a *cluster.Agent) {
				c.settledAt(a, 2, 1)
				c.check(a, 1)
				c.check(a, 2)
			})
		})
	}
	for _, point := range points(badPoints, "rolling-back.saved") {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			testCrash(t, point, spec{health: `"/no-such-path"`}, func(c *testCluster, a *cluster.Agent) {
				c.until(a, "the node to be held", func(s control.Status) bool {
					return len(s.Nodes) == 1 && s.Nodes[0].Phase == "held" && s.Nodes[0].Version == 1
				})
				c.check(a, 1)
			})
		})
	}
}

func testCrash(t *testing.T, point string, release spec, good func(*testCluster, *cluster.Agent)) {
	c := newCluster(t, 1)
	a := c.Agents[0]
	c.up(c.Agents)
	c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	c.releaseAt(a, 1, spec{})
	c.settledAt(a, 1, 1)
	c.fill(a)
	before := c.digest(a, 1)

	path := c.build(2, release)
	c.kill(a)
	for attempt := range 2 {
		c.up(c.Agents, "MOULT_FAILPOINT="+point)
		if attempt == 0 {
			c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
			if err := c.inject(a, path); err != nil && !c.dies(a) {
				t.Fatal(err)
			}
		}
		if !c.dies(a) && attempt == 0 {
			t.Fatalf("the agent did not reach %s", point)
		}
		c.whole(a, before)
	}
	if a.Alive() == nil {
		c.kill(a) // the second time the point was behind it
	}
	c.up(c.Agents)
	good(c, a)
	s, err := a.API.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Alarms) > 0 {
		t.Errorf("alarms after recovery: %q", s.Alarms)
	}
	if after := c.digest(a, 1); after != before {
		t.Errorf("the old slot has changed")
	}
	c.chainIntact(a)
}

// dies waits until the agent has ended, or has got past the failpoint: what it says
// of its last phase it says after the last point.
func (c *testCluster) dies(a *cluster.Agent) bool {
	ctx, cancel := context.WithTimeout(c.t.Context(), kit.Patience)
	defer cancel()
	_, err := a.Await(ctx, "its end", func(s control.Status) bool {
		return len(s.Nodes) == 1 && (s.Nodes[0].Phase == "held" || s.Nodes[0].Phase == "current" && s.Nodes[0].Version == 2)
	})
	return err != nil && a.Alive() != nil
}

// whole checks that every slot is a complete one, and that the old one is as
// it was.
func (c *testCluster) whole(a *cluster.Agent, before [32]byte) {
	c.t.Helper()
	if got := c.digest(a, 1); got != before {
		c.t.Errorf("the old slot has changed")
	}
	slots, err := transforms.OpenSlots(filepath.Join(a.Data, "state"))
	if err != nil {
		c.t.Fatal(err)
	}
	v, ok, err := slots.Current()
	if err != nil || !ok || (v != 1 && v != 2) {
		c.t.Errorf("current slot: %d, %t, %v", v, ok, err)
	}
	if !slots.Exists(2) {
		return
	}
	if _, objects, _, err := slots.Digest(2); err != nil || objects < fillKeys {
		c.t.Errorf("the new slot has %d objects of at least %d: %v", objects, fillKeys, err)
	}
}

// chainIntact ends the agent and reads its journal from end to end.
func (c *testCluster) chainIntact(a *cluster.Agent) {
	c.t.Helper()
	c.kill(a)
	s, err := store.Open(a.Data, store.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close()
	if d := s.Damage(); d != nil {
		c.t.Errorf("the store is damaged: %+v", d)
	}
	entries := 0
	if err := s.Journal(0, func(store.Entry) error { entries++; return nil }); err != nil || entries == 0 {
		c.t.Errorf("journal of %d entries: %v", entries, err)
	}
}

// TestAgentDeath kills an agent whose node serves: the node goes on, and the
// next agent takes it over without starting it again.
func TestAgentDeath(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	a := c.Agents[0]
	c.up(c.Agents)
	c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	c.releaseAt(a, 1, spec{})
	c.settledAt(a, 1, 1)
	c.fill(a)
	info, err := a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.kill(a)
	if runtime.GOOS == "linux" {
		if cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(info.NodePID), "cmdline")); err != nil || !strings.Contains(string(cmdline), demo.SampleCommand) {
			t.Errorf("the node's process is gone with the agent: %q, %v", cmdline, err)
		}
	}
	c.up(c.Agents)
	c.settledAt(a, 1, 1)
	c.check(a, 1)
	again, err := a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again.NodePID != info.NodePID {
		t.Errorf("the node was started again: process %d, before %d", again.NodePID, info.NodePID)
	}
}
