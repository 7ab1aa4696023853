//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
)

// lastRelease is the commit of this repository whose agents those of today must get along
// with: that of the last tag once there are tags.
const lastRelease = "7bba36f"

// oldMoult builds moult as it was then. A clone without its history skips the test.
func oldMoult(t *testing.T, dir string) string {
	t.Helper()
	source := filepath.Join(dir, "then")
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("git", "cat-file", "-e", lastRelease+"^{commit}").Run(); err != nil {
		t.Skipf("this is no clone with the history of moult, so there is no moult of %s: %v", lastRelease, err)
	}
	unpack := exec.Command("/bin/sh", "-c", `top=$(git rev-parse --show-toplevel) && git -C "$top" archive "$0" | tar -x -C "$1"`, lastRelease, source)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	exe := filepath.Join(dir, "moult-then")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", exe, "./cmd/moult")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exe
}

// Agents of the last release and of today are one ring, in which both sides release: releases
// roll out on all, callers of old versions go on, and all see the same.
func TestOldAgents(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 4)
	then := oldMoult(t, c.dir)
	programs := map[*cluster.Agent]string{}
	for i, a := range c.Agents {
		programs[a] = []string{c.exe, then}[i%2]
		if err := a.Start(programs[a]); err != nil {
			t.Fatal(err)
		}
	}
	now, old := c.Agents[0], c.Agents[1]
	c.formed(4)

	c.releaseAt(now, 1, spec{})
	for _, a := range c.Agents {
		c.settledAt(a, 1, 4)
	}
	c.fill(now)
	l := c.loads()
	l.versioned(1)
	l.flow(30)
	// The old side releases, by its own commands.
	path, err := demo.WriteSpec(c.dir, c.software(), 2)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(c.dir, "release-2.moult")
	for _, args := range [][]string{
		{"bundle", "build", "--trust", c.trustDir(), "-f", path, "--out", out},
		{"inject", "--trust", c.trustDir(), "--agent", old.Data, "--wait", out},
	} {
		if text, err := exec.Command(then, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q of then: %v\n%s", args, err, text)
		}
	}
	for _, a := range c.Agents {
		c.settledAt(a, 2, 4)
	}
	l.flow(30)
	// And today's the next.
	c.releaseAt(now, 3, spec{})
	for _, a := range c.Agents {
		c.settledAt(a, 3, 4)
	}
	l.flow(30)
	l.end(authors(t))
	c.check(now, 1)
	c.check(now, 3)
	if most := cluster.MostAtOnce(c.downs()); most != 1 {
		t.Errorf("%d nodes were down at once, want 1", most)
	}

	// An agent of then is replaced by one of today on its data folder, and the other way round.
	for _, a := range []*cluster.Agent{old, now} {
		if err := a.End(); err != nil {
			t.Fatal(err)
		}
		other := c.exe
		if programs[a] == c.exe {
			other = then
		}
		if err := a.Start(other); err != nil {
			t.Fatal(err)
		}
		c.settledAt(a, 3, 4)
		c.check(a, 3)
	}
	for _, a := range c.Agents {
		c.until(a, "the view that "+now.Name+" has", func(s control.Status) bool {
			other, err := now.API.Status(t.Context(), false)
			return err == nil && seen(s) == seen(other)
		})
	}
}

// seen is what an agent's view says of the nodes, as far as it is to be the same everywhere.
func seen(s control.Status) string {
	var b strings.Builder
	for _, n := range s.Nodes {
		fmt.Fprintln(&b, n.Name, n.ID, n.Number, n.Version, n.Running, n.Phase, n.Metadata, bundle.Version(n.Target))
	}
	return b.String()
}
