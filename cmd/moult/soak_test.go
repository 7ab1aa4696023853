//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/store/bundle"
)

// TestSoak has the canary's software end after it has settled, in its soak: the others
// stay where they are, whoever is asked says why, and a mended release goes through.
func TestSoak(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 3)
	for _, a := range c.Agents {
		c.fill(a)
	}
	end := filepath.Join(c.dir, "end")
	c.releaseAt(c.Agents[1], 2, spec{
		soak:    `soak = "10m"`,
		command: fmt.Sprintf(`["/bin/sh", "-c", "./kv \"$@\" & until [ -e %s ]; do sleep 0.1; done; kill $!; exit 3", "sh", "sample-node", "2", "--state"`, end),
	})
	var canary string
	at := func(s control.Status, v bundle.Version) (names []string) {
		for _, n := range s.Nodes {
			if n.Version == v {
				names = append(names, n.Name)
			}
		}
		return names
	}
	c.until(c.Agents[0], "the canary to settle, and the others to wait for its soak", func(s control.Status) bool {
		waiting := 0
		for _, n := range s.Nodes {
			switch {
			case n.Version == 2 && n.Phase == "current" && n.Health == "well":
				canary = n.Name
			case n.Phase == "waiting" && strings.Contains(n.Reason, "10m0s"):
				waiting++
			}
		}
		return canary != "" && waiting == 2
	})
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range c.Agents {
		s := c.until(a, "the release to be held", func(s control.Status) bool { return s.Release.State == control.StateHeld })
		if got := at(s, 2); len(got) != 1 || got[0] != canary {
			t.Errorf("%s: %q are at version 2, want %s alone", a.Name, got, canary)
		}
		n := node(s, canary)
		if n.Health != "restarting" || !strings.Contains(n.Reason, "exit status 3") {
			t.Errorf("%s: the health of %s is %q: %q", a.Name, canary, n.Health, n.Reason)
		}
		if got := s.Classes["kv"]; got.Settled != 0 || got.Unwell != 1 {
			t.Errorf("%s: counts %+v", a.Name, got)
		}
		code, out, errs := c.command(a, "why", canary)
		if code != exitDone || !strings.Contains(out, "exit status 3") || !strings.Contains(out, "moult retry --release 2 "+canary) {
			t.Errorf("why %s: exit code %d\n%s%s", canary, code, out, errs)
		}
		if a.Name == canary {
			c.until(a, "an alarm", func(s control.Status) bool { return strings.Contains(strings.Join(s.Alarms, "\n"), "restarting") })
		} else {
			c.check(a, 1)
		}
	}
	if code, out, errs := c.command(c.Agents[0], "status", "--wait"); code != exitRefused || !strings.Contains(out, "restarting") {
		t.Errorf("status --wait: exit code %d, %s%s", code, out, errs)
	}
	// What why prints leads on, once the software has been mended: the soak begins anew.
	if err := os.Remove(end); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := c.command(c.Agents[0], "retry", "--trust", c.trustDir(), "--release", "2", canary); code != exitDone {
		t.Fatalf("retry: exit code %d, %s", code, errs)
	}
	c.until(c.Agents[2], "the rollout to go on", func(s control.Status) bool { return s.Release.State != control.StateHeld })

	c.releaseAt(c.Agents[2], 3, spec{})
	s := c.settledAt(c.Agents[0], 3, 3)
	for _, a := range c.Agents {
		c.check(a, 1)
		c.check(a, 3)
	}
	for _, n := range s.Nodes {
		if n.Health != "well" {
			t.Errorf("%s is %q: %s", n.Name, n.Health, n.Reason)
		}
	}
}
