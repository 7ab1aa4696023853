//go:build unix

package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
)

// agentBlock is what brings an agent in a release.
func agentBlock(program string, budget int, deadline string) string {
	return fmt.Sprintf("  agent {\n    artifact {\n      os   = %q\n      arch = %q\n      path = %q\n    }\n    max_unavailable = %d\n    healthy_deadline = %q\n  }\n}\n", runtime.GOOS, runtime.GOARCH, program, budget, deadline)
}

// withAgent builds the release of the sample system that brings an agent, too.
func (c *testCluster) withAgent(v bundle.Version, program string, budget int) string {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), v)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	end := strings.LastIndex(string(text), "}")
	return c.bundle(v, string(text[:end])+agentBlock(program, budget, "2m"))
}

// agentAlone builds a release that brings an agent and changes nothing else.
func (c *testCluster) agentAlone(v bundle.Version, program string, budget int, deadline string) string {
	c.t.Helper()
	return c.bundle(v, fmt.Sprintf("release {\n  version = %d\n", v)+agentBlock(program, budget, deadline))
}

func (c *testCluster) programOf(path string) bundle.Digest {
	c.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return bundle.Sum(data)
}

// agentsCluster is nodes at version 1 that callers reach past their agents.
func agentsCluster(t *testing.T, n int) *testCluster {
	t.Helper()
	c := newCluster(t, n)
	k := kind{"inherit", "proxy"}
	if err := k.possible(); err != nil {
		t.Skipf("not possible here: %v", err)
	}
	peers := regexp.MustCompile(`KV_PEERS = ".*"`)
	c.edit(func(_ *cluster.Agent, config string) string { return peers.ReplaceAllString(config, `KV_PEERS = ""`) })
	c.use(k, "")
	c.up(c.Agents)
	c.formed(n)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[0], 1, n)
	return c
}

// pids are the processes of agents, or of nodes.
func (c *testCluster) pids(of func(control.Info) int) (all []int) {
	c.t.Helper()
	for _, a := range c.Agents {
		all = append(all, of(c.agentOf(a)))
	}
	return all
}

// TestAgentsByRelease: nine agents upgrade their nodes by a release, and meanwhile replace
// themselves by the agent that it brings, once the operator says so, under load.
func TestAgentsByRelease(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := agentsCluster(t, 9)
	first := c.Agents[0]
	agents := c.pids(func(i control.Info) int { return i.PID })
	l := c.loads()
	t.Cleanup(l.stop)
	l.alone = true
	l.begin("clients of version 1", "load1", 1, func(a *cluster.Agent) string { return a.Versioned(1) })
	program := c.buildOf(goodBuild)
	path := c.withAgent(2, program, 3)
	if code, _, errs := c.command(first, "inject", "--trust", c.trustDir(), path); code != exitDone || !strings.Contains(errs, "inject --agents BUNDLE") {
		t.Fatalf("inject without --agents: exit code %d, %s", code, errs)
	}
	if s, err := first.API.Status(t.Context(), false); err != nil || s.Release.Agents != nil {
		t.Fatalf("agents are replaced without the operator's word: %+v, %v", s.Release.Agents, err)
	}
	if code, _, errs := c.command(first, "inject", "--agents", "--wait", "--trust", c.trustDir(), path); code != exitDone {
		t.Fatalf("inject: exit code %d, %s", code, errs)
	}
	for _, a := range c.Agents {
		s := c.until(a, "all agents to be replaced", func(s control.Status) bool {
			return s.Release.Agents != nil && s.Release.Agents.Done == 9 && s.Release.State == control.StateComplete
		})
		if got := s.Release.Agents.Words; !strings.HasPrefix(got, "agents: 9 of 9 are of release 2") || len(s.Alarms) > 0 {
			t.Errorf("%s says %q, %q", a.Name, got, s.Alarms)
		}
	}
	l.flow(50)
	l.end(authors(t))
	want := c.programOf(program)
	for _, a := range c.Agents {
		if info := c.agentOf(a); info.Agent.Digest != want || info.Agent.Release != 2 || info.Agent.OnTrial {
			t.Errorf("%s is %+v, want %s", a.Name, info.Agent, want)
		}
	}
	if now := c.pids(func(i control.Info) int { return i.PID }); !slices.Equal(now, agents) {
		t.Errorf("the agents' processes were %v, and are %v", agents, now)
	}
}

// TestBadAgentByRelease: an agent that crashes when it is tried, never answers, says nothing, or
// spoils what it was handed is tried on no more nodes than its release allows, which go on as
// before, with no call that fails; and the nodes' own rollout is not held up.
func TestBadAgentByRelease(t *testing.T) {
	inCluster(t)
	t.Parallel()
	const budget = 2
	c := agentsCluster(t, 5)
	first := c.Agents[0]
	before := c.agentOf(first).Agent.Digest
	if code, _, errs := c.command(first, "inject", "--agents", "--wait", "--trust", c.trustDir(), c.withAgent(2, c.buildOf(crashes), budget)); code != exitRefused || !strings.Contains(errs, "but not at the agents") {
		t.Fatalf("inject: exit code %d, %s", code, errs)
	}
	c.complete(first, 2, 5)
	nodes := c.pids(func(i control.Info) int { return i.NodePID })
	l := c.loads()
	t.Cleanup(l.stop)
	l.alone = true
	l.begin("clients of version 2", "load2", 2, func(a *cluster.Agent) string { return a.Versioned(2) })
	putBack := func() []string {
		t.Helper()
		s := c.until(first, "the bad agent to be put back wherever it is tried", func(s control.Status) bool {
			return s.Release.Agents != nil && len(s.Release.Agents.Failed) == budget
		})
		if got := s.Release.Agents; got.Done != 0 || !strings.Contains(got.Words, "no other is replaced meanwhile") {
			t.Errorf("%+v", got)
		}
		failed := s.Release.Agents.Failed
		for _, a := range c.Agents {
			info := c.agentOf(a)
			last := len(info.Agent.Failed) > 0 && info.Agent.Failed[len(info.Agent.Failed)-1].Release == s.Release.Version
			if info.Agent.Digest != before || last != slices.Contains(failed, a.Name) {
				t.Errorf("%s, where %v have failed: %+v", a.Name, failed, info.Agent)
			}
		}
		return failed
	}
	bad := putBack()
	// One more attempt, by the operator's word, ends as the first; then a mended one goes everywhere.
	if code, _, errs := c.command(first, "retry", "--trust", c.trustDir(), bad[0]); code != exitDone {
		t.Fatalf("retry: exit code %d, %s", code, errs)
	}
	c.until(first, "another attempt", func(control.Status) bool {
		i := slices.IndexFunc(c.Agents, func(a *cluster.Agent) bool { return a.Name == bad[0] })
		info, err := c.Agents[i].API.Info(t.Context())
		return err == nil && len(info.Agent.Failed) == 1 && info.Agent.Failed[0].Times == 2
	})
	v := bundle.Version(2)
	for _, kind := range []string{hangs, mute, corrupts} {
		v++
		if code, _, errs := c.command(first, "inject", "--agents", "--wait", "--trust", c.trustDir(), c.agentAlone(v, c.buildOf(kind), budget, "10s")); code != exitRefused {
			t.Fatalf("inject an agent that %s: exit code %d, %s", kind, code, errs)
		}
		putBack()
	}
	v++
	if code, _, errs := c.command(first, "inject", "--agents", "--wait", "--trust", c.trustDir(), c.agentAlone(v, c.buildOf(goodBuild), budget, "2m")); code != exitDone {
		t.Fatalf("inject: exit code %d, %s", code, errs)
	}
	l.flow(50)
	l.end(nil)
	if now := c.pids(func(i control.Info) int { return i.NodePID }); !slices.Equal(now, nodes) {
		t.Errorf("the nodes' processes were %v, and are %v", nodes, now)
	}
}
