//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/testdata/kit"
)

// TestTwoHalves: two operators, with copies of one trust folder, change a rollout at two
// agents that do not hear each other. Once they do nobody goes down by either change; pause
// joins the two, and the rollout goes on when all nodes have the joined order.
func TestTwoHalves(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 3)
	both := "past {\n compatible = true\n}\nfuture {\n compatible = true\n}\n"
	text := fmt.Sprintf(smallSpec, 2, "from = 1", runtime.GOOS, runtime.GOARCH, both)
	if err := c.inject(c.Agents[0], c.bundle(2, strings.Replace(text, `"rolling"`, `"manual"`, 1))); err != nil {
		t.Fatal(err)
	}
	phase := func(name, want string) func(control.Status) bool {
		return func(s control.Status) bool {
			i := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Name == name })
			return i >= 0 && s.Nodes[i].Phase == want
		}
	}
	for i, a := range c.Agents {
		c.until(a, "its node to wait", phase(fmt.Sprintf("n%d", i+1), "waiting"))
	}
	other := filepath.Join(c.dir, "other")
	if err := os.CopyFS(other, os.DirFS(c.trustDir())); err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(filepath.Join(other, "keys", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(a *cluster.Agent, trust string, args ...string) (int, string) {
		t.Helper()
		code, _, errs := c.command(a, append([]string{args[0], "--trust", trust}, args[1:]...)...)
		return code, errs
	}
	one, two, three := c.Agents[0], c.Agents[1], c.Agents[2]
	c.ended(two)
	c.ended(three)
	begins := func(a *cluster.Agent, trust, name string) {
		t.Helper()
		if code, errs := at(a, trust, "start", name); code != exitDone {
			t.Fatalf("start %s: exit code %d, %s", name, code, errs)
		}
		c.until(a, name+" to settle", phase(name, "current"))
	}
	begins(one, c.trustDir(), "n1")
	c.ended(one)
	c.up([]*cluster.Agent{two, three}) // neither goes down before it has heard another
	c.until(two, "its node to wait", phase("n2", "waiting"))
	begins(two, other, "n2")
	c.up([]*cluster.Agent{one})
	c.until(one, "both sets to be seen", func(s control.Status) bool {
		return cluster.Reachable(s) == 3 && slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.Contains(text, "two different sets of metadata") })
	})
	if code, errs := at(one, other, "start", "n3"); code != exitRefused || !strings.Contains(errs, "contradict each other") {
		t.Errorf("start n3: exit code %d, %s", code, errs)
	}
	// A node that is not trusted any more is evicted all the same.
	for _, s := range []struct{ verb, note, by string }{{"remove", "n2 is evicted, and the rollout order is as it was", "evicted"}, {"add", "enrolled n2", "name"}} {
		if code, _, errs := c.command(one, "member", s.verb, "--trust", other, "n2"); code != exitDone || !strings.Contains(errs, s.note) {
			t.Fatalf("member %s n2: exit code %d, %s", s.verb, code, errs)
		}
		kit.Until(t, "n2 to be enrolled by "+s.by, func() bool {
			list := c.members(one).Members
			return slices.ContainsFunc(list, func(m memberLine) bool { return m.Name == "n2" && m.By == s.by })
		})
	}
	if code, errs := at(one, other, "pause"); code != exitDone {
		t.Fatalf("pause: exit code %d, %s", code, errs)
	}
	kit.Until(t, "all nodes to have the joined order", func() bool {
		code, errs := at(one, other, "resume")
		if code != exitDone && !strings.Contains(errs, "have not said that they are up") {
			t.Fatalf("resume: exit code %d, %s", code, errs)
		}
		return code == exitDone
	})
	if code, errs := at(two, other, "start", "n3"); code != exitDone {
		t.Fatalf("start n3: exit code %d, %s", code, errs)
	}
	for _, a := range c.Agents {
		c.settledAt(a, 2, 3)
		c.until(a, "no alarm to be left", func(s control.Status) bool { return len(s.Alarms) == 0 })
	}
}

// ended ends an agent as its service manager does: it keeps what it knows of others.
func (c *testCluster) ended(a *cluster.Agent) {
	c.t.Helper()
	info, err := a.API.Info(c.t.Context())
	if err == nil {
		err = syscall.Kill(info.PID, syscall.SIGTERM)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	<-a.Ended
}
