//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"moult/agent"
	"moult/agent/control"
	"moult/agent/process"
	"moult/cmd/moult/internal/cluster"
)

// TestAttachCrash kills the agent of a node that inherits its sockets, on its way
// to the next version and back. The next agent takes over whatever runs; who has
// come meanwhile waits for it, and is not given to software that is not admitted.
func TestAttachCrash(t *testing.T) {
	inCrash(t)
	t.Parallel()
	k := kind{"inherit", "proxy"}
	if err := k.possible(); err != nil {
		t.Skipf("not possible here: %v", err)
	}
	good := []string{"draining.saved", "draining.done", "starting.saved", "starting.done", "probing.saved", "probing.done", "settled.saved"}
	bad := []string{"rolling-back.saved", "rolling-back.done"}
	for _, point := range good {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			// Since the software runs, its sockets are there without the agent.
			runs := slices.Contains([]string{"starting.done", "probing.saved", "probing.done", "settled.saved"}, point)
			attachCrash(t, k, point, spec{}, runs, func(c *testCluster, a *cluster.Agent) {
				c.settledAt(a, 2, 1)
				c.check(a, 2)
			})
		})
	}
	for _, point := range bad {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			attachCrash(t, k, point, spec{health: `"/no-such-path"`}, false, func(c *testCluster, a *cluster.Agent) {
				c.until(a, "the node to be held", func(s control.Status) bool {
					return len(s.Nodes) == 1 && s.Nodes[0].Phase == "held" && s.Nodes[0].Version == 1
				})
			})
		})
	}
}

func attachCrash(t *testing.T, k kind, point string, release spec, runs bool, good func(*testCluster, *cluster.Agent)) {
	c := newCluster(t, 1)
	c.use(k, "")
	a := c.Agents[0]
	c.up(c.Agents)
	c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	c.releaseAt(a, 1, spec{})
	c.settledAt(a, 1, 1)
	c.fill(a)
	path := c.build(2, release)
	c.kill(a)
	c.check(a, 1) // without an agent
	c.up(c.Agents, "MOULT_FAILPOINT="+point)
	c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	if err := c.inject(a, path); err != nil && !c.dies(a) {
		t.Fatal(err)
	}
	if !c.dies(a) {
		t.Fatalf("the agent did not reach %s", point)
	}
	var before process.Handle
	var waiting net.Conn
	if runs {
		before = c.recorded(a)
		waiting = c.waits(a.Versioned(2), "/v2/keys/key-0")
		defer waiting.Close()
	}
	c.up(c.Agents)
	good(c, a)
	c.check(a, 1)
	s, err := a.API.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Alarms) > 0 {
		t.Errorf("alarms after recovery: %q", s.Alarms)
	}
	if !runs {
		return
	}
	if now := c.recorded(a); now != before {
		t.Errorf("the node is %v after the restart of its agent, was %v", now, before)
	}
	resp, err := http.ReadResponse(bufio.NewReader(waiting), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("who came while there was no agent got %s", resp.Status)
	}
}

// waits connects and asks, and leaves the answer to be read.
func (c *testCluster) waits(addr, path string) net.Conn {
	c.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // so that a failure is no hang
		c.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, addr); err != nil {
		c.t.Fatal(err)
	}
	return conn
}

// recorded is the software as its agent has noted it.
func (c *testCluster) recorded(a *cluster.Agent) process.Handle {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.Data, agent.ProcessFile))
	if err != nil {
		c.t.Fatal(err)
	}
	var record struct {
		Handle process.Handle `json:"handle"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		c.t.Fatal(err)
	}
	return record.Handle
}

// TestAttachAfterSoftwareDied kills the software of nodes that callers reach past
// the agent, and then its agent as well: each is started again, and the node can be
// upgraded.
func TestAttachAfterSoftwareDied(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	for _, k := range []kind{{"inherit", "proxy"}, {"steer", "proxy"}} {
		t.Run(k.attach, func(t *testing.T) {
			t.Parallel()
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			c := newCluster(t, 1)
			c.use(k, "")
			a := c.Agents[0]
			c.up(c.Agents)
			c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
			c.releaseAt(a, 1, spec{})
			c.settledAt(a, 1, 1)
			c.fill(a)
			for _, agentToo := range []bool{false, true} {
				if agentToo {
					c.kill(a)
				}
				before := c.recorded(a)
				if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if agentToo {
					c.up(c.Agents)
				}
				c.until(a, "the software to be started again", func(control.Status) bool {
					now := c.recorded(a)
					return now.PID != 0 && now != before
				})
				c.check(a, 1)
			}
			c.inUse(k)
			c.releaseAt(a, 2, spec{})
			c.settledAt(a, 2, 1)
			c.check(a, 2)
		})
	}
}
