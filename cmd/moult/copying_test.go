//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/gossip/view"
	"moult/store/bundle"
)

// TestLongCopy: where a copy of the state takes longer than callers are held, plan says so,
// and so does each node before it goes down.
func TestLongCopy(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 2)
	for _, a := range c.Agents {
		for i := range 20 {
			if err := os.WriteFile(filepath.Join(a.Data, "state", "1", fmt.Sprint(i)), make([]byte, 100), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	const words = "while the node is down it copies its state, about 20 files"
	release := func(v bundle.Version, hold string) string {
		both := "past {\n compatible = true\n}\nfuture {\n compatible = true\n}\n"
		text := fmt.Sprintf(smallSpec, v, fmt.Sprintf("from = %d", v-1), runtime.GOOS, runtime.GOARCH, both)
		return c.bundle(v, strings.Replace(text, `"rolling"`, `"manual"`+"\n      hold_timeout = "+hold, 1))
	}
	planned := func(path string) string {
		t.Helper()
		code, out, errs := c.command(c.Agents[0], "plan", "--trust", c.trustDir(), path)
		if code != exitDone {
			t.Fatalf("plan: exit code %d, %s", code, errs)
		}
		return out
	}
	short := release(2, `"1ms"`)
	if out := planned(short); !strings.Contains(out, "note: n1: "+words) {
		t.Errorf("plan says nothing of it:\n%s", out)
	}
	if err := c.inject(c.Agents[0], short); err != nil {
		t.Fatal(err)
	}
	c.until(c.Agents[1], "both nodes to wait, and this one to warn", func(s control.Status) bool {
		waits := func(n control.NodeStatus) bool { return n.Phase == string(view.Waiting) }
		return len(s.Nodes) == 2 && waits(s.Nodes[0]) && waits(s.Nodes[1]) &&
			slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.HasPrefix(text, words) })
	})
	for _, name := range []string{"n1", "n2"} {
		c.until(c.Agents[0], "why "+name+" to warn", func(control.Status) bool {
			w, err := c.Agents[0].API.Why(t.Context(), name)
			return err == nil && strings.Contains(w.Reason, words)
		})
	}
	c.onAgent(c.Agents[0], "start", "n1")
	c.onAgent(c.Agents[0], "start", "n2")
	c.settledAt(c.Agents[0], 2, 2)
	c.until(c.Agents[0], "the warning to be over", func(s control.Status) bool {
		return !slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.HasPrefix(text, words) })
	})
	if out := planned(release(3, `"30s"`)); strings.Contains(out, words) {
		t.Errorf("plan warns of a copy that takes no time:\n%s", out)
	}
}
