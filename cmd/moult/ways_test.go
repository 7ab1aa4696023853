//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
)

// asPrinted runs a command as moult has printed it, in an environment that names agent and
// trust folder.
func (c *testCluster) asPrinted(a *cluster.Agent, text string) (code int, stderr string) {
	c.t.Helper()
	words := strings.Fields(text)
	if len(words) < 2 || words[0] != "moult" {
		c.t.Fatalf("%q is no command", text)
	}
	args, rest := slices.Clone(words[1:2]), words[2:]
	if words[1] == "member" {
		args, rest = []string{words[1], words[2], "--trust", c.trustDir()}, words[3:]
	}
	if slices.Contains([]string{"skip", "retry", "start", "forget", "resume", "pause", "abort", "withdraw", "now", "revert"}, words[1]) {
		args = append(args, "--trust", c.trustDir())
	}
	if slices.Contains([]string{"abort", "withdraw", "revert"}, words[1]) {
		args = append(args, "--yes") // nobody is at a terminal
	}
	code, _, stderr = c.command(a, append(args, rest...)...)
	return code, stderr
}

// why returns what an agent says of a node.
func (c *testCluster) why(a *cluster.Agent, node string) control.Why {
	c.t.Helper()
	w, err := a.API.Why(c.t.Context(), node)
	if err != nil {
		c.t.Fatal(err)
	}
	return w
}

// wayOut types the command that why prints for a node.
func (c *testCluster) wayOut(a *cluster.Agent, node, want string) {
	c.t.Helper()
	w := c.why(a, node)
	if !strings.HasPrefix(w.Command, want) {
		c.t.Errorf("why %s says %q, want %q: %s", node, w.Command, want, w.Reason)
	}
	if code, errs := c.asPrinted(a, w.Command); code != exitDone {
		c.t.Fatalf("%s, as it is printed: exit code %d, %s", w.Command, code, errs)
	}
}

// next injects the next small release.
func (c *testCluster) next(a *cluster.Agent, v bundle.Version) {
	c.t.Helper()
	if code, _, errs := c.command(a, "inject", "--trust", c.trustDir(), c.small(v, c.trustDir())); code != exitDone {
		c.t.Fatalf("inject release %d: exit code %d, %s", v, code, errs)
	}
}

func (c *testCluster) complete(a *cluster.Agent, v bundle.Version, total int) control.Status {
	c.t.Helper()
	return c.until(a, fmt.Sprintf("release %d to be complete", v), func(s control.Status) bool {
		return s.Release.Version == v && s.Release.State == control.StateComplete && s.Classes["kv"].Total == total
	})
}

func standing(s control.Status, name string) schedule.Standing {
	return schedule.Standing(node(s, name).Standing)
}

// TestWaysOut has nodes leave, die, come back and be installed anew under their name.
// No rollout waits for one that is gone longer than an operator wants, and every command
// that is printed meanwhile works as it is printed.
func TestWaysOut(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 3)
	first, third := c.Agents[0], c.Agents[2]

	// One leaves: no release waits for it.
	if code, _, errs := c.command(third, "leave"); code != exitDone {
		t.Fatalf("leave: %s", errs)
	}
	<-third.Ended
	c.until(first, "n3 to have left", func(s control.Status) bool { return standing(s, "n3") == schedule.StandingLeft })
	c.next(first, 2)
	c.complete(first, 2, 2)
	c.next(first, 3)
	c.complete(first, 3, 2)

	// It comes back, and is given a place.
	c.up([]*cluster.Agent{third})
	c.until(first, "n3 to be back, and behind", func(s control.Status) bool {
		return standing(s, "n3") == "" && node(s, "n3").Reachable && s.Release.State == control.StateRolling
	})
	c.wayOut(first, "n3", "moult retry --release 3 n3")
	c.complete(first, 3, 3)

	// It dies: the others go on, and the rollout waits for it alone until it is skipped.
	c.kill(third)
	c.until(first, "n3 to be missed", func(s control.Status) bool { return !node(s, "n3").Reachable })
	c.next(first, 4)
	s := c.until(first, "the others to settle", func(s control.Status) bool {
		return cluster.Settled(s, 4) == 2 && strings.Contains(s.Release.Reason, "`moult skip")
	})
	if why := c.why(first, "n3"); why.Code != "unreachable" || why.Command != "moult skip --release 4 n3" || !strings.Contains(why.Reason, "cannot be reached since") || node(s, "n3").Away.IsZero() {
		t.Errorf("of a dead node: %+v", why)
	}
	_, command, _ := strings.Cut(s.Release.Reason, "`")
	command, _, _ = strings.Cut(command, "`")
	if code, errs := c.asPrinted(first, command); code != exitDone {
		t.Fatalf("%s: exit code %d, %s", command, code, errs)
	}
	s = c.complete(first, 4, 2)
	if standing(s, "n3") != schedule.StandingSkipped {
		t.Errorf("n3 counts as %q", standing(s, "n3"))
	}
	c.next(first, 5)
	c.complete(first, 5, 2)

	// Its machine is installed anew, under its name: commands call both by their IDs.
	old := node(s, "n3").ID
	if err := os.Rename(third.Data, third.Data+"-old"); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(third.Data+"-old", "agent.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Configure(string(config)); err != nil {
		t.Fatal(err)
	}
	c.up([]*cluster.Agent{third})
	c.until(first, "another n3", func(s control.Status) bool { return cluster.Settled(s, 5) == 3 })
	if code, _, errs := c.command(first, "why", "n3"); code != exitMisuse || !strings.Contains(errs, `"n3" fits 2 nodes`) {
		t.Errorf("why n3: exit code %d, %s", code, errs)
	}
	c.wayOut(first, old.String(), "moult forget "+old.Short())
	for _, a := range c.Agents {
		c.until(a, "the old n3 to be forgotten", func(s control.Status) bool {
			return !slices.ContainsFunc(s.Nodes, func(n control.NodeStatus) bool { return n.ID == old })
		})
	}
	if w := c.why(first, "n3"); w.ID == old {
		t.Error("n3 is the old one")
	}
	if code, _, errs := c.command(first, "forget", "--trust", c.trustDir(), "n3"); code != exitRefused || !strings.Contains(errs, "its agent is reachable") {
		t.Errorf("forget a node that is there: exit code %d, %s", code, errs)
	}
	// Nobody has enrolled the new one, so no rollout takes it along before that.
	c.until(first, "the new n3 to be a stranger", func(s control.Status) bool { return standing(s, "n3") == schedule.StandingStranger })
	if code, _, errs := c.command(first, "retry", "--trust", c.trustDir(), "n3"); code != exitRefused || !strings.Contains(errs, "`moult member add n3`") {
		t.Errorf("retry of a stranger: exit code %d, %s", code, errs)
	}
	c.wayOut(first, "n3", "moult member add n3")
	c.until(first, "the new n3 to count", func(s control.Status) bool { return standing(s, "n3") == "" })
	c.next(first, 6)
	c.complete(first, 6, 3)

	// What is forgotten stays so after a restart.
	c.kill(first)
	c.up([]*cluster.Agent{first})
	s = c.complete(first, 6, 3)
	if len(s.Nodes) != 3 {
		t.Errorf("%d nodes after a restart", len(s.Nodes))
	}
}

// TestStatusOfWhatRolls: status speaks of the release that is on its way, also where a
// newer one was handed in that nobody has ordered; and an agent that hears nobody says so.
func TestStatusOfWhatRolls(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 2)
	first, second := c.Agents[0], c.Agents[1]
	c.kill(second)
	alone := func(s control.Status) bool {
		return slices.ContainsFunc(s.Alarms, func(a string) bool { return strings.HasPrefix(a, "this agent cannot reach any other") })
	}
	c.until(first, "to say that it hears nobody", alone)
	c.next(first, 2)
	c.until(first, "the node that is there to settle", func(s control.Status) bool { return cluster.Settled(s, 2) == 1 })
	if code, _, errs := c.command(first, "inject", "--no-order", c.small(3, c.trustDir())); code != exitDone {
		t.Fatalf("inject release 3 without an order: exit code %d, %s", code, errs)
	}
	s := c.until(first, "to say that release 3 has no order", func(s control.Status) bool {
		return slices.ContainsFunc(s.Alarms, func(a string) bool { return strings.HasPrefix(a, "release 3 was handed in without a rollout order") })
	})
	if s.Release.Version != 2 || s.Release.State != control.StateRolling {
		t.Errorf("status is of release %d, %s", s.Release.Version, s.Release.State)
	}
	c.up([]*cluster.Agent{second})
	s = c.until(first, "both to have release 2", func(s control.Status) bool { return cluster.Settled(s, 2) == 2 })
	if alone(s) {
		t.Errorf("it hears the other, and says %q", s.Alarms)
	}
}
