//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/selfupdate"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
)

// What a build of the agent does that is no good. Such a build is this test's program with a
// word behind its end, by which it knows.
const (
	goodBuild   = "good"
	unreadable  = "unreadable"  // it does not read what there is
	crashes     = "crashes"     // it ends when it is on trial
	hangs       = "hangs"       // it never answers
	hangsLater  = "hangs later" // it answers, and then no more
	mute        = "mute"        // it has its socket open, and says nothing
	corrupts    = "corrupts"    // it leaves garbage in place of the database
	forgets     = "forgets"     // it begins the database, and the floor, anew
	crashesLate = "crashes late"
)

const buildMark = "\nMOULT-TEST-BUILD:"

// buildOf makes a build that does what kind says, of a digest that no other has.
func (c *testCluster) buildOf(kind string) string {
	c.t.Helper()
	data, err := os.ReadFile(c.exe)
	if err != nil {
		c.t.Fatal(err)
	}
	dir, err := os.MkdirTemp(c.dir, "build-")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "moult"), append(data, fmt.Sprint(buildMark, kind, " ", filepath.Base(dir))...), 0o755)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return filepath.Join(dir, "moult")
}

// badBuild is what TestMain does first where this program is such a build.
func badBuild() {
	f, err := os.Open("/proc/self/exe")
	if err != nil || len(os.Args) < 2 || os.Args[1] != "agent" {
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	tail := make([]byte, 100)
	if err == nil {
		_, err = f.ReadAt(tail, fi.Size()-int64(len(tail)))
	}
	_, kind, ok := strings.Cut(string(tail), buildMark)
	if err != nil || !ok {
		return
	}
	kind = kind[:strings.LastIndex(kind, " ")]
	checked := slices.Contains(os.Args, "--"+selfupdate.CheckFlag)
	trial := strings.HasPrefix(os.Getenv("MOULT_AGENT_BUILD"), "trial ")
	data := filepath.Dir(os.Args[slices.Index(os.Args, "--config")+1])
	switch {
	case kind == unreadable && checked:
		fmt.Fprintln(os.Stderr, "this build reads nothing")
		os.Exit(1)
	case checked:
	case kind == crashesLate && strings.HasPrefix(os.Getenv("MOULT_AGENT_BUILD"), "confirmed "):
		os.Exit(7)
	case !trial:
	case kind == crashes:
		os.Exit(7)
	case kind == hangs:
		select {}
	case kind == mute:
		socket := filepath.Join(data, control.SocketName)
		_ = os.Remove(socket)
		if _, err := net.Listen("unix", socket); err != nil {
			os.Exit(8)
		}
		select {}
	case kind == hangsLater:
		go func() {
			api := control.NewClient(data)
			for {
				if info, err := api.Info(context.Background()); err == nil && info.PID == os.Getpid() {
					_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				}
			}
		}()
	case kind == corrupts || kind == forgets:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := run(ctx, os.Args, os.Stdout, os.Stderr)
		stop()
		db := filepath.Join(data, "db")
		if kind == forgets {
			err = errors.Join(os.RemoveAll(db), os.Remove(filepath.Join(data, "floor.json")))
		} else {
			files, _ := filepath.Glob(filepath.Join(db, "*"))
			for _, f := range files {
				err = errors.Join(err, os.WriteFile(f, []byte(strings.Repeat("garbage ", 3000)), 0o600))
			}
		}
		if err != nil {
			code = 9
		}
		os.Exit(code)
	}
}

// replace has an agent replaced, and returns what came of it.
func (c *testCluster) replace(a *cluster.Agent, file string, deadline time.Duration) (code int, got replaced, stderr string) {
	c.t.Helper()
	var out, errs strings.Builder
	code = run(c.t.Context(), []string{"moult", "agent", "replace", "--agent", a.Data, "--deadline", deadline.String(), "-o", "json", file}, &out, &errs)
	if text := out.String(); text != "" {
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			c.t.Fatalf("%s: %v", text, err)
		}
	}
	return code, got, errs.String()
}

// handIn begins the trial of a build.
func (c *testCluster) handIn(a *cluster.Agent, file string) control.Replacing {
	c.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := a.API.Replace(c.t.Context(), f, time.Minute) // which closes it
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// agentOf is which build answers.
func (c *testCluster) agentOf(a *cluster.Agent) control.Info {
	c.t.Helper()
	info, err := a.API.Info(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return info
}

// replacing is a node whose agent is replaced.
func replacing(t *testing.T, n int) (*testCluster, *cluster.Agent, int) {
	c := newCluster(t, n)
	c.up(c.Agents)
	c.formed(n)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[0], 1, n)
	a := c.Agents[n-1]
	c.settledAt(a, 1, n)
	return c, a, c.nodePID(a)
}

// stays checks that a node has not been touched, and has its agent.
func (c *testCluster) stays(a *cluster.Agent, node int, before control.Info, what string) {
	c.t.Helper()
	c.until(a, what+": the agent again", func(s control.Status) bool { return len(s.Nodes) == len(c.Agents) })
	if pid := c.nodePID(a); pid != node {
		c.t.Errorf("%s: the node is process %d, was %d", what, pid, node)
	}
	now := c.agentOf(a)
	if now.ID != before.ID || now.PID != before.PID || now.Agent.Digest != before.Agent.Digest || now.Agent.OnTrial {
		c.t.Errorf("%s: the agent is %+v, was %+v", what, now.Agent, before.Agent)
	}
	if got := now.Agent.Failed; len(got) == 0 {
		c.t.Errorf("%s: nobody says that it failed", what)
	}
}

// TestReplaceAgent replaces an agent by a good build, puts bad ones back, and has the packaged
// program again.
func TestReplaceAgent(t *testing.T) {
	t.Parallel()
	c, a, node := replacing(t, 1)
	before := c.agentOf(a)
	code, got, errs := c.replace(a, c.buildOf(goodBuild), time.Minute)
	if code != exitDone || got.Outcome != "replaced" {
		t.Fatalf("a good build: exit code %d, %+v: %s", code, got, errs)
	}
	now := c.agentOf(a)
	if now.Agent.Digest != got.Digest || now.Agent.Packaged || now.Agent.OnTrial || now.PID != before.PID || now.ID != before.ID {
		t.Errorf("after a good build: %+v, before %+v", now, before)
	}
	if pid := c.nodePID(a); pid != node {
		t.Errorf("the node is process %d, was %d", pid, node)
	}
	for kind, want := range map[string]string{crashes: "it ended: exit status 7", corrupts: "not good", unreadable: "this build reads nothing"} {
		was := c.agentOf(a)
		number := c.until(a, "its record", func(s control.Status) bool { return len(s.Nodes) == 1 }).Nodes[0].Number
		code, got, errs := c.replace(a, c.buildOf(kind), time.Minute)
		if code != exitRefused || !strings.Contains(errs, want) {
			t.Errorf("%s: exit code %d, %+v: %s", kind, code, got, errs)
			continue
		}
		if kind == unreadable {
			if c.agentOf(a).PID != was.PID {
				t.Error("the agent has ended for a build that reads nothing")
			}
			continue
		}
		c.stays(a, node, was, kind)
		c.until(a, "its alarm, and a record not below the one before", func(s control.Status) bool {
			return len(s.Nodes) == 1 && s.Nodes[0].Number >= number && slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.Contains(text, "was put back as this node's agent") })
		})
	}
	// The confirmed build begins anew, and the packaged one takes over when asked.
	c.kill(a)
	c.up([]*cluster.Agent{a})
	c.until(a, "the agent again", func(s control.Status) bool { return len(s.Nodes) == 1 })
	if now := c.agentOf(a); now.Agent.Digest != got.Digest {
		t.Errorf("after its death the agent is %+v", now.Agent)
	}
	if code, got, errs := c.replace(a, c.exe, time.Minute); code != exitDone || got.Outcome != "replaced" || !c.agentOf(a).Agent.Packaged {
		t.Errorf("back to the packaged one: exit code %d, %+v: %s", code, got, errs)
	}
	if code, got, errs := c.replace(a, c.exe, time.Minute); code != exitDone || got.Outcome != "runs already" {
		t.Errorf("once more: exit code %d, %+v: %s", code, got, errs)
	}
	if pid := c.nodePID(a); pid != node {
		t.Errorf("the node is process %d, was %d", pid, node)
	}
	c.until(a, "no alarm", func(s control.Status) bool { return len(s.Alarms) == 0 })
	if code, _, errs := c.replace(a, a.ConfigPath(), time.Minute); code != exitMisuse || !strings.Contains(errs, "no program") {
		t.Errorf("no program: exit code %d: %s", code, errs)
	}
}

// TestReplaceAgentBad puts back whatever is no good, with peers.
func TestReplaceAgentBad(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c, a, node := replacing(t, 2)
	was := c.agentOf(a)
	for kind, want := range map[string]string{
		hangs: "was not well within", mute: "was not well within", hangsLater: "was not well within", forgets: "not good", corrupts: "not good", crashes: "exit status 7",
	} {
		code, got, errs := c.replace(a, c.buildOf(kind), 10*time.Second)
		if code != exitRefused || !strings.Contains(errs, want) {
			t.Errorf("%s: exit code %d, %+v: %s", kind, code, got, errs)
		}
		c.stays(a, node, was, kind)
	}
	// It is well, but does not come up any more once it is confirmed.
	c.handIn(a, c.buildOf(crashesLate))
	<-a.Ended
	for c.dead(a) {
		c.up([]*cluster.Agent{a})
	}
	c.stays(a, node, control.Info{ID: was.ID, PID: c.agentOf(a).PID, Agent: was.Agent}, crashesLate)
	c.releaseAt(c.Agents[0], 2, spec{})
	c.settledAt(a, 2, 2)
}

// dead waits until an agent has ended, or answers.
func (c *testCluster) dead(a *cluster.Agent) bool {
	c.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := a.API.Info(c.t.Context()); err == nil {
			return false
		}
		select {
		case <-a.Ended:
			return true
		case <-c.t.Context().Done():
			c.t.Fatal("the agent neither ends nor answers")
		case <-tick.C:
		}
	}
}

// TestReplaceAgentKilled kills parent or candidate at many points of a trial: after a fresh
// start there is an agent, it is the one of before or the new one, and the node was never stopped.
func TestReplaceAgentKilled(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c, a, node := replacing(t, 2)
	was := c.agentOf(a)
	next := c.buildOf(goodBuild)
	for victim, points := range map[string][]int{"parent": {0, 1, 2, 3, 4, 5, 6}, "candidate": {3, 4}} {
		for _, i := range points {
			what := fmt.Sprintf("%s killed after %d", victim, i)
			r := c.handIn(a, next)
			if r.Runs {
				break // it got through
			}
			c.strike(a, victim, i)
			for c.dead(a) {
				c.up([]*cluster.Agent{a})
			}
			c.until(a, what+": the agent, no more on trial", func(s control.Status) bool {
				info, err := a.API.Info(t.Context())
				return err == nil && !info.Agent.OnTrial && len(s.Nodes) == 2
			})
			if pid := c.nodePID(a); pid != node {
				t.Errorf("%s: the node is process %d, was %d", what, pid, node)
			}
			if now := c.agentOf(a); now.ID != was.ID || now.Agent.Digest != was.Agent.Digest && now.Agent.Digest != r.Digest {
				t.Errorf("%s: the agent is %+v", what, now.Agent)
			}
			if now := c.agentOf(a); now.Agent.Digest == r.Digest {
				if code, _, errs := c.replace(a, c.exe, time.Minute); code != exitDone {
					t.Fatalf("%s: back: exit code %d: %s", what, code, errs)
				}
			}
			for _, name := range []string{"before", "after"} {
				if _, err := os.Stat(filepath.Join(a.Data, selfupdate.FolderName, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %s is left", what, name)
				}
			}
		}
	}
	c.releaseAt(c.Agents[0], 2, spec{})
	c.settledAt(a, 2, 2)
}

// strike kills the parent of a trial, or the candidate, at the i-th point of it.
func (c *testCluster) strike(a *cluster.Agent, victim string, i int) {
	c.t.Helper()
	parent := a.PID()
	points := []func() bool{
		func() bool { return true }, // as soon as it is begun
		func() bool { return c.there(a, "before.new") || c.there(a, "before") },
		func() bool { return c.there(a, "before") },
		func() bool { return c.childOf(parent) != 0 },
		func() bool { info, err := a.API.Info(c.t.Context()); return err == nil && info.PID != parent },
		func() bool { return c.there(a, "after") },
		func() bool { info, err := a.API.Info(c.t.Context()); return err == nil && !info.Agent.Packaged },
	}
	for !points[i]() {
		if info, err := a.API.Info(c.t.Context()); err == nil && info.PID == parent && !info.Agent.Packaged {
			return // it is over
		}
	}
	pid := parent
	if victim == "candidate" {
		pid = c.childOf(parent)
	}
	if pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if victim == "parent" {
		<-a.Ended // so that what answers next is not what dies with it
	}
}

func (c *testCluster) there(a *cluster.Agent, name string) bool {
	_, err := os.Stat(filepath.Join(a.Data, selfupdate.FolderName, name))
	return err == nil
}

// childOf is the child of a process that is an agent on trial; 0 for none.
func (c *testCluster) childOf(parent int) int {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || len(fields) < 2 || fields[1] != strconv.Itoa(parent) || fields[0] == "Z" {
			continue
		}
		if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && strings.Contains(string(env), "MOULT_AGENT_BUILD=trial ") {
			return pid
		}
	}
	return 0
}

// TestReplaceAgentUnderLoad replaces an agent while clients call its node, past the agent and
// through it: no call fails.
func TestReplaceAgentUnderLoad(t *testing.T) {
	inMixed(t)
	eachDirect(t, []kind{{"inherit", "connect"}, {"steer", "connect"}, {"relay", "proxy"}}, func(t *testing.T, k kind) {
		c := newCluster(t, 2)
		c.use(k, "")
		c.up(c.Agents)
		c.formed(2)
		c.releaseAt(c.Agents[0], 1, spec{})
		c.settledAt(c.Agents[0], 1, 2)
		c.inUse(k)
		a := c.Agents[1]
		c.fill(a)
		node := c.nodePID(a)
		l := c.loads()
		defer l.stop()
		l.versioned(1)
		l.flow(50)
		good := c.buildOf(goodBuild)
		if code, got, errs := c.replace(a, good, time.Minute); code != exitDone || got.Outcome != "replaced" {
			t.Errorf("exit code %d, %+v: %s", code, got, errs)
		}
		l.flow(50)
		if code, _, errs := c.replace(a, c.buildOf(corrupts), time.Minute); code != exitRefused {
			t.Errorf("exit code %d: %s", code, errs)
		}
		l.flow(50)
		l.end(nil)
		if pid := c.nodePID(a); pid != node {
			t.Errorf("the node is process %d, was %d", pid, node)
		}
		c.releaseAt(c.Agents[0], 2, spec{})
		c.settledAt(c.Agents[0], bundle.Version(2), 2)
		c.check(a, 2)
	})
}
