//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
)

// TestFinalizeAfter: a release that says so is finalized by each agent itself, once, with its
// command; it is told when, and nothing takes the release back after that.
func TestFinalizeAfter(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := running(t, 3)
	first, told := c.Agents[0], filepath.Join(c.dir, "told")
	for _, a := range c.Agents {
		c.fill(a)
	}
	path, err := demo.WriteSpec(c.dir, c.software(), 2)
	if err == nil {
		err = demo.Reversible(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), "version = 2\n", "version = 2\n  finalize_after = \"6s\"\n", 1)
	text = strings.Replace(text, "from = 1\n", fmt.Sprintf("from = 1\n    finalized = [\"/bin/sh\", \"-c\", \"echo final >> %s\"]\n", told), 1)
	if err := c.inject(first, c.bundle(2, text)); err != nil {
		t.Fatal(err)
	}
	c.until(first, "the time until it is finalized to run", func(s control.Status) bool {
		return s.Release.FinalizeAfter > 0 && !s.Release.FinalizeAt.IsZero() && !s.Release.Finalized
	})
	if code, out, errs := c.command(first, "why", first.Name); code != exitDone || !strings.Contains(out, "finalized on ") || !strings.Contains(out, "moult revert 2") {
		t.Errorf("why: exit code %d\n%s%s", code, out, errs)
	}
	for _, a := range c.Agents {
		c.until(a, "all to have finalized it", func(s control.Status) bool {
			for _, n := range s.Nodes {
				if n.Final != 2 {
					return false
				}
			}
			return s.Release.Finalized
		})
	}
	code, _, errs := c.command(first, "revert", "--yes", "--trust", c.trustDir())
	if code != exitRefused || !strings.Contains(errs, "finalize_after") {
		t.Errorf("revert: exit code %d, %s", code, errs)
	}
	c.until(first, "the software of all to be told", func(control.Status) bool { return linesOf(told) >= 3 })

	// An agent that starts again does not do it again.
	c.kill(first)
	c.up([]*cluster.Agent{first})
	c.until(first, "the agent to be back", func(s control.Status) bool { return s.Release.Finalized && s.Release.State == control.StateComplete })
	if n := linesOf(told); n != 3 {
		t.Errorf("the software of 3 nodes was told %d times", n)
	}
	for _, a := range c.Agents {
		c.check(a, 2)
	}
}

// linesOf counts those of a file that may not be there.
func linesOf(path string) int {
	data, _ := os.ReadFile(path)
	return strings.Count(string(data), "\n")
}
