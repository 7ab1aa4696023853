//go:build unix

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
	"moult/testdata/kv/kvload"
)

// reversible injects release 2 of the sample system with a way back.
func (c *testCluster) reversible() {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), 2)
	if err == nil {
		err = demo.Reversible(path)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.inject(c.Agents[0], c.bundle(2, string(text))); err != nil {
		c.t.Fatal(err)
	}
}

// turned waits until all agents see that all nodes have taken release 2 back, or are at it
// again.
func (c *testCluster) turned(turn int, at bundle.Version) {
	c.t.Helper()
	c.turnedTo(turn, func(n control.NodeStatus) bool { return n.Version == at && n.Running == at })
}

func (c *testCluster) turnedTo(turn int, there func(control.NodeStatus) bool) {
	c.t.Helper()
	for _, a := range c.Agents {
		c.until(a, fmt.Sprintf("turn %d to be complete", turn), func(s control.Status) bool {
			for _, n := range s.Nodes {
				if !there(n) || n.Phase != "current" {
					return false
				}
			}
			return s.Release.Turn == turn && s.Release.State == control.StateComplete && len(s.Nodes) == len(c.Agents)
		})
	}
}

func (c *testCluster) client(a *cluster.Agent, version int) *kvload.Client {
	c.t.Helper()
	client, err := kvload.NewClient(version, "http://"+a.Versioned(version), http.DefaultClient)
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// TestRevert takes a release back that five nodes have settled at, and goes forward to it again,
// while clients of both versions call: no call fails, nothing that was acknowledged is lost, and
// what version 1 cannot hold is there again at the end.
func TestRevert(t *testing.T) {
	inMixed(t)
	t.Parallel()
	c := newCluster(t, 5)
	first := c.Agents[0]
	c.up(c.Agents)
	c.formed(5)
	c.releaseAt(first, 1, spec{})
	c.settledAt(first, 1, 5)
	for _, a := range c.Agents {
		c.fill(a)
	}
	l := c.loads()
	l.back = true
	l.versioned(1)
	l.flow(30)
	c.reversible()
	l.versioned(2)
	c.complete(first, 2, 5)
	l.flow(100)

	// Of each node: what version 1 can hold, what it cannot, and what is written there.
	put := func(a *cluster.Agent, version int, key string, v kvload.Value) int64 {
		revision, err := c.client(a, version).Put(t.Context(), key, v, nil)
		if err != nil {
			t.Errorf("%s: put %s as version %d: %v", a.Name, key, version, err)
		}
		return revision
	}
	has := func(a *cluster.Agent, version int, key string, want kvload.Value) {
		got, err := c.client(a, version).Get(t.Context(), key)
		if err != nil || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) || want.Revision != 0 && got.Revision != want.Revision {
			t.Errorf("%s: get %s as version %d: %q of %s at revision %d, %v", a.Name, key, version, got.Data, got.Type, got.Revision, err)
		}
	}
	text := func(s string, revision int64) kvload.Value {
		return kvload.Value{Data: []byte(s), Type: "text/plain", Revision: revision}
	}
	for _, a := range c.Agents {
		for range 3 {
			put(a, 2, "written-at-2", text("by version 2", 0))
			put(a, 2, "written-at-both", text("by version 2", 0))
		}
		put(a, 2, "bytes", binary)
	}
	c.must("revert", "--yes", "--wait", "--agent", first.Data, "--trust", c.trustDir())
	c.turned(1, 1)
	l.flow(100)
	for _, a := range c.Agents {
		has(a, 1, "written-at-2", text("by version 2", 0))
		c.check(a, 1)
		put(a, 1, "written-at-both", text("by version 1", 0))
	}
	c.must("revert", "--yes", "--undo", "--wait", "--agent", first.Data, "--trust", c.trustDir())
	c.turned(2, 2)
	l.flow(100)
	for _, a := range c.Agents {
		has(a, 2, "written-at-2", text("by version 2", 3))
		has(a, 2, "written-at-both", text("by version 1", 4))
		has(a, 2, "bytes", kvload.Value{Data: binary.Data, Type: binary.Type, Revision: 1})
		c.check(a, 1)
	}
	l.end(authors(t))

	// Back once more; and the next release takes all of it on from there.
	c.must("revert", "--yes", "--wait", "--agent", first.Data, "--trust", c.trustDir())
	c.turned(3, 1)
	c.releaseAt(first, 3, spec{})
	c.complete(first, 3, 5)
	for _, a := range c.Agents {
		has(a, 3, "written-at-both", text("by version 1", 4))
		has(a, 3, "bytes", kvload.Value{Data: binary.Data, Type: binary.Type, Revision: 1})
		c.check(a, 1)
	}
	if n := cluster.MostAtOnce(c.downs()); n != 1 {
		t.Errorf("%d nodes were down at once, and the budget is 1", n)
	}
}
