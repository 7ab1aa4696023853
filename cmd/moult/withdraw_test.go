//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
)

// around writes the spec of a release that brings the software of version 2 as another
// version, and takes the nodes from one.
func (c *testCluster) around(v, from bundle.Version) string {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), 2)
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	text := strings.NewReplacer("version = 2", fmt.Sprintf("version = %d", v), "from = 1", fmt.Sprintf("from = %d", from)).Replace(string(data))
	path = filepath.Join(c.dir, fmt.Sprintf("around-%d.hcl", v))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// speaks calls a node at the address for callers of a version, in the words of the sample
// system's version 1 or 2.
func (c *testCluster) speaks(a *cluster.Agent, version, words int) {
	c.t.Helper()
	path := map[int]string{1: "/get?k=key-1", 2: "/v2/keys/key-1"}[words]
	data, err := answer(http.Get("http://" + a.Versioned(version) + path))
	var v struct {
		Value string `json:"value"`
	}
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil || v.Value != "value-1" {
		c.t.Errorf("%s, as a caller of version %d in the words of %d: %s, %v", a.Name, version, words, data, err)
	}
}

func heldNode(s control.Status) string {
	for _, n := range s.Nodes {
		if n.Phase == "held" {
			return n.Name
		}
	}
	return ""
}

// TestWithdraw: the transform of release 2 fails on the nodes' data. Whatever is done, all
// that follows builds on it, until it is withdrawn: then release 3 goes around it, and so
// do callers.
func TestWithdraw(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 3)
	first, third := c.Agents[0], c.Agents[2]
	c.up(c.Agents)
	c.formed(3)
	c.releaseAt(first, 1, spec{})
	c.settledAt(first, 1, 3)
	for _, a := range c.Agents {
		c.fill(a)
	}
	c.releaseAt(first, 2, spec{transform: `"no-such-command"`})
	s := c.until(first, "release 2 to be held", func(s control.Status) bool { return s.Release.State == control.StateHeld })
	if want := "`moult withdraw --class kv 2`"; !strings.Contains(s.Release.Reason, want) {
		t.Errorf("status says %q, without %s", s.Release.Reason, want)
	}
	once := heldNode(s)
	number := node(s, once).Number
	c.wayOut(first, once, "moult retry "+once)
	s = c.until(first, "a node to fail again", func(s control.Status) bool {
		held := heldNode(s)
		return s.Release.State == control.StateHeld && held != "" && (held != once || node(s, once).Number > number)
	})
	held := heldNode(s)
	c.must("abort", "--yes", "--agent", first.Data, "--trust", c.trustDir())
	c.until(first, "the abort", func(s control.Status) bool { return s.Release.State == control.StateAborted })

	// A node of which nothing is heard proves nothing.
	c.kill(third)
	code, _, errs := c.command(first, "withdraw", "--yes", "--trust", c.trustDir(), "--timeout", "2s", "--class", "kv", "2")
	if code != exitRefused || !strings.Contains(errs, "n3: it has not said yet") {
		t.Errorf("withdraw while n3 is not there: exit code %d, %s", code, errs)
	}
	c.up([]*cluster.Agent{third})
	c.until(first, "n3 to be back", func(s control.Status) bool { return node(s, "n3").Reachable })
	c.wayOut(first, held, "moult withdraw --class kv 2")
	for _, a := range c.Agents {
		c.until(a, "the withdrawal", func(s control.Status) bool {
			return strings.Contains(s.Release.Reason, "build release 3 with from = 1")
		})
		c.speaks(a, 1, 1)
		c.speaks(a, 2, 1) // a version that nobody has
	}
	if code, _, errs := c.command(first, "withdraw", "--yes", "--trust", c.trustDir(), "--class", "kv", "2"); code != exitRefused || !strings.Contains(errs, "build release 3 with from = 1") {
		t.Errorf("withdraw it again: exit code %d, %s", code, errs)
	}

	// The next release goes around it.
	if w := c.why(first, held); w.Command != "moult inject BUNDLE" || !strings.Contains(w.Reason, "from = 1") {
		t.Errorf("why %s says %q: %s", held, w.Command, w.Reason)
	}
	path := filepath.Join(c.dir, "around.moult")
	build := func(from bundle.Version) (int, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"moult", "bundle", "build", "--agent", first.Data, "--trust", c.trustDir(), "-f", c.around(3, from), "--out", path}, &out, &errs)
		return code, strings.Join(strings.Fields(errs.String()), " ")
	}
	if code, errs := build(2); code != exitFailed || !strings.Contains(errs, "What release 2 does to class kv is withdrawn") {
		t.Errorf("build on what is withdrawn: exit code %d, %s", code, errs)
	}
	if code, errs := build(1); code != exitDone {
		t.Fatalf("build around what is withdrawn: exit code %d, %s", code, errs)
	}
	if err := c.inject(first, path); err != nil {
		t.Fatal(err)
	}
	c.complete(first, 3, 3)
	for _, a := range c.Agents {
		c.until(a, "external version 3", func(s control.Status) bool { return s.Local.Native == 3 && cluster.Settled(s, 3) == 3 })
		c.speaks(a, 1, 1)
		c.speaks(a, 2, 1)
		c.speaks(a, 3, 2)
	}

	// It stays so after a restart.
	c.kill(third)
	c.up([]*cluster.Agent{third})
	c.complete(third, 3, 3)
	c.speaks(third, 2, 1)
	if code, _, errs := c.command(first, "withdraw", "--yes", "--trust", c.trustDir(), "--class", "kv", "3"); code != exitRefused || !strings.Contains(errs, "is there: it is, or was, at version 3") {
		t.Errorf("withdraw what nodes are at: exit code %d, %s", code, errs)
	}
}
