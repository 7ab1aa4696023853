//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/plan"
	"moult/store/bundle"
	"moult/testdata/kit"
	"moult/testdata/kv/kvload"
)

// plantsBad has TestBadReleases run: `make bad`.
var plantsBad = flag.Bool("bad", false, "plant six bad releases in a cluster of seven nodes, one after the other, under load")

// migrate is how the sample system's release 2 transforms; forth, with a way back.
const (
	migrate = `exec = ["./kv", "sample-node", "2", "migrate"]`
	forth   = migrate + "\n      reverse {\n        exec = [\"./kv\", \"sample-node\", \"2\", \"back\"]\n      }"
)

// onward makes a spec of the sample system's release 2 one that goes on from a release of the
// same words, and with more in its transform block.
func onward(v bundle.Version, transform string) []string {
	return []string{
		"from = 1", fmt.Sprintf("from = %d", v-1), migrate, transform,
		`rules = "rules/past-2.hcl"`, "compatible = true", `rules = "rules/future-2.hcl"`, "compatible = true",
	}
}

// planting is one cluster into which bad releases are planted, under load.
type planting struct {
	*testCluster
	first *cluster.Agent
	loads *loads
	gate  *gate
	sick  []*cluster.Agent // they had software that fails
	lines []string         // of the table, at the end
}

// expected is what is expected of a release.
type expected struct {
	went  int  // so many times nodes went down for it, to go forward or back
	fails bool // callers may see failures
}

// plant has one release come and go, and checks what that cost: calls that failed, nodes that
// went down, and how many at once.
func (p *planting) plant(what string, want expected, do func()) {
	p.t.Helper()
	began, down := time.Now(), len(p.downs())
	before := p.counted()
	do()
	p.flow(20) // what was held has been answered
	after, downs := p.counted(), p.downs()
	failed := after.Failed - before.Failed
	p.lines = append(p.lines, fmt.Sprintf("%s: %d nodes went down, %d at once; %d calls failed of %d, %d wrong; %.0f s",
		what, len(downs)-down, cluster.MostAtOnce(downs), failed, after.OK+after.Failed-before.OK-before.Failed, after.Wrong-before.Wrong, time.Since(began).Seconds()))
	p.t.Log(p.lines[len(p.lines)-1])
	if n := len(downs) - down; n != want.went {
		p.t.Errorf("%s: nodes went down %d times, want %d", what, n, want.went)
	}
	if n := cluster.MostAtOnce(downs); n > 1 {
		p.t.Errorf("%s: %d nodes were down at once, and the budget is 1", what, n)
	}
	if failed > 0 && !want.fails || after.Wrong > before.Wrong {
		p.t.Errorf("%s: %d calls failed, %d were answered wrongly", what, failed, after.Wrong-before.Wrong)
	}
	for _, a := range p.Agents {
		p.check(a, 1)
	}
}

// counted is what all clients have seen so far.
func (p *planting) counted() (sum kvload.Snapshot) {
	for _, l := range p.loads.running {
		s := l.Snapshot()
		sum.OK, sum.Failed, sum.Wrong = sum.OK+s.OK, sum.Failed+s.Failed, sum.Wrong+s.Wrong
	}
	return sum
}

// hands injects a bundle, and once every node answers callers of its release leads the clients
// to the address for those of words, the newest that speaks theirs.
func (p *planting) hands(v, words bundle.Version, path string) {
	p.t.Helper()
	if err := p.inject(p.first, path); err != nil {
		p.t.Fatal(err)
	}
	for _, a := range p.Agents {
		p.until(a, fmt.Sprintf("every node to answer callers of version %d", v), func(s control.Status) bool {
			return cluster.Answering(s, v) == len(p.Agents)
		})
	}
	p.gate.open(int(words))
}

// held waits until every agent says that release v is held, and returns what the first says.
func (p *planting) held(v bundle.Version) (s control.Status) {
	p.t.Helper()
	for _, a := range slices.Backward(p.Agents) {
		s = p.until(a, fmt.Sprintf("release %d to be held", v), func(s control.Status) bool {
			return s.Release.Version == v && s.Release.State == control.StateHeld
		})
	}
	return s
}

// says wants why to tell of a node that waits or is held: its code, texts in its reason, and
// the command.
func (p *planting) says(node, code, command string, texts ...string) control.Why {
	p.t.Helper()
	w := p.why(p.first, node)
	if w.Code != code || w.Command != command {
		p.t.Errorf("why %s says %s, %q; want %s, %q: %s", node, w.Code, w.Command, code, command, w.Reason)
	}
	for _, text := range texts {
		if !strings.Contains(w.Reason, text) {
			p.t.Errorf("why %s says nothing of %q: %s", node, text, w.Reason)
		}
	}
	return w
}

// types types a command that begins so, as a text has it printed.
func (p *planting) types(text, begins string) {
	p.t.Helper()
	for _, m := range quotedCommand.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], begins) {
			if code, errs := p.asPrinted(p.first, m[1]); code != exitDone {
				p.t.Fatalf("%s, as it is printed: exit code %d, %s", m[1], code, errs)
			}
			return
		}
	}
	p.t.Fatalf("no command %q is printed: %s", begins, text)
}

// withdraws types the command that why prints for a node that is held, and waits until all
// know of it. Clients of the release end before.
func (p *planting) withdraws(v bundle.Version, text string) {
	p.t.Helper()
	p.flow(20)
	p.gate.shut()
	p.types(text, fmt.Sprintf("moult withdraw --class kv %d", v))
	for _, a := range p.Agents {
		p.until(a, "the withdrawal", func(s control.Status) bool {
			return strings.Contains(s.Release.Reason, fmt.Sprintf("build release %d with from = 1", v+1))
		})
	}
}

// reverts types the command that why and status print, and waits until every node is back.
func (p *planting) reverts(v, back bundle.Version, w control.Why) {
	p.t.Helper()
	command := fmt.Sprintf("moult revert %d", v)
	if s, err := p.first.API.Status(p.t.Context(), false); err != nil || !strings.Contains(s.Release.Reason, "`"+command+"`") {
		p.t.Errorf("status says nothing of %s: %s, %v", command, s.Release.Reason, err)
	}
	p.types(w.Reason, command)
	// The canary calls itself by the release before, which may be a withdrawn one.
	p.turnedTo(1, func(n control.NodeStatus) bool { return n.Running == back && n.Version < v })
}

// goes has a good release go through all nodes.
func (p *planting) goes(v, words bundle.Version, path string) {
	p.t.Helper()
	p.hands(v, words, path)
	p.complete(p.first, v, len(p.Agents))
	p.flow(30)
}

// canary returns the node that goes first by the plan of a bundle.
func (p *planting) canary(path string) *cluster.Agent {
	p.t.Helper()
	var plan plan.Report
	if err := json.Unmarshal([]byte(p.prints("plan", "-o", "json", "--agent", p.first.Data, "--root", filepath.Join(p.trustDir(), "root.json"), path)), &plan); err != nil {
		p.t.Fatal(err)
	}
	return p.named(plan.Ring.Classes[0].Nodes[0].Name)
}

func (p *planting) named(name string) *cluster.Agent {
	return p.Agents[slices.IndexFunc(p.Agents, func(a *cluster.Agent) bool { return a.Name == name })]
}

// TestBadReleases plants six bad releases in a cluster of seven nodes, whose clients write and
// read all the time, in the words of the old and of the new version: docs/reliability.md has
// what becomes of each. After each the commands that moult prints lead on; at the end a good
// release goes through all nodes, and all that was ever acknowledged is there.
func TestBadReleases(t *testing.T) {
	if !*plantsBad {
		t.Skip("make bad runs it")
	}
	c := newCluster(t, 7)
	p := &planting{testCluster: c, first: c.Agents[0], gate: newGate(c)}
	if err := os.Mkdir(p.children(), 0o700); err != nil {
		t.Fatal(err)
	}
	c.edit(func(_ *cluster.Agent, config string) string {
		return strings.Replace(config, "  class =", fmt.Sprintf("  writable = [%q]\n  class =", p.children()), 1)
	})
	c.up(c.Agents)
	c.formed(7)
	c.releaseAt(p.first, 1, spec{})
	c.settledAt(p.first, 1, 7)
	for _, a := range c.Agents {
		c.fill(a)
	}
	p.begin()
	defer p.loads.stop()
	poisoned := p.withoutWay()
	p.withWay()
	if got, err := get(poisoned, 1, "poison"); err != nil || got != "POISON" {
		t.Errorf("what release 5 could not parse is now %q, %v", got, err)
	}
	for _, failure := range p.loads.end(authors(t)) {
		if !slices.ContainsFunc(p.sick, func(a *cluster.Agent) bool {
			return strings.Contains(failure, "http://"+a.Name+"/") || strings.Contains(failure, a.Versioned(1)+"/")
		}) {
			t.Errorf("a call failed at a node that had no bad software: %s", failure)
		}
	}
	t.Logf("what became of six bad releases on 7 nodes:\n%s", strings.Join(p.lines, "\n"))
}

// children is where a transform writes which processes it has begun.
func (p *planting) children() string { return filepath.Join(p.dir, "children") }

// begin starts the clients: those of version 1, and those that speak the words of version 2 at
// the address of whichever release the gate is open for.
func (p *planting) begin() {
	p.t.Helper()
	l := p.testCluster.loads()
	l.back, l.fails, p.loads = true, true, l
	l.versioned(1)
	cfg := l.config("load", 2, func(a *cluster.Agent) string { return a.Name })
	cfg.Transport, cfg.Timeout = p.gate, 10*time.Minute // with what it waits at the gate
	l.run("clients in the words of version 2, with their waits", cfg)
	p.flow(30)
}

// flow waits for calls of the clients that may call now.
func (p *planting) flow(n int64) {
	p.t.Helper()
	all := p.loads.running
	if p.gate.version == 0 {
		all = all[:1]
	}
	(&loads{c: p.testCluster, running: all}).flow(n)
}

// gate leads clients that keep their words to the address of one release after the other.
// While it is shut their calls wait.
type gate struct {
	calls   sync.RWMutex // a call has it for reading, whoever shuts the gate for writing
	agents  map[string]*cluster.Agent
	version int // calls; 0: shut
	way     *http.Transport
}

func newGate(c *testCluster) *gate {
	g := &gate{agents: map[string]*cluster.Agent{}, way: &http.Transport{MaxIdleConnsPerHost: 2}}
	for _, a := range c.Agents {
		g.agents[a.Name] = a
	}
	g.calls.Lock()
	return g
}

// open leads calls to the address for callers of a version.
func (g *gate) open(version int) {
	g.shut()
	g.version = version
	g.calls.Unlock()
}

// shut returns when the calls that are under way have been answered.
func (g *gate) shut() {
	if g.version != 0 {
		g.calls.Lock()
		g.version = 0
	}
}

// RoundTrip carries a call, and returns when all of its answer is there.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	g.calls.RLock()
	defer g.calls.RUnlock()
	r = r.Clone(r.Context())
	r.URL.Host, r.Host = g.agents[r.URL.Host].Versioned(g.version), ""
	resp, err := g.way.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

func (g *gate) CloseIdleConnections() { g.way.CloseIdleConnections() }

// withoutWay plants releases that no node gets past.
// It returns the node whose data one of them cannot parse.
func (p *planting) withoutWay() (poisoned *cluster.Agent) {
	p.t.Helper()
	p.plant("cannot read its old data, rehearsed", expected{}, func() {
		p.hands(2, 2, p.toRehearse(p.first, 2, "", migrate, `exec = ["./kv", "sample-node", "3", "migrate"]`))
		n := heldNode(p.held(2))
		p.withdraws(2, p.says(n, "held", "moult retry "+n, "its rehearsal failed: ", "transform").Reason)
	})
	p.plant("never healthy", expected{went: 2}, func() {
		p.hands(3, 3, p.varied(p.first, 3, 2, `"/healthz"`, `"/never"`, `healthy_deadline = "1m"`, `healthy_deadline = "2s"`))
		s := p.held(3)
		once := heldNode(s)
		number := node(s, once).Number
		if code, errs := p.asPrinted(p.first, p.says(once, "held", "moult retry "+once, "/never").Command); code != exitDone {
			p.t.Fatalf("retry: exit code %d, %s", code, errs)
		}
		s = p.until(p.first, "a node to fail again", func(s control.Status) bool {
			held := heldNode(s)
			return s.Release.State == control.StateHeld && held != "" && (held != once || node(s, once).Number > number)
		})
		p.withdraws(3, p.why(p.first, heldNode(s)).Reason)
	})
	p.plant("its transform hangs", expected{went: 1}, func() {
		child := filepath.Join(p.children(), "child")
		hangs := fmt.Sprintf("sleep 1000 & echo $! > %s; wait", child)
		p.hands(4, 4, p.varied(p.first, 4, 2, migrate, fmt.Sprintf("exec    = [\"/bin/sh\", \"-c\", %q]\n      timeout = \"2s\"", hangs)))
		n := heldNode(p.held(4))
		p.withdraws(4, p.says(n, "held", "moult retry "+n, "2s").Reason)
		data, err := os.ReadFile(child)
		if err != nil {
			p.t.Fatal(err)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err != nil || kit.Alive(pid) {
			p.t.Errorf("the child %s of its transform is left, %v", data, err)
		}
	})
	p.plant("its transform fails on the data of one node", expected{went: 1}, func() {
		onOne := `if grep -rq POISON "$MOULT_OLD"; then echo cannot parse poison; exit 1; fi; exec ./kv sample-node 2 migrate`
		path := p.varied(p.first, 5, 2, migrate, fmt.Sprintf(`exec = ["/bin/sh", "-c", %q]`, onOne))
		at := p.canary(path)
		poisoned = at
		if err := put(at, "poison", "POISON"); err != nil {
			p.t.Fatal(err)
		}
		p.hands(5, 5, path)
		if n := heldNode(p.held(5)); n != at.Name {
			p.t.Errorf("%s is held, and the data are at %s", n, at.Name)
		}
		p.says(at.Name, "held", "moult retry "+at.Name, "cannot parse poison", "`moult withdraw --class kv 5`")
		p.must("abort", "--yes", "--agent", p.first.Data, "--trust", p.trustDir())
		p.until(p.first, "the abort", func(s control.Status) bool { return s.Release.State == control.StateAborted })
		w := p.says(at.Name, "held", "moult withdraw --class kv 5", "cannot parse poison")
		p.withdraws(5, "`"+w.Command+"`")
	})
	return poisoned
}

// withWay plants releases at which nodes settle, so that they are taken back.
func (p *planting) withWay() {
	p.t.Helper()
	const untilThen = `["/bin/sh", "-c", "./kv \"$@\" & until [ -e %s ]; do sleep 0.1; done; kill -9 $!; exit 3", "sh", "sample-node", "2", "--state"`
	p.plant("healthy, then dead in its soak", expected{went: 2, fails: true}, func() {
		end := filepath.Join(p.dir, "end")
		p.hands(6, 6, p.varied(p.first, 6, 2, migrate, forth, `soak  = "1s"`, `soak  = "10m"`, `["./kv", "sample-node", "2", "--state"`, fmt.Sprintf(untilThen, end)))
		canary := ""
		p.until(p.first, "the canary to settle, and the others to wait for its soak", func(s control.Status) bool {
			waiting := 0
			for _, n := range s.Nodes {
				switch {
				case n.Version == 6 && n.Phase == "current" && n.Health == "well":
					canary = n.Name
				case n.Phase == "waiting" && strings.Contains(n.Reason, "10m0s"):
					waiting++
				}
			}
			return canary != "" && waiting == 6
		})
		p.sick = append(p.sick, p.named(canary))
		p.flow(60) // there is something to lose
		if err := os.WriteFile(end, nil, 0o600); err != nil {
			p.t.Fatal(err)
		}
		p.held(6)
		p.reverts(6, 1, p.says(canary, "soak-failed", "moult retry --release 6 "+canary, "exit status 3", "`moult revert 6`"))
	})
	p.plant("a good release", expected{went: 7}, func() {
		p.goes(7, 7, p.varied(p.first, 7, 2, onward(7, "reverse {\n}")...))
	})
	p.plant("wrong under load only", expected{went: 2, fails: true}, func() {
		const fact = "fact \"errors\" {\n  http    = \"/stats\"\n  pointer = \"/errors\"\n  every   = \"200ms\"\n  step    = 0.01\n}\n"
		const holdIf = "settled.errors.p50 > 2.0 * others.errors.p50 + 0.05"
		p.hands(8, 8, p.varied(p.first, 8, 2, append(onward(8, "reverse {\n}"), `"${service.api}"]`, `"${service.api}", "--fail-every", "4"]`,
			"schedule {", fact+"schedule {\nhold_if = \""+holdIf+"\"", `soak  = "1s"`, `soak  = "10m"`)...))
		s := p.held(8)
		at := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Version == 7 })
		if s.Classes["kv"].Settled != 1 || at < 0 {
			p.t.Fatalf("%d nodes have settled: %+v", s.Classes["kv"].Settled, s.Nodes)
		}
		p.sick = append(p.sick, p.named(s.Nodes[slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Version == 8 })].Name))
		n := s.Nodes[at].Name
		p.reverts(8, 7, p.says(n, schedule.CodeHoldIf, "moult now --release 8 "+n, holdIf, "`moult revert 8`"))
	})
	p.plant("a good release after all", expected{went: 7}, func() {
		p.goes(9, 8, p.varied(p.first, 9, 3, "from = 2", "from = 8"))
	})
}
