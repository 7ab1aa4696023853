//go:build unix

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
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

// What `go test` leaves to make targets, which .ci/run runs, too. There it shows each thing
// once: an upgrade under load (TestDemo), adoption, an agent's death, each kind of attach,
// and by TestScripts what users type.
var (
	allKinds = flag.Bool("mixed", false, "test mixed versions of all samples, with every kind of attach and egress")
	clusters = flag.Bool("cluster", false, "run what needs clusters of its own for long")
)

func inMixed(t *testing.T)   { t.Helper(); leftTo(t, "mixed", *allKinds) }
func inCluster(t *testing.T) { t.Helper(); leftTo(t, "cluster", *clusters) }
func inCrash(t *testing.T)   { t.Helper(); leftTo(t, "crash", *everyPoint) }

func leftTo(t *testing.T, target string, here bool) {
	t.Helper()
	if !here {
		t.Skipf("make %s runs it", target)
	}
}

// kind is how callers reach a node (attach) and how its own calls find their
// peers (egress), in the words of agent.hcl.
type kind struct{ attach, egress string }

func (k kind) String() string { return k.attach + "+" + k.egress }

// portable is the kind that works everywhere.
var portable = kind{"relay", "proxy"}

// eachKind runs f as a subtest for every kind. What this moult's agent.hcl does not take
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

// leaves is a test that leaves itself to a make target.
var leaves = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) \{\n\tin(Mixed|Cluster|Crash)\(t\)`)

// notRun returns the tests of source that no target of makefile runs.
func notRun(source, makefile string) (tests []string) {
	for _, m := range leaves.FindAllStringSubmatch(source, -1) {
		target := strings.ToLower(m[2])
		_, rule, _ := strings.Cut(makefile, "\n"+target+":\n")
		rule, _, _ = strings.Cut(rule, "\n\n")
		run := regexp.MustCompile(`-run '([^']*)' -` + target + " ").FindStringSubmatch(rule)
		if run == nil || !regexp.MustCompile(strings.ReplaceAll(run[1], "$$", "$")).MatchString(m[1]) {
			tests = append(tests, m[1])
		}
	}
	return tests
}

// TestLeftToMake: what a test leaves to a make target runs there.
func TestLeftToMake(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(source)
	}
	if n, calls := len(leaves.FindAllString(all.String(), -1)), len(regexp.MustCompile(`(?m)^\tin(Mixed|Cluster|Crash)\(t\)$`).FindAllString(all.String(), -1)); n == 0 || n != calls {
		t.Errorf("%d tests begin with what leaves them to make, and %d say it", n, calls)
	}
	if tests := notRun(all.String(), string(makefile)); len(tests) > 0 {
		t.Errorf("no make target runs %q", tests)
	}
	if tests := notRun("func TestForgotten(t *testing.T) {\n\tinCluster(t)\n", string(makefile)); len(tests) != 1 {
		t.Error("a test that no target runs is not seen")
	}
}
