//go:build unix

package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/testdata/kit"
	udpkv "moult/testdata/udp"
)

// udpSpec is a release of the UDP sample. The operator starts its nodes.
const udpSpec = `release {
  version = %d
  class "kv" {
    %s
    artifact {
      os   = %q
      arch = %q
      path = "udp-kv"
    }
    command = ["./udp-kv", "serve", "%d", "--listen", "${service.api}", "--state", "${state}"]
    service "api" {
      protocol = "udp"
    }
    health {
      exec             = ["./udp-kv", "check", "%d", "${service.api}"]
      interval         = "100ms"
      min_healthy_time = "300ms"
      healthy_deadline = "1m"
    }
    %s
    schedule {
      strategy = "manual"
    }
  }
}
`

// TestUDP takes a service that speaks datagrams over a compatible release and one
// whose callers an exec object translates, node by node, with clients of each
// version at every node: what was acknowledged is there, and every call is
// answered.
func TestUDP(t *testing.T) {
	inMixed(t)
	eachKind(t, func(t *testing.T, k kind) {
		if k.egress != "proxy" && k.egress != "auto" {
			t.Skip("the sample's nodes call nobody, so their egress makes no difference: see " + portable.String())
		}
		c := newCluster(t, 2)
		more := "    external_version = 1\n"
		if k.attach != "auto" { // else it is found out from the first release
			more += "    protocol = \"udp\"\n"
		}
		c.use(k, more)
		kit.Program(t, filepath.Join(c.dir, "udp-kv"), "testdata/udp/cmd/udp-kv")
		c.up(c.Agents)
		c.formed(2)
		c.udpRelease(1, "")
		c.settledAt(c.Agents[0], 1, 2)
		c.inUse(k)

		l := &udpLoad{c: c, ok: map[string]int{}, acked: map[string]string{}}
		defer l.end()
		l.begin(1, "public", func(a *cluster.Agent) string { return a.Public() })
		l.versioned(1)
		l.flow(20)
		c.udpRelease(2, "past { compatible = true }\n    future { compatible = true }")
		l.versioned(2)
		for _, a := range c.Agents {
			c.upgrade(a, 2)
		}
		l.flow(20)
		c.udpRelease(3, "past { exec = [\"./udp-kv\", \"past\"] }\n    future { exec = [\"./udp-kv\", \"future\"] }")
		l.versioned(3)
		c.upgrade(c.Agents[0], 3)
		l.flow(20)
		c.udpDenied(c.Agents[0])
		c.upgrade(c.Agents[1], 3)
		l.flow(20)
		l.end()
		l.report()
		for _, a := range c.Agents {
			for version := 1; version <= 3; version++ {
				client := c.dialUDP(version, a.Versioned(version))
				l.check(a.Name, client)
				_ = client.Close()
			}
		}
		for _, wrong := range l.failed {
			t.Error(wrong)
		}
	})
}

// eachUDPDirect runs f for the kinds by which datagrams reach a node past its agent,
// with one node at version 1.
func eachUDPDirect(t *testing.T, f func(c *testCluster, a *cluster.Agent, k kind)) {
	eachDirect(t, []kind{{"steer", "proxy"}, {"inherit", "proxy"}}, func(t *testing.T, k kind) {
		c := newCluster(t, 1)
		c.use(k, "    protocol = \"udp\"\n")
		kit.Program(t, filepath.Join(c.dir, "udp-kv"), "testdata/udp/cmd/udp-kv")
		c.up(c.Agents)
		a := c.Agents[0]
		c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
		c.udpRelease(1, "")
		c.settledAt(a, 1, 1)
		c.inUse(k)
		f(c, a, k)
	})
}

// TestUDPAgentDies ends the agent of a node under load, twice, and its software too:
// no call past the agent fails while that runs, the next agent takes it over, starts
// it again when it ends, and upgrades it.
func TestUDPAgentDies(t *testing.T) {
	inMixed(t)
	eachUDPDirect(t, func(c *testCluster, a *cluster.Agent, k kind) {
		pid := c.nodePID(a)
		l := &udpLoad{c: c, ok: map[string]int{}, acked: map[string]string{}}
		defer l.end()
		l.begin(1, "v1", func(a *cluster.Agent) string { return a.Versioned(1) })
		l.flow(20)
		for range 2 {
			c.kill(a)
			l.progress(50) // with no agent there
			c.up(c.Agents)
			if now := c.nodePID(a); now != pid {
				c.t.Errorf("after its agent's death the node is process %d, was %d", now, pid)
			}
			l.flow(20)
		}
		c.inUse(k)
		before := c.recorded(a)
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			c.t.Fatal(err)
		}
		c.until(a, "the software to be started again", func(control.Status) bool {
			now := c.recorded(a)
			return now.PID != 0 && now != before
		})
		l.flow(20)
		c.udpRelease(2, "past { compatible = true }\n    future { compatible = true }")
		c.upgrade(a, 2)
		l.flow(20)
		l.end()
		l.report()
		client := c.dialUDP(2, a.Versioned(2))
		defer client.Close()
		l.check(a.Name, client)
		for _, wrong := range l.failed {
			c.t.Error(wrong)
		}
		c.inUse(k)
	})
}

// TestUDPAgentDiesProbing ends the agent while the software of the next version runs
// and is not admitted: who calls that waits for the next agent.
func TestUDPAgentDiesProbing(t *testing.T) {
	inMixed(t)
	eachUDPDirect(t, func(c *testCluster, a *cluster.Agent, k kind) {
		c.kill(a)
		c.up(c.Agents, "MOULT_FAILPOINT=probing.saved")
		c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
		c.udpRelease(2, "past { compatible = true }\n    future { compatible = true }")
		if code, _, errs := c.command(a, "start", "--trust", c.trustDir(), a.Name); code != exitDone {
			c.t.Fatalf("start: exit code %d, %s", code, errs)
		}
		if !c.dies(a) {
			c.t.Fatal("the agent did not reach its failpoint")
		}
		early := c.dialUDP(2, a.Versioned(2))
		defer early.Close()
		early.Patience, early.Tries = 300*time.Millisecond, 1
		if err := early.Set("early", "bird"); err == nil {
			c.t.Error("software that is not admitted has answered")
		}
		c.up(c.Agents)
		c.settledAt(a, 2, 1)
		client := c.dialUDP(2, a.Versioned(2))
		defer client.Close()
		// What waited was carried out, though its caller has given up.
		if got, ok, err := client.Get("early"); got != "bird" || err != nil {
			c.t.Errorf("who came early set %q, %v, %v", got, ok, err)
		}
		c.inUse(k)
	})
}

func (c *testCluster) udpRelease(v bundle.Version, simulations string) {
	c.t.Helper()
	from := ""
	if v > 1 {
		from = fmt.Sprintf("from = %d", v-1)
	}
	text := fmt.Sprintf(udpSpec, v, from, runtime.GOOS, runtime.GOARCH, v, v, simulations)
	if err := c.inject(c.Agents[0], c.bundle(v, text)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) dialUDP(version int, addr string) *udpkv.Client {
	c.t.Helper()
	client, err := udpkv.Dial(version, addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// udpDenied has a client of version 2 count at a node of version 3, which cannot.
func (c *testCluster) udpDenied(a *cluster.Agent) {
	c.t.Helper()
	client := c.dialUDP(2, a.Versioned(2))
	defer client.Close()
	if n, err := client.Count(); err == nil || err.Error() != "denied: version 3 does not count" {
		c.t.Errorf("count at a node of version 3: %q, %v", n, err)
	}
}

// udpCalls is what a client of the sample can do.
type udpCalls interface {
	Set(key, value string) error
	Get(key string) (value string, ok bool, err error)
}

// udpLoad is clients that call all the time.
type udpLoad struct {
	c  *testCluster
	wg sync.WaitGroup

	mu      sync.Mutex
	ended   bool              // mu
	ok      map[string]int    // mu; by client
	acked   map[string]string // mu; by key, which begins with the node's name
	failed  []string          // mu
	again   int               // mu; datagrams that were sent again
	slowest time.Duration     // mu
}

// versioned starts clients of a version once every node answers them.
func (l *udpLoad) versioned(version int) {
	l.c.t.Helper()
	for _, a := range l.c.Agents {
		l.c.until(a, fmt.Sprintf("every node to answer callers of version %d", version), func(s control.Status) bool {
			return cluster.Answering(s, bundle.Version(version)) == len(l.c.Agents)
		})
	}
	l.begin(version, fmt.Sprint("v", version), func(a *cluster.Agent) string { return a.Versioned(version) })
}

// begin starts one client at every node.
func (l *udpLoad) begin(version int, name string, at func(*cluster.Agent) string) {
	l.c.t.Helper()
	for _, a := range l.c.Agents {
		client := l.c.dialUDP(version, at(a))
		who := a.Name + "/" + name
		l.wg.Go(func() {
			defer client.Close()
			pause := time.NewTicker(5 * time.Millisecond)
			defer pause.Stop()
			calls := 0
			for i := 0; !l.over(); i++ {
				calls += l.round(who, client, i)
				<-pause.C
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.again += client.Asked - calls
		})
	}
}

func (l *udpLoad) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// end waits until every client has ended its round.
func (l *udpLoad) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.wg.Wait()
}

// round sets a key and gets it, and returns how many calls it made.
func (l *udpLoad) round(who string, client udpCalls, i int) (calls int) {
	key := fmt.Sprintf("%s/%d", who, i%8)
	value := fmt.Sprintf("%d é✓ %s", i, strings.Repeat("x", i*37%700))
	began := time.Now()
	err := client.Set(key, value)
	calls++
	if err == nil {
		l.ack(key, value)
		calls++
		err = same(client, key, value)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, time.Since(began))
	if err != nil {
		l.failed = append(l.failed, who+": "+err.Error())
	}
	l.ok[who]++
	return calls
}

func (l *udpLoad) ack(key, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[key] = value
}

func same(client udpCalls, key, value string) error {
	got, ok, err := client.Get(key)
	if err == nil && (!ok || got != value) {
		err = fmt.Errorf("key %q is %.40q (%v), want %.40q", key, got, ok, value)
	}
	return err
}

// check looks for all that a node has acknowledged.
func (l *udpLoad) check(node string, client udpCalls) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, key := range slices.Sorted(maps.Keys(l.acked)) {
		if !strings.HasPrefix(key, node+"/") {
			continue
		}
		n++
		if err := same(client, key, l.acked[key]); err != nil {
			l.failed = append(l.failed, "afterwards: "+err.Error())
		}
	}
	if n == 0 {
		l.failed = append(l.failed, "nothing was acknowledged by "+node)
	}
}

// flow waits until every client has made n more rounds.
func (l *udpLoad) flow(n int) {
	l.c.t.Helper()
	done := l.more(n)
	l.c.until(l.c.Agents[0], "calls to go on", func(control.Status) bool { return done() })
	l.none()
}

// progress is flow where there may be no agent to ask.
func (l *udpLoad) progress(n int) {
	l.c.t.Helper()
	done := l.more(n)
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			l.c.t.Fatal("calls do not go on")
		}
	}
	l.none()
}

// more returns what reports whether every client has made n more rounds, or one has
// failed.
func (l *udpLoad) more(n int) func() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	goals := maps.Clone(l.ok)
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for name := range l.ok {
			if l.ok[name] < goals[name]+n && len(l.failed) == 0 {
				return false
			}
		}
		return len(l.ok) > 0
	}
}

// none ends the test where a call has failed.
func (l *udpLoad) none() {
	l.c.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) > 0 {
		l.c.t.Fatalf("a call failed: %s", l.failed[0])
	}
}

// report prints the figures.
func (l *udpLoad) report() {
	l.c.t.Helper()
	total := 0
	for _, name := range slices.Sorted(maps.Keys(l.ok)) {
		l.c.t.Logf("%s: %d rounds", name, l.ok[name])
		total += l.ok[name]
	}
	l.c.t.Logf("%d rounds of two calls, %d failed, %d datagrams sent again; the slowest round took %v", total, len(l.failed), l.again, l.slowest.Round(time.Millisecond))
}

// forgetful is a node that spoils what it was told, as its name says.
type forgetful struct {
	values map[string]string
	lie    string
}

func (f forgetful) Set(key, value string) error {
	switch f.lie {
	case "an answer is lost":
		return errors.New("no answer")
	case "forgets":
		return nil
	case "changes":
		value += "!"
	}
	f.values[key] = value
	return nil
}

func (f forgetful) Get(key string) (string, bool, error) {
	value, ok := f.values[key]
	return value, ok, nil
}

// TestUDPLoadCatches plants faults that the load of TestUDP must find.
func TestUDPLoadCatches(t *testing.T) {
	for _, lie := range []string{"", "an answer is lost", "forgets", "changes", "loses all afterwards"} {
		l := &udpLoad{ok: map[string]int{}, acked: map[string]string{}}
		node := forgetful{map[string]string{}, lie}
		for i := range 3 {
			l.round("n1/w", node, i)
		}
		if lie == "loses all afterwards" {
			clear(node.values)
		}
		l.check("n1", node)
		if (len(l.failed) == 0) != (lie == "") {
			t.Errorf("%q: found %q", lie, l.failed)
		}
	}
}
