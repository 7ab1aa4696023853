package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/account/sandbox"
	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// wallSpec is a release whose every program tries to get over the wall.
const wallSpec = `release {
  version = %d
  class "kv" {
    %s
    artifact {
      os   = "linux"
      arch = %q
      path = "wall"
    }
    command = ["./wall", "serve", "${state}", "${service.api}", "software %d"]
    service "api" {
      protocol = "http"
    }
    health {
      exec             = ["./wall", "check", "${state}"]
      interval         = "100ms"
      min_healthy_time = "300ms"
      drain_timeout    = "1s"
    }
    %s
  }
}
`

// wallCluster is one node whose programs run as user, "" being the agent's own; the agent
// begins as setpriv(1) is told, or else as this test.
func wallCluster(t *testing.T, k kind, user string, setpriv ...string) *testCluster {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as another user")
	}
	c := newCluster(t, 1)
	if err := os.Chmod(c.dir, 0o711); err != nil { // the folders above the data folder let that user through
		t.Fatal(err)
	}
	kit.Program(t, filepath.Join(c.dir, "wall"), "testdata/wall/cmd/wall")
	gain := filepath.Join(c.dir, "gain")
	kit.Program(t, gain, "testdata/wall/cmd/wall")
	if err := os.Chmod(gain, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	pid := c.agentFile()
	c.use(k, "")
	c.edit(func(_ *cluster.Agent, config string) string {
		config = strings.Replace(config, "  class =", fmt.Sprintf("  readable = [%q, %q]\n  umask = \"027\"\n  oom_score = 321\n  rlimits {\n    nofile = 4321\n  }\n  class =", pid, gain), 1)
		if user != "" {
			config = strings.Replace(config, "  class =", fmt.Sprintf("  user  = %q\n  class =", user), 1)
		}
		return strings.Replace(config, "env = {", fmt.Sprintf("env = { WALL_GAIN = %q, WALL_AGENT = %q, ", gain, pid), 1)
	})
	if len(setpriv) > 0 {
		c.as(setpriv)
	}
	if slices.Contains(setpriv, "--reuid=65534") {
		c.give(65534)
	}
	c.up(c.Agents)
	c.until(c.Agents[0], "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	c.name(c.agentPID())
	return c
}

// as has the agents begin by way of setpriv. The test's own program lies where others cannot get.
func (c *testCluster) as(setpriv []string) {
	c.t.Helper()
	tool, err := exec.LookPath("setpriv")
	if err != nil {
		c.t.Skip("skipped: there is no setpriv (util-linux) here")
	}
	moult, err := os.ReadFile(c.exe)
	if err != nil {
		c.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s %s %s \"$@\"\n", tool, strings.Join(setpriv, " "), filepath.Join(c.dir, "moult"))
	c.exe = filepath.Join(c.dir, "as")
	if err := errors.Join(os.WriteFile(filepath.Join(c.dir, "moult"), moult, 0o755), os.WriteFile(c.exe, []byte(script), 0o755)); err != nil {
		c.t.Fatal(err)
	}
}

// give makes the agents' files those of a user without rights, but for the operator's keys.
func (c *testCluster) give(uid int) {
	c.t.Helper()
	for _, top := range []string{filepath.Join(c.dir, "trust", "gossip.key"), filepath.Join(c.dir, "trust", "root.json"), filepath.Dir(c.Agents[0].ConfigPath())} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Lchown(path, uid, uid)) })
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if err := errors.Join(os.Lchown(c.dir, uid, uid), os.Chmod(filepath.Join(c.dir, "trust"), 0o711)); err != nil {
		c.t.Fatal(err)
	}
}

// agentFile names the agent to what tries to get at it.
func (c *testCluster) agentFile() string { return filepath.Join(c.dir, "agent.pid") }

func (c *testCluster) name(pid int) {
	c.t.Helper()
	if err := os.WriteFile(c.agentFile(), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// agentPID is the process of the only agent.
func (c *testCluster) agentPID() int {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Agents[0].Data, "lock"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

func (c *testCluster) wallRelease(v bundle.Version, spoil ...string) {
	c.t.Helper()
	if err := c.inject(c.Agents[0], c.wallBundle(v, spoil...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) wallBundle(v bundle.Version, spoil ...string) string {
	c.t.Helper()
	from, more := "", ""
	if v > 1 {
		from = fmt.Sprintf("from = %d", v-1)
		more = `transform {
      exec = ["./wall", "migrate"]
    }
    past {
      exec = ["./wall", "object"]
    }
    future {
      exec = ["./wall", "object"]
    }
    schedule {
      strategy = "manual"
    }`
	}
	text := strings.NewReplacer(spoil...).Replace(fmt.Sprintf(wallSpec, v, from, runtime.GOARCH, v, more))
	return c.bundle(v, text)
}

// TestUserRehearses: a bundle is rehearsed by the node's user, who can get at it and what comes
// of it; and it is said that there was nothing of a future object.
func TestUserRehearses(t *testing.T) {
	inMixed(t)
	t.Parallel()
	c := wallCluster(t, kind{"relay", "proxy"}, "nobody")
	a := c.Agents[0]
	c.wallRelease(1)
	c.settledAt(a, 1, 1)
	path := c.wallBundle(2, `exec = ["./wall", "migrate"]`, `exec = ["/bin/sh", "-c", "cp -r $MOULT_OLD/. $MOULT_NEW"]`)
	code, out, errs := c.command(a, "rehearse", path)
	if code != exitDone || !strings.Contains(out, "\n  health ") || !strings.Contains(out, ", but the transform had no state of the future object of release 2, which has not run here") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// futureRan waits until the future object of release v has tried everything.
func (c *testCluster) futureRan(v bundle.Version) {
	c.t.Helper()
	a := c.Agents[0]
	c.until(a, "the future object to have run", func(control.Status) bool {
		_, err := os.Stat(filepath.Join(a.Data, "objects", fmt.Sprint(v), "future", "report-object"))
		return err == nil
	})
}

func (c *testCluster) get(addr string) string {
	c.t.Helper()
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(body)
}

// reports are what each part of the releases has found, at the end.
func (c *testCluster) reports() map[string]string {
	c.t.Helper()
	all := map[string]string{}
	data := c.Agents[0].Data
	for _, pattern := range []string{"state/2/report-*", "objects/2/*/report-*"} {
		paths, _ := filepath.Glob(filepath.Join(data, pattern))
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				c.t.Fatal(err)
			}
			name, _ := filepath.Rel(data, path)
			all[name] = string(text)
		}
	}
	return all
}

// throughWall takes the node from version 1 to 2, with callers of both.
func (c *testCluster) throughWall(k kind) {
	c.t.Helper()
	a := c.Agents[0]
	c.wallRelease(1)
	c.settledAt(a, 1, 1)
	c.inUse(k)
	if got := c.get(a.Versioned(1)); got != "software 1" {
		c.t.Errorf("version 1 answers %q", got)
	}
	c.wallRelease(2)
	c.futureRan(2)
	c.upgrade(a, 2)
	for addr, want := range map[string]string{a.Versioned(2): "software 2", a.Versioned(1): "object"} {
		if got := c.get(addr); got != want {
			c.t.Errorf("at version 2 callers of %s get %q, want %q", addr, got, want)
		}
	}
	pid := c.nodePID(a)
	c.name(os.Getpid()) // whoever tries while there is no agent finds a process of root's, too
	c.kill(a)
	c.up(c.Agents)
	if now := c.nodePID(a); now != pid {
		c.t.Errorf("after its agent's death the node is process %d, was %d", now, pid)
	}
}

// bounded checks that every part was held to what agent.hcl says.
func (c *testCluster) bounded() {
	c.t.Helper()
	for name, text := range c.reports() {
		if !strings.Contains(text, "\nnofile 4321 umask 027 oom_score 321 <nil>\n") {
			c.t.Errorf("%s: the bounds are others:\n%s", name, text)
		}
	}
}

// TestUser takes a node whose programs run as another user over an upgrade. Its software,
// its check, its transform and its objects can do nothing outside their folders, read no
// key, command no agent and gain no rights.
func TestUser(t *testing.T) {
	inMixed(t)
	t.Parallel()
	for _, way := range []string{"relay", "inherit", "steer"} {
		t.Run(way, func(t *testing.T) {
			k := kind{way, "proxy"}
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			c := wallCluster(t, k, "nobody")
			c.throughWall(k)
			c.closed()
			c.bounded()
			c.held()
		})
	}
}

// held checks that nothing that was tried could be done.
func (c *testCluster) held() {
	c.t.Helper()
	reports := c.reports()
	if len(reports) < 5 { // software, check, transform, past and future object
		c.t.Fatalf("reports: %q", reports)
	}
	for name, text := range reports {
		if n := strings.Count(text, ": refused"); n < 25 {
			c.t.Errorf("%s: %d attempts refused:\n%s", name, n, text)
		}
		for line := range strings.Lines(text) {
			refused := strings.Contains(line, "permission denied") || strings.Contains(line, "operation not permitted") || strings.Contains(line, "it runs as 65534")
			if strings.Contains(line, ": done") || strings.Contains(line, ": refused") && !refused {
				c.t.Errorf("%s: %s", name, line)
			}
		}
		if !strings.Contains(text, "\nUSER=nobody\nLOGNAME=nobody\nMOULT_SOCKET=\n") {
			c.t.Errorf("%s: the environment names another user:\n%s", name, text)
		}
	}
}

// TestUserReplaced replaces the agent of a node whose programs run as another user: they begin
// by way of the agent's program, which lies in the data folder from then on.
func TestUserReplaced(t *testing.T) {
	inMixed(t)
	t.Parallel()
	c := wallCluster(t, portable, "nobody")
	a := c.Agents[0]
	c.wallRelease(1)
	c.settledAt(a, 1, 1)
	if code, got, errs := c.replace(a, c.buildOf(goodBuild), time.Minute); code != exitDone {
		t.Fatalf("%+v\n%s", got, errs)
	}
	c.wallRelease(2)
	c.futureRan(2)
	c.upgrade(a, 2)
	c.held()
}

// TestUserLater gives a node a user whose software has run as root, with state that only
// root can read: the next version has it, and so has the one that it goes back to.
func TestUserLater(t *testing.T) {
	inMixed(t)
	c := wallCluster(t, portable, "")
	a := c.Agents[0]
	c.wallRelease(1)
	c.settledAt(a, 1, 1)
	before := c.recorded(a)
	secret := filepath.Join(a.Data, "state", "1", "kept")
	if err := os.WriteFile(secret, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.kill(a)
	c.edit(func(_ *cluster.Agent, config string) string {
		return strings.Replace(config, "  class =", "  user  = \"nobody\"\n  class =", 1)
	})
	c.up(c.Agents)
	c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	if now := c.recorded(a); now != before {
		t.Errorf("the software is process %d, was %d: nothing was wrong with it", now.PID, before.PID)
	}
	c.wallRelease(2, `["./wall", "check"`, `["./wall", "no such check"`, "health {", "health {\n healthy_deadline = \"1s\"")
	c.futureRan(2)
	if code, _, errs := c.command(a, "start", "--trust", c.trustDir(), a.Name); code != exitDone {
		t.Fatalf("start: exit code %d, %s", code, errs)
	}
	c.until(a, "the node to be held", func(s control.Status) bool { return node(s, a.Name).Phase == "held" })
	if info, err := os.Stat(secret); err != nil || info.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("the state of version 1 is not the user's: %+v, %v", info.Sys(), err)
	}
	for _, way := range []string{a.Versioned(1), a.Public()} {
		if got := c.get(way); got != "software 1" {
			t.Errorf("the version that it went back to answers %q", got)
		}
	}
	c.wallRelease(3)
	c.futureRan(3)
	c.upgrade(a, 3)
	if got, err := os.ReadFile(filepath.Join(a.Data, "state", "3", "kept")); string(got) != "kept" {
		t.Errorf("the state after it: %q, %v", got, err)
	}
}

// closed checks that nothing of the agent's own lets others in, whatever its name. The
// software's state and objects are its own, and its program is no secret.
func (c *testCluster) closed() {
	c.t.Helper()
	entries, err := os.ReadDir(c.Agents[0].Data)
	if err != nil || len(entries) < 8 {
		c.t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			c.t.Fatal(err)
		}
		mode := info.Mode().Perm()
		switch e.Name() {
		case "state", "objects": // to pass through
			if mode&0o026 != 0 {
				c.t.Errorf("%s: %v", e.Name(), mode)
			}
		case "artifacts":
			if mode&0o022 != 0 {
				c.t.Errorf("%s: %v", e.Name(), mode)
			}
		default:
			if mode&0o007 != 0 {
				c.t.Errorf("%s lets everybody in: %v", e.Name(), mode)
			}
		}
	}
}

// TestUserSandbox: without a user its transform and its objects can do as little, though they
// are root; and the software and its check, which nothing holds, can do all of it, so what is
// found refused is refused by the wall.
func TestUserSandbox(t *testing.T) {
	inMixed(t)
	t.Parallel()
	if lacks := sandbox.Lacks(); lacks != "" {
		t.Skip("skipped: ", lacks)
	}
	c := wallCluster(t, portable, "")
	c.throughWall(portable)
	// Root already, with a few capabilities for files.
	c.sandboxed(nil, "become root by a set-user-ID program", "become root", "have capabilities")
}

// sandboxed checks that what works in a sandbox can do nothing but what it is already, and
// that the software and its check can do all of it but what is beyond them.
func (c *testCluster) sandboxed(beyond []string, already ...string) {
	c.t.Helper()
	c.bounded()
	reports := c.reports()
	if len(reports) < 5 {
		c.t.Fatalf("reports: %q", reports)
	}
	for name, text := range reports {
		part := strings.TrimPrefix(filepath.Base(name), "report-")
		held := part != "software" && part != "check"
		for line := range strings.Lines(text) {
			what, outcome, tried := strings.Cut(strings.TrimSpace(line), ": ")
			refused := strings.Contains(outcome, "permission denied") || strings.Contains(outcome, "operation not permitted") || strings.Contains(outcome, "it runs as")
			if strings.Contains(what, "the agent") && !held && len(beyond) > 0 {
				continue // once it has been killed, its number names a process of root's
			}
			want := held && !slices.Contains(already, what) || !held && slices.Contains(beyond, what)
			if tried && (want && !refused || !want && outcome != "done") {
				c.t.Errorf("%s: %s", name, line)
			}
		}
	}
}

// TestUserWithoutRights: an agent that is not root and has no capability takes its node over
// an upgrade by relay and proxy, with a sandbox all the same.
func TestUserWithoutRights(t *testing.T) {
	inMixed(t)
	t.Parallel()
	if lacks := sandbox.Lacks(); lacks != "" {
		t.Skip("skipped: ", lacks)
	}
	c := wallCluster(t, portable, "", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
	c.throughWall(portable)
	// The software has the agent's rights, which are few.
	c.sandboxed([]string{"read ../trust/keys/operator.pem", "mount", "become root"})
}

// TestUserWithRightsOfUnit: the capabilities that the unit's drop-in names are enough for steer,
// connect and a user of the node's programs.
func TestUserWithRightsOfUnit(t *testing.T) {
	inMixed(t)
	t.Parallel()
	k := kind{"steer", "connect"}
	if err := k.possible(); err != nil {
		t.Skipf("skipped: not possible here: %v", err)
	}
	conf, err := os.ReadFile(filepath.Join("packaging", "kernel.conf"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(conf), "\nCapabilityBoundingSet=")
	line, _, _ := strings.Cut(rest, "\n")
	set := "-all"
	for _, name := range strings.Fields(line) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	if !found || strings.Count(set, "+") < 10 {
		t.Fatalf("the drop-in names the capabilities %q", line)
	}
	c := wallCluster(t, k, "nobody", "--bounding-set="+set)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.agentPID()))
	if err != nil || strings.Contains(string(status), "CapBnd:\t000001ffffffffff") {
		t.Fatalf("the agent has all capabilities: %v", err)
	}
	c.throughWall(k)
	c.held()
}
