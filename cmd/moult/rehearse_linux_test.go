package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/transforms/stray"
)

// TestRehearsalIsGivenUp: of a rehearsal that somebody asks for nothing is left where who asked
// leaves, where the agent is killed, and where a rollout begins; and there is one at a time.
func TestRehearsalIsGivenUp(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 1)
	a := c.Agents[0]
	c.up(c.Agents)
	c.formed(1)
	c.releaseAt(a, 1, spec{})
	c.settledAt(a, 1, 1)
	c.fill(a)
	path := c.toRehearse(a, 2, "", `exec = ["./kv", "sample-node", "2", "migrate"]`, `exec = ["/bin/sh", "-c", "sleep 1000"]`)
	// meanwhile has it rehearsed, and does something once the transform is under way.
	meanwhile := func(ctx context.Context, do func()) error {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = a.API.Rehearse(ctx, f, func(n control.RehearsalNews) {
			if strings.HasPrefix(n.Begins, "transform") {
				do()
			}
		})
		return err
	}
	nothingLeft := func(when string) {
		t.Helper()
		c.until(a, "nothing to be left", func(control.Status) bool {
			_, err := os.Stat(filepath.Join(a.Data, "rehearsal"))
			_, bundleErr := os.Stat(filepath.Join(a.Data, "rehearsal-bundle"))
			return errors.Is(err, fs.ErrNotExist) && errors.Is(bundleErr, fs.ErrNotExist)
		})
		if left, err := stray.Find("MOULT_REHEARSAL=" + filepath.Join(a.Data, "rehearsal")); err != nil || len(left) > 0 {
			t.Errorf("%s: %d processes of the rehearsal are left, %v", when, len(left), err)
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	if err := meanwhile(ctx, func() {
		if code, _, errs := c.command(a, "rehearse", path); code != exitRefused || !strings.Contains(errs, "this agent rehearses another bundle") {
			t.Errorf("a second one: exit code %d, %s", code, errs)
		}
		leave()
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("who leaves gets %v", err)
	}
	nothingLeft("who asked has left")
	if err := meanwhile(t.Context(), func() { c.kill(a) }); err == nil || !strings.Contains(err.Error(), "has ended before the rehearsal has") {
		t.Errorf("of an agent that is killed: %v", err)
	}
	c.up(c.Agents)
	nothingLeft("the agent was killed")
	if err := meanwhile(t.Context(), func() {
		if err := c.inject(a, path); err != nil {
			t.Error(err)
		}
	}); err == nil || !strings.Contains(err.Error(), "this node goes on with a rollout (fetching), so the rehearsal is given up") {
		t.Errorf("beside a rollout: %v", err)
	}
	c.must("abort", "--yes", "--agent", a.Data, "--trust", c.trustDir())
	c.until(a, "the abort", func(s control.Status) bool { return s.Release.State == control.StateAborted })
	nothingLeft("a rollout began")
	c.speaks(a, 1, 1)
}
