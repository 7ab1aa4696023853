//go:build unix

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/gossip/view"
	"moult/store/bundle"
)

// factual builds and injects a release of the sample system whose nodes publish facts.
func (c *testCluster) factual(v bundle.Version, facts, conditions string) {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), v)
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	text := strings.Replace(string(data), "schedule {", facts+"\nschedule {\n"+conditions, 1)
	if err := c.inject(c.Agents[0], c.bundle(v, strings.Replace(text, `"20%"`, "3", 1))); err != nil {
		c.t.Fatal(err)
	}
}

// rate is a fact that a program of the release tells.
func rate(errors string) string {
	return fmt.Sprintf(`fact "errors" {
  exec    = ["/bin/sh", "-c", "test -d $MOULT_STATE && test -n \"$MOULT_SERVICE_API\" && echo %s"]
  every   = "200ms"
  step    = 0.001
}`, errors)
}

// TestFacts: a release whose errors rise is held when one node has it, though three may be
// down at once; and one that waits for a number of the nodes' own goes when it is there.
func TestFacts(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 3)
	first := c.Agents[0]
	c.up(c.Agents)
	c.formed(3)
	c.factual(1, rate("0.01"), "")
	c.settledAt(first, 1, 3)
	c.until(first, "all to publish their errors", func(s control.Status) bool {
		return !slices.ContainsFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Facts["errors"] != view.Fact{Value: 0.01} })
	})

	c.factual(2, rate("0.5"), `hold_if = "settled.errors.p50 > 2.0 * others.errors.p50 + 0.01"`)
	for _, command := range [][]string{{"plan"}, {"bundle", "inspect"}} {
		out := c.prints(append(command, "--root", filepath.Join(c.trustDir(), "root.json"), filepath.Join(c.dir, "release-2.moult"))...)
		for _, want := range []string{"settled.errors.p50 > 2.0 * others.errors.p50 + 0.01", "errors, every 200ms: /bin/sh -c "} {
			if !strings.Contains(out, want) {
				t.Errorf("%s says nothing of %q:\n%s", command, want, out)
			}
		}
	}
	s := c.until(first, "the rollout to be held", func(s control.Status) bool {
		return s.Release.Version == 2 && s.Release.State == control.StateHeld
	})
	const held = "the rollout of class kv is held, since settled.errors.p50 > 2.0 * others.errors.p50 + 0.01: others.errors.p50 is 0.01, settled.errors.p50 is 0.5"
	if s.Classes["kv"].Settled != 1 || !strings.HasPrefix(s.Release.Reason, held) {
		t.Errorf("%d have settled, and it is held: %s", s.Classes["kv"].Settled, s.Release.Reason)
	}
	if n := c.wentDown(); n != 1 {
		t.Errorf("nodes were down %d times for the bad release", n)
	}
	var last control.NodeStatus
	for _, n := range s.Nodes {
		if n.Version == 1 {
			last = n
			if w := c.why(first, n.Name); w.Code != schedule.CodeHoldIf || w.Reason != held {
				t.Errorf("why %s: %s: %s", n.Name, w.Code, w.Reason)
			}
		}
	}
	// The operator goes on all the same, node by node.
	c.wayOut(first, last.Name, "moult now --release 2 ")
	s = c.until(first, "it to go", func(s control.Status) bool { return node(s, last.Name).Version == 2 })
	for _, n := range s.Nodes {
		if n.Version == 1 && c.why(first, n.Name).Command != "" { // else its turn came before, and it goes
			c.wayOut(first, n.Name, "moult now --release 2 ")
		}
	}
	c.complete(first, 2, 3)

	// The number is asked of the software of release 2, which publishes none itself.
	height := `fact "height" {
  http    = "/v2/keys/height"
  pointer = "/revision"
  every   = "200ms"
}`
	c.factual(3, height, `when = "self.facts.height >= 2.0"`)
	s = c.until(first, "all to say that they do not know it", func(s control.Status) bool {
		waits := func(n control.NodeStatus) bool {
			return strings.HasPrefix(n.Reason, "it waits until self.facts.height >= 2.0: self.facts.height has no value (no answer: GET ")
		}
		return slices.ContainsFunc(s.Nodes, waits) && !slices.ContainsFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Facts["height"].State == "" })
	})
	for _, n := range s.Nodes {
		if n.Phase != "waiting" {
			t.Errorf("%s is %s", n.Name, n.Phase)
		}
	}
	for range 2 {
		for _, a := range c.Agents {
			c.write(a, "height")
		}
	}
	c.complete(first, 3, 3)
}

// prints is what a command writes to its standard output.
func (c *testCluster) prints(args ...string) string {
	c.t.Helper()
	var out, errs bytes.Buffer
	if code := run(c.t.Context(), append([]string{"moult"}, args...), &out, &errs); code != exitDone {
		c.t.Fatalf("moult %s: exit code %d\n%s", strings.Join(args, " "), code, errs.String())
	}
	return out.String()
}

// write makes a revision of a key, as a caller of version 2.
func (c *testCluster) write(a *cluster.Agent, key string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPut, "http://"+a.Versioned(2)+"/v2/keys/"+key, strings.NewReader(fmt.Sprintf(`{"value": %q, "content_type": "text/plain"}`, time.Now())))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := answer(http.DefaultClient.Do(req)); err != nil {
		c.t.Fatal(err)
	}
}
