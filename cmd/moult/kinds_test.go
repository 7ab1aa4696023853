//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"moult/agent/config"
	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
)

// kind is how callers reach a node (attach) and how its own calls find their
// peers (egress), in the words of agent.hcl.
type kind struct{ attach, egress string }

func (k kind) String() string { return k.attach + "+" + k.egress }

// portable is the kind that works everywhere.
var portable = kind{"relay", "proxy"}

// eachKind runs f as a subtest for every kind, some beside each other. What this moult's agent.hcl does not take
// is skipped with the reason that it gives.
func eachKind(t *testing.T, f func(t *testing.T, k kind)) {
	var kinds []kind
	for _, way := range []string{"relay", "inherit", "steer"} {
		for _, egress := range []string{"proxy", "connect", "resolve"} {
			kinds = append(kinds, kind{way, egress})
		}
	}
	for _, k := range append(kinds, kind{"auto", "auto"}) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			f(t, k)
		})
	}
}

// eachDirect runs f as a subtest for kinds by which calls go past the agent.
func eachDirect(t *testing.T, kinds []kind, f func(t *testing.T, k kind)) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.attach, func(t *testing.T) {
			t.Parallel()
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			f(t, k)
		})
	}
}

// possible reports why this kind cannot work on this machine, for this user.
func (k kind) possible() error {
	var errs []error
	switch k.attach {
	case "inherit":
		errs = append(errs, attach.Probe(attach.KindInherit))
	case "steer":
		errs = append(errs, attach.Probe(attach.KindSteer), attach.Probe(attach.KindTake))
	}
	if k.attach == "steer" || k.egress == "connect" {
		_, err := attach.FindBPFFS()
		errs = append(errs, err)
	}
	if k.egress == "connect" {
		errs = append(errs, connect.Probe(connect.Options{Name: "probe"}))
	}
	return errors.Join(errs...)
}

// edit changes the configuration of every agent that has not been started. A
// kind that agent.hcl does not take ends the test as skipped, with its reason.
func (c *testCluster) edit(change func(a *cluster.Agent, config string) string) {
	c.t.Helper()
	for _, a := range c.Agents {
		data, err := os.ReadFile(a.ConfigPath())
		if err != nil {
			c.t.Fatal(err)
		}
		if err := a.Configure(change(a, string(data))); err != nil {
			c.t.Fatal(err)
		}
	}
}

// ways are the lines that say what use says.
var ways = regexp.MustCompile(`(?m)^ +(attach|egress) += .*\n`)

// use gives every service of every agent a kind.
func (c *testCluster) use(k kind, more string) {
	c.t.Helper()
	c.edit(func(_ *cluster.Agent, config string) string {
		if k.egress == "resolve" {
			config = strings.Replace(config, "env = {", `env = { KV_RESOLVE = "1", `, 1)
		}
		config = ways.ReplaceAllString(config, "")
		set := fmt.Sprintf("    attach = %q\n    egress = %q\n%s    versions =", k.attach, k.egress, more)
		return strings.ReplaceAll(config, "    versions =", set)
	})
	cfg, err := config.Load(c.Agents[0].ConfigPath())
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		c.t.Skipf("this moult does not take attach = %q with egress = %q: %v", k.attach, k.egress, err)
	}
}

// inUse checks that every node says that it is reached, and calls, as k asks.
func (c *testCluster) inUse(k kind) {
	c.t.Helper()
	s := c.until(c.Agents[0], "the nodes' services", func(s control.Status) bool {
		return !slices.ContainsFunc(s.Nodes, func(n control.NodeStatus) bool { return len(n.Services) == 0 })
	})
	for _, n := range s.Nodes {
		for name, service := range n.Services {
			c.t.Logf("%s: service %s: attach %s, egress %s", n.Name, name, service.Attach, service.Egress)
			if k.attach != "auto" && !strings.HasPrefix(service.Attach, k.attach) || k.egress != "auto" && !strings.HasPrefix(service.Egress, k.egress) {
				c.t.Errorf("%s: service %s has attach %q and egress %q, want %s", n.Name, name, service.Attach, service.Egress, k)
			}
		}
	}
}
