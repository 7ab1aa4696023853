//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
)

// running starts n agents and takes them to version 1 with keys on the first.
func running(t *testing.T, n int) *testCluster {
	t.Helper()
	c := newCluster(t, n)
	c.up(c.Agents)
	c.formed(n)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[n-1], 1, n)
	return c
}

// formed waits until every agent sees n nodes.
func (c *testCluster) formed(n int) {
	c.t.Helper()
	for _, a := range c.Agents[:n] {
		c.until(a, fmt.Sprintf("%d nodes", n), func(s control.Status) bool { return len(s.Nodes) == n && cluster.Reachable(s) == n })
	}
}

// killNode ends an agent and its node, as a power cut would.
func (c *testCluster) killNode(a *cluster.Agent) {
	c.t.Helper()
	info, err := a.API.Info(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	c.kill(a)
	if err := syscall.Kill(info.NodePID, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

func node(s control.Status, name string) control.NodeStatus {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return control.NodeStatus{}
}

// TestHeld gives a release whose software never becomes healthy: its first
// node goes back to its untouched state, and the rollout stops there.
func TestHeld(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 3)
	digests := map[string]bundle.Digest{}
	for _, a := range c.Agents {
		c.fill(a)
		digests[a.Name] = c.digest(a, 1)
	}
	c.releaseAt(c.Agents[1], 2, spec{health: `"/never"`})
	for _, a := range c.Agents {
		c.until(a, "the release to be held", func(s control.Status) bool { return s.Release.State == control.StateHeld })
	}
	code, _, errs := c.command(c.Agents[0], "status", "--wait")
	if code != exitRefused || !strings.Contains(errs, "held") {
		t.Errorf("status --wait: exit code %d, %q", code, errs)
	}
	s := c.until(c.Agents[0], "one held node", func(s control.Status) bool { return s.Classes["kv"].Held == 1 })
	for _, n := range s.Nodes {
		if n.Version != 1 {
			t.Errorf("%s is at version %d", n.Name, n.Version)
		}
		if n.Phase != "held" {
			continue
		}
		code, out, errs := c.command(c.Agents[2], "why", n.Name)
		if code != exitDone || !strings.Contains(out, "held") || !strings.Contains(out, "moult retry") {
			t.Errorf("why %s: exit code %d\n%s%s", n.Name, code, out, errs)
		}
		c.remembers(n.Name)
	}
	for _, a := range c.Agents {
		c.check(a, 1)
		if got := c.digest(a, 1); got != digests[a.Name] {
			t.Errorf("%s: the old state has changed", a.Name)
		}
	}
	// A mended release goes through without a word from the operator.
	c.releaseAt(c.Agents[2], 3, spec{})
	c.settledAt(c.Agents[0], 3, 3)
	for _, a := range c.Agents {
		c.check(a, 1)
		c.check(a, 3)
	}
}

// remembers has the agent of a held node tell why, with its software's own words, and another
// agent what it saw.
func (c *testCluster) remembers(held string) {
	c.t.Helper()
	for _, a := range c.Agents {
		_, out, errs := c.command(a, "history", held)
		wants := []string{"as the agent that was asked saw it in the records of " + held, "  current  ", "  held  "}
		if a.Name == held {
			wants = []string{"what the software had written last at ", "before the node was rolling back:\n  ", "operator", "order of release 2: "}
		}
		for _, want := range wants {
			if !strings.Contains(out, want) {
				c.t.Errorf("history of %s by %s has no %q:\n%s%s", held, a.Name, want, out, errs)
			}
		}
	}
}

// TestHeldAdmitted kills software that has been admitted and has not settled: its node is
// held on it, and says both which version it is at and which it runs.
func TestHeldAdmitted(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 1)
	a := c.Agents[0]
	c.releaseAt(a, 2, spec{longHealthy: true})
	c.until(a, "the new software", func(s control.Status) bool { return s.Nodes[0].Phase == "probing" })
	c.fill(a) // which waits until it is admitted
	if err := syscall.Kill(c.nodePID(a), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s := c.until(a, "the node to be held", func(s control.Status) bool { return s.Nodes[0].Phase == "held" })
	if n := s.Nodes[0]; n.Version != 1 || n.Runs != 2 {
		t.Errorf("it says that it is at version %d and runs %d", n.Version, n.Runs)
	}
	_, status, _ := c.command(a, "status")
	_, why, _ := c.command(a, "why", a.Name)
	if !strings.Contains(status, "1→2 (runs 2)") || !strings.Contains(why, "is at version 1 and runs version 2, held") {
		t.Errorf("status:\n%swhy:\n%s", status, why)
	}
	c.check(a, 2) // it is there for callers, all the same
	if code, _, errs := c.command(a, "retry", "--trust", c.trustDir(), a.Name); code != exitDone {
		t.Fatalf("retry: exit code %d, %s", code, errs)
	}
	if s := c.until(a, "the retry", func(s control.Status) bool { return s.Nodes[0].Phase != "held" }); s.Nodes[0].Runs != 2 && s.Nodes[0].Version != 2 {
		t.Errorf("after the retry: %+v", s.Nodes[0])
	}
}

// TestLateJoiner has a node with version 1's state join after the rollout.
func TestLateJoiner(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 4)
	c.up(c.Agents[:3])
	c.formed(3)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[0], 1, 3)
	c.fill(c.Agents[0])
	c.releaseAt(c.Agents[1], 2, spec{})
	c.settledAt(c.Agents[2], 2, 3)

	late := c.Agents[3]
	old := filepath.Join(c.dir, "old-state")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(c.Agents[0].Data, "state", "1"))); err != nil {
		t.Fatal(err)
	}
	c.adopt(late, old)
	c.up(c.Agents[3:])
	c.settledAt(c.Agents[0], 2, 4)
	c.check(late, 1)
	c.check(late, 2)
}

// adopt adds an adopt block for version 1 to an agent's configuration.
func (c *testCluster) adopt(a *cluster.Agent, state string) {
	c.t.Helper()
	data, err := os.ReadFile(a.ConfigPath())
	if err != nil {
		c.t.Fatal(err)
	}
	text := strings.TrimSuffix(strings.TrimSpace(string(data)), "}") + fmt.Sprintf(`
  adopt {
    version = 1
    command = [%q, %q, "1", "--state", "${state}", "--listen", "${service.api}"]
    state   = %q
    health {
      http    = "/healthz"
      service = "api"
    }
  }
}
`, c.software(), demo.SampleCommand, state)
	if err := os.WriteFile(a.ConfigPath(), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// TestAwayForTwoReleases has a node miss two rollouts, and catch up in one go.
func TestAwayForTwoReleases(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 3)
	away := c.Agents[2]
	c.fill(away)
	c.killNode(away)
	c.until(c.Agents[0], "the dead node to be missed", func(s control.Status) bool { return !node(s, away.Name).Reachable })
	for _, v := range []bundle.Version{2, 3} {
		// For all that the others know, the dead node may be down under the
		// first order when the second one comes: it uses one unit of the budget.
		c.releaseAt(c.Agents[1], v, spec{budget: `"2"`})
		c.settledAt(c.Agents[0], v, 2)
	}
	c.up(c.Agents[2:])
	c.settledAt(c.Agents[0], 3, 3)
	for v := 1; v <= 3; v++ {
		c.check(away, v)
	}
}

// TestOrders pauses, resumes and skips as an operator does.
func TestOrders(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 3)
	trustDir := filepath.Join(c.dir, "trust")
	gone := c.Agents[2]
	c.fill(c.Agents[0])
	// The node dies before the ring knows: it may be ranked first.
	c.killNode(gone)
	c.releaseAt(c.Agents[0], 2, spec{})
	if code, _, errs := c.command(c.Agents[0], "pause", "--trust", trustDir); code != exitDone {
		t.Fatalf("pause: exit code %d, %s", code, errs)
	}
	s := c.until(c.Agents[1], "the pause", func(s control.Status) bool { return s.Release.State == control.StatePaused })
	if n := s.Classes["kv"].Settled; n == 3 {
		t.Errorf("all %d settled in spite of the pause", n)
	}
	if code, _, errs := c.command(c.Agents[1], "resume", "--trust", trustDir); code != exitDone {
		t.Fatalf("resume: exit code %d, %s", code, errs)
	}
	if code, _, errs := c.command(c.Agents[1], "skip", "--trust", trustDir, gone.Name); code != exitDone {
		t.Fatalf("skip: exit code %d, %s", code, errs)
	}
	c.settledAt(c.Agents[0], 2, 2)
	c.until(c.Agents[0], "the rollout to be complete without the skipped node", func(s control.Status) bool {
		return s.Release.State == control.StateComplete
	})
	// It comes back, and waits until an order appends it.
	c.up(c.Agents[2:])
	c.until(gone, "the skipped node to wait", func(s control.Status) bool {
		n := node(s, gone.Name)
		return n.Version == 1 && n.Phase == "waiting" && n.Reason != ""
	})
	if code, _, errs := c.command(c.Agents[1], "retry", "--trust", trustDir, gone.Name); code != exitDone {
		t.Fatalf("retry: exit code %d, %s", code, errs)
	}
	c.settledAt(gone, 2, 3)
}

// TestFullOutage ends all agents; they find each other again without flags.
func TestFullOutage(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 3)
	c.fill(c.Agents[1])
	for _, a := range c.Agents {
		c.killNode(a)
		data, err := os.ReadFile(a.ConfigPath())
		if err != nil {
			t.Fatal(err)
		}
		var kept []string
		for line := range strings.Lines(string(data)) {
			if !strings.HasPrefix(strings.TrimSpace(line), "join") {
				kept = append(kept, line)
			}
		}
		if err := os.WriteFile(a.ConfigPath(), []byte(strings.Join(kept, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.up(c.Agents)
	c.formed(3)
	c.check(c.Agents[1], 1)
	c.releaseAt(c.Agents[2], 2, spec{})
	c.settledAt(c.Agents[0], 2, 3)
	c.check(c.Agents[1], 2)
}
