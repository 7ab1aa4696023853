//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"moult/agent/account/cgroup"
	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
)

// TestAdopted has software that ran before moult start under it, on its state,
// live through a restart of the agent, and be upgraded like any other.
func TestAdopted(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	c := newCluster(t, 1)
	a := c.Agents[0]
	old := filepath.Join(c.dir, "old-state")
	if err := os.Mkdir(old, 0o700); err != nil {
		t.Fatal(err)
	}
	c.adoptUnit(a, old)
	most := memoryBound(t, "512MiB")
	c.edit(func(_ *cluster.Agent, config string) string {
		return strings.Replace(config, "  class =", fmt.Sprintf("  %s\n  working_dir = %q\n  class =", most, c.dir), 1)
	})
	c.up(c.Agents)
	serves := func(s control.Status) bool { return len(s.Nodes) == 1 && s.Nodes[0].Version == 1 }
	c.until(a, "the adopted node", serves)
	c.fill(a)
	before, err := a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", before.NodePID)); runtime.GOOS == "linux" && dir != c.dir {
		t.Errorf("the software runs in %s, %v", dir, err)
	}
	group := groupOf(before.NodePID)
	if most != "" && !strings.Contains(group, "-software\n") {
		t.Errorf("the software is in no group: %s", group)
	}
	c.kill(a)
	c.up(c.Agents)
	c.until(a, "the adopted node again", serves)
	c.check(a, 1)
	after, err := a.API.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.NodePID == 0 || after.NodePID != before.NodePID {
		t.Errorf("the node is process %d after the restart of its agent, was %d", after.NodePID, before.NodePID)
	}
	if most != "" && groupOf(after.NodePID) != group {
		t.Errorf("its group was %s, is %s", group, groupOf(after.NodePID))
	}
	c.releaseAt(a, 1, spec{})
	c.releaseAt(a, 2, spec{})
	c.settledAt(a, 2, 1)
	c.check(a, 1)
	c.check(a, 2)
}

// adoptUnit is adopt, by what the command makes of a unit of systemd.
func (c *testCluster) adoptUnit(a *cluster.Agent, state string) {
	c.t.Helper()
	file, out := filepath.Join(c.dir, "kv.service"), filepath.Join(c.dir, "unit.hcl")
	text := fmt.Sprintf("[Unit]\nAfter=network.target\n[Service]\nEnvironment=WHERE=%s\nExecStart=%s %s 1 --state ${WHERE} --listen %s\n", state, c.software(), demo.SampleCommand, a.Public())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	var said strings.Builder
	code := run(c.t.Context(), []string{"moult", "adopt", "--unit-file", file, "--service", "api=" + a.Public(), "--state", state, "-o", out}, &said, &said)
	if code != exitDone || !strings.Contains(said.String(), "kv.service:2: After=network.target: say it in the agent's unit") {
		c.t.Fatalf("exit code %d: %s", code, said.String())
	}
	made, err := os.ReadFile(out)
	if err != nil {
		c.t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(made), "\n  adopt {")
	if !ok {
		c.t.Fatalf("it adopts nothing: %s", made)
	}
	config, err := os.ReadFile(a.ConfigPath())
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(a.ConfigPath(), []byte(strings.TrimSuffix(strings.TrimSpace(string(config)), "}")+"\n  adopt {"+block), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// groupOf is what the kernel tells of the control groups of a process.
func groupOf(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return string(text)
}

// memoryBound is the line that bounds programs' memory; "" where no group can hold it.
func memoryBound(t *testing.T, most string) string {
	t.Helper()
	g, err := cgroup.Open(fmt.Sprintf("moult-test-m%d", os.Getpid()), cgroup.Limits{MemoryMax: 1 << 30})
	if err != nil {
		t.Logf("skipped: bounds of memory: %v", err)
		return ""
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("memory_max = %q", most)
}

// TestAdoptedDies adopts software that cannot run: it is not taken for settled.
func TestAdoptedDies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	type death struct{ command, health, reason string }
	cases := map[string]death{
		"ends at once":       {`"/bin/sh", "-c", "exit 4",`, "restarting", "exit status 4"},
		"ends well":          {`"/bin/true",`, "restarting", "exit status 0"},
		"no such program":    {`"/no/such/program",`, "not ready", "/no/such/program does not exist"},
		"goes to background": {`"/bin/sh", "-c", "sleep 1000 & exit 0",`, "restarting", "exit status 0"},
	}
	most := memoryBound(t, "64MiB")
	if most != "" {
		cases["takes too much"] = death{`"/bin/sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=256M count=1",`, "restarting", "ended by the kernel: it took more than memory_max 64 MiB"}
	}
	for name, one := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 1)
			a := c.Agents[0]
			old := filepath.Join(c.dir, "old-state")
			if err := os.Mkdir(old, 0o700); err != nil {
				t.Fatal(err)
			}
			c.adopt(a, old)
			config, err := os.ReadFile(a.ConfigPath())
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(string(config), strconv.Quote(c.software())+",", one.command, 1)
			text = strings.Replace(text, "  class =", "  "+most+"\n  class =", 1)
			if err := os.WriteFile(a.ConfigPath(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c.up(c.Agents)
			s := c.until(a, "its health", func(s control.Status) bool { return len(s.Nodes) == 1 && s.Nodes[0].Health == one.health })
			if n := s.Classes["kv"]; n.Settled != 0 || n.Unwell != 1 {
				t.Errorf("counts %+v", n)
			}
			if len(s.Alarms) != 1 || !strings.Contains(s.Alarms[0], one.reason) || !strings.Contains(s.Nodes[0].Reason, one.reason) {
				t.Errorf("alarms %q, reason %q; want %q", s.Alarms, s.Nodes[0].Reason, one.reason)
			}
			if _, out, _ := c.command(a, "why", a.Name); !strings.Contains(out, one.reason) {
				t.Errorf("why: %s", out)
			}
		})
	}
}
