//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/testdata/kit"
	"moult/testdata/line"
	"moult/testdata/line/line1"
	"moult/testdata/line/line2"
	"moult/testdata/line/lineload"
)

// lineCluster configures n agents for the sample that speaks a protocol of its own
// over TCP, and builds its software.
func lineCluster(t *testing.T, n int, k kind) *testCluster {
	t.Helper()
	c := newCluster(t, n)
	c.edit(func(_ *cluster.Agent, config string) string {
		return strings.NewReplacer(`class = "kv"`, `class = "line"`, "service \"api\" {\n", "service \"line\" {\n    protocol = \"tcp\"\n    external_version = 1\n").Replace(config)
	})
	c.use(k, "")
	for v := 1; v <= 2; v++ {
		name := fmt.Sprintf("line-v%d", v)
		kit.Program(t, filepath.Join(c.dir, name), "testdata/line/cmd/"+name)
	}
	c.up(c.Agents)
	c.formed(n)
	c.lineRelease(1)
	c.settledAt(c.Agents[0], 1, n)
	return c
}

// lineRelease injects a release of the sample, whose nodes the operator starts.
// spoil changes what its author wrote.
func (c *testCluster) lineRelease(v bundle.Version, spoil ...string) {
	c.t.Helper()
	text, err := line.Files.ReadFile(fmt.Sprintf("upgrade-%d.hcl", v))
	if err != nil {
		c.t.Fatal(err)
	}
	spec := strings.NewReplacer(
		"../../build/", "", `"linux"`, strconv.Quote(runtime.GOOS), `"amd64"`, strconv.Quote(runtime.GOARCH),
		`"rolling"`, `"manual"`, `min_healthy_time = "2s"`, "min_healthy_time = \"500ms\"\n      drain_timeout = \"1s\"",
	).Replace(string(text))
	if err := c.inject(c.Agents[0], c.bundle(v, strings.NewReplacer(spoil...).Replace(spec))); err != nil {
		c.t.Fatal(err)
	}
}

// TestLine takes a service with a protocol of its own from one version to an
// incompatible one, node by node, with clients of both versions at every node, and
// with the programs that answer them killed on the way.
func TestLine(t *testing.T) {
	inMixed(t)
	eachKind(t, func(t *testing.T, k kind) {
		if k.egress != "proxy" && k.egress != "auto" {
			t.Skip("the sample's nodes call nobody, so their egress makes no difference: see " + portable.String())
		}
		c := lineCluster(t, 3, k)
		c.inUse(k)
		n1, n2, n3 := c.Agents[0], c.Agents[1], c.Agents[2]
		l := &lineLoads{c: c}
		defer l.end()
		l.begin("public", 1, func(a *cluster.Agent) string { return a.Public() })
		l.begin("v1", 1, func(a *cluster.Agent) string { return a.Versioned(1) })

		c.lineRelease(2)
		c.answer2(3)
		l.begin("v2", 2, func(a *cluster.Agent) string { return a.Versioned(2) })
		l.flow(20)
		c.lineDenied(n1, 1)
		spans := []*spanning{c.span(n1, 1), c.span(n1, 2)}
		c.upgrade(n1, 2)
		for _, s := range spans {
			s.cut(c)
		}
		c.lineDenied(n1, 2)

		// Now there are a past object at n1, and future objects at n2 and n3.
		l.flow(20)
		for _, a := range c.Agents {
			c.killObject(a)
		}
		l.flow(20)
		last := c.numbered(n3, 0)
		c.upgrade(n2, 2)
		c.upgrade(n3, 2)
		if wrong := c.goesOn(n3, last); wrong != "" {
			t.Error(wrong)
		}
		l.flow(20)
		l.end()
		l.report()
		for _, a := range c.Agents {
			c.same(a)
		}
	})
}

// TestLineCatches gives the release a transform that leaves out the state of the
// future object: that is noticed.
func TestLineCatches(t *testing.T) {
	inMixed(t)
	t.Parallel()
	c := lineCluster(t, 1, portable)
	c.lineRelease(2, `["./line", "migrate"]`, `["env", "-u", "MOULT_FUTURE_STATE", "./line", "migrate"]`)
	c.answer2(1)
	// More writes than keys, which is what the transform counts from by itself.
	var last uint64
	for range 5 {
		last = c.numbered(c.Agents[0], last)
	}
	c.upgrade(c.Agents[0], 2)
	if c.goesOn(c.Agents[0], last) == "" {
		t.Error("the state of the future object was left out, and nothing was noticed")
	}
}

// answer2 waits until n nodes answer callers of version 2.
func (c *testCluster) answer2(n int) {
	c.t.Helper()
	for _, a := range c.Agents {
		c.until(a, "every node to answer callers of version 2", func(s control.Status) bool {
			ready := 0
			for _, node := range s.Nodes {
				if node.Services["line"].Versions[2] != "" {
					ready++
				}
			}
			return ready == n
		})
	}
}

func (c *testCluster) dialLine(addr string) net.Conn {
	c.t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 30*time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// lineDenied tries at a node of a version what callers of the other one are denied.
func (c *testCluster) lineDenied(a *cluster.Agent, native int) {
	c.t.Helper()
	v1, v2 := line1.NewClient(c.dialLine(a.Versioned(1))), line2.NewClient(c.dialLine(a.Versioned(2)))
	defer v1.Close()
	defer v2.Close()
	denied := func(what string, err error, reason string) {
		c.t.Helper()
		if refused, ok := errors.AsType[line1.Refused](err); !ok || !strings.HasPrefix(string(refused), "denied: ") || !strings.Contains(string(refused), reason) {
			c.t.Errorf("%s at a node of version %d: %v, want that it is denied: … %s", what, native, err, reason)
		}
	}
	if native == 1 {
		denied("a deletion", v2.Delete("k"), "version 1 cannot delete")
		denied("a line feed", v2.Put("k", "a\nb"), "line feed")
		return
	}
	if err := v2.Put("lines", "a\nb"); err != nil {
		c.t.Error(err)
	}
	_, _, err := v1.Get("lines")
	denied("reading a value with a line feed", err, "line feed")
	if err := v2.Delete("lines"); err != nil {
		c.t.Error(err)
	}
}

// spanning is a connection that an upgrade cuts.
type spanning struct {
	name string
	addr string
	conn net.Conn
}

// span makes a call over a connection and leaves it open.
func (c *testCluster) span(a *cluster.Agent, version int) *spanning {
	c.t.Helper()
	s := &spanning{fmt.Sprintf("a connection of version %d to %s", version, a.Name), a.Versioned(version), c.dialLine(a.Versioned(version))}
	if err := s.put(version, s.conn); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (s *spanning) put(version int, conn net.Conn) error {
	if version == 1 {
		return line1.NewClient(conn).Put("span", "1")
	}
	return line2.NewClient(conn).Put("span", "2")
}

// cut checks that the connection has come to its end, as the protocol has it: not
// by a reset, which would lose what was answered last.
func (s *spanning) cut(c *testCluster) {
	c.t.Helper()
	if n, err := s.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		c.t.Errorf("%s, after the upgrade: read %d bytes, %v; want its end", s.name, n, err)
	}
}

// numbered makes a write of version 2 and returns its number, which must be higher
// than last.
func (c *testCluster) numbered(a *cluster.Agent, last uint64) uint64 {
	c.t.Helper()
	client := line2.NewClient(c.dialLine(a.Versioned(2)))
	defer client.Close()
	client.Last = last
	if err := client.Put("numbered", "n"); err != nil {
		c.t.Fatal(err)
	}
	return client.Last
}

// goesOn says what is wrong with the number of a write after the upgrade of a node
// whose future object gave the number last: the transform had to go on from there.
func (c *testCluster) goesOn(a *cluster.Agent, last uint64) string {
	client := line2.NewClient(c.dialLine(a.Versioned(2)))
	defer client.Close()
	client.Last = last
	if err := client.Put("numbered", "m"); err != nil {
		return err.Error()
	}
	return ""
}

// killObject ends the program of an agent's object as a crash would, and waits
// until status says that it was started again.
func (c *testCluster) killObject(a *cluster.Agent) {
	c.t.Helper()
	running := func(s control.Status) bool {
		return len(s.Local.Objects) == 1 && s.Local.Objects[0].State == control.ObjectRunning
	}
	before := c.until(a, "the object's program to run", running).Local.Objects[0]
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.until(a, "the object's program to be started again", func(s control.Status) bool {
		return running(s) && s.Local.Objects[0].Restarts > before.Restarts && s.Local.Objects[0].PID != before.PID
	})
}

// same checks that clients of both versions read the same of a node.
func (c *testCluster) same(a *cluster.Agent) {
	c.t.Helper()
	v1, v2 := line1.NewClient(c.dialLine(a.Versioned(1))), line2.NewClient(c.dialLine(a.Versioned(2)))
	defer v1.Close()
	defer v2.Close()
	found := 0
	for _, prefix := range []string{"public", "v1", "v2"} {
		for worker := range lineWorkers {
			for n := range 10 {
				key := fmt.Sprintf("%s-%d-%d", prefix, worker, n)
				one, ok1, err1 := v1.Get(key)
				two, ok2, err2 := v2.Get(key)
				if err := errors.Join(err1, err2); err != nil || one != two || ok1 != ok2 {
					c.t.Errorf("%s: %s is %q (%v) for version 1, and %q (%v) for version 2: %v", a.Name, key, one, ok1, two, ok2, err)
				}
				if ok1 {
					found++
				}
			}
		}
	}
	if found == 0 {
		c.t.Errorf("%s has nothing of what the load wrote", a.Name)
	}
}

const lineWorkers = 3

// lineLoads are clients that call all the time.
type lineLoads struct {
	c       *testCluster
	names   []string
	running []*lineload.Load
	results []lineload.Result
}

// begin starts a client of a version at every node.
func (l *lineLoads) begin(name string, version int, at func(*cluster.Agent) string) {
	cfg := lineload.Config{Version: version, Workers: lineWorkers, Prefix: name}
	for _, a := range l.c.Agents {
		cfg.Addrs = append(cfg.Addrs, at(a))
	}
	l.names, l.running = append(l.names, name), append(l.running, lineload.Start(cfg))
}

// flow waits until each client has made n more calls at every node.
func (l *lineLoads) flow(n int64) {
	l.c.t.Helper()
	var goals []int64
	for _, load := range l.running {
		goals = append(goals, load.Calls()+n*lineWorkers)
	}
	l.c.until(l.c.Agents[0], "calls to go on", func(control.Status) bool {
		for i, load := range l.running {
			if load.Calls() < goals[i] {
				return false
			}
		}
		return true
	})
}

// end ends the clients; it may be called again.
func (l *lineLoads) end() {
	for _, load := range l.running[len(l.results):] {
		l.results = append(l.results, load.Stop())
	}
}

func (l *lineLoads) report() {
	l.c.t.Helper()
	for i, r := range l.results {
		l.c.t.Logf("%s: %d calls, %d of them sent again over a new connection, %d failed; the slowest took %v", l.names[i], r.Calls, r.Again, len(r.Wrong), r.Longest.Round(time.Millisecond))
		for _, wrong := range r.Wrong {
			l.c.t.Errorf("%s: %s", l.names[i], wrong)
		}
	}
}
