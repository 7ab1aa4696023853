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
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
)

// retiring is a release of the sample system whose pastSO is a program, and goes
// when nobody has called for a second.
func (c *testCluster) retiring(v bundle.Version, past string) {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), v)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	spec := string(text)
	for _, from := range []string{`rules = "rules/past-2.hcl"`} {
		if strings.Count(spec, from) != 1 {
			c.t.Fatalf("the release has no %q:\n%s", from, spec)
		}
		spec = strings.Replace(spec, from, past+"\n      retire_after = \"1s\"", 1)
	}
	if err := c.inject(c.Agents[0], c.bundle(v, spec)); err != nil {
		c.t.Fatal(err)
	}
}

func callersOf(s control.Status, v bundle.Version) (control.ObjectStatus, bool) {
	i := slices.IndexFunc(s.Local.Objects, func(o control.ObjectStatus) bool { return o.Callers == v })
	if i < 0 {
		return control.ObjectStatus{}, false
	}
	return s.Local.Objects[i], true
}

// After a rollout the pastSO goes when nobody calls any more: its process, its
// address, its disk, and its line in the status. A node that stayed behind is then
// told.
func TestRetire(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 3)
	n1, n2, late := c.Agents[0], c.Agents[1], c.Agents[2]
	c.up(c.Agents)
	c.formed(3)
	c.releaseAt(n1, 1, spec{})
	c.settledAt(n1, 1, 3)
	// The last one is away during the rollout, and given up.
	c.kill(late)
	if err := late.StopNode(); err != nil {
		t.Fatal(err)
	}
	c.retiring(2, `exec = ["sleep", "1000"]`)
	c.must("skip", "--agent", n1.Data, "--trust", c.trustDir(), late.Name)
	var past control.ObjectStatus
	var text string
	c.until(n1, "the pastSO", func(s control.Status) bool {
		past, _ = callersOf(s, 1)
		_, text, _ = c.command(n1, "status")
		return past.State == control.ObjectRunning && past.PID > 0
	})
	if past.Side != control.SidePast || past.Kind != bundle.SimulateExec || past.Release != 2 || past.Where != control.InProcess {
		t.Errorf("the object for callers of version 1: %+v", past)
	}
	if !strings.Contains(text, "simulation objects of n1, which runs version 2") || !strings.Contains(text, "past of 2") {
		t.Errorf("status says nothing of it:\n%s", text)
	}
	state := func(a *cluster.Agent) string { return filepath.Join(a.Data, "objects", "2", "past") }
	if _, err := os.Stat(state(n1)); err != nil {
		t.Errorf("its folder: %v", err)
	}
	c.settledAt(n1, 2, 2)
	for _, a := range []*cluster.Agent{n1, n2} {
		c.until(a, "the object to go", func(s control.Status) bool {
			_, ok := callersOf(s, 1)
			_, here := node(s, a.Name).Services["api"].Versions[1]
			_, err := os.Stat(state(a))
			return cluster.Settled(s, 2) == 2 && !ok && !here && errors.Is(err, os.ErrNotExist)
		})
		if err := syscall.Kill(past.PID, 0); a == n1 && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("its process: %v, want that there is none", err)
		}
		if _, err := get(a, 1, "k"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: a caller of version 1: %v, want that it is refused", a.Name, err)
		}
		if code, out, _ := c.command(a, "status", "-o", "json"); code != exitDone || strings.Contains(out, `"callers": 1`) {
			t.Errorf("status of %s has it still (exit code %d):\n%s", a.Name, code, out)
		}
	}

	// The node that stayed behind comes back, and calls.
	c.up([]*cluster.Agent{late})
	c.until(late, "what the others answer", func(s control.Status) bool {
		_, stale := node(s, n1.Name).Services["api"].Versions[1]
		return cluster.Settled(s, 2) == 2 && node(s, late.Name).Phase != "" && !stale
	})
	_, err := late.API.Resolve(t.Context(), n1.Public())
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Kind != control.KindRefused || !strings.Contains(e.Message, "n1") || !strings.Contains(e.Message, "does not answer callers of version 1") {
		t.Errorf("a node of version 1 calls n1: %v", err)
	}
	if _, ok := callersOf(c.until(n1, "the late one", func(s control.Status) bool { return node(s, late.Name).Reachable }), 1); ok {
		t.Error("the object is back for it: what is retired stays so")
	}
}
