package agent

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/agent/ways"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// bench is an agent without a ring and without decisions: a test moves it.
type bench struct {
	*Agent
	t     *testing.T
	close func()
	// What stays where the node is made anew.
	ready    bundle.Version // software that is up
	admitted bool
	frozen   map[bundle.Version]bundle.Digest
}

// servePorts is the number of versioned ports of benchConfig.
const servePorts = 9

// benchConfig is a node with one service, on ports that are free.
func benchConfig(t *testing.T) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "moult-agent-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := trust.Init(filepath.Join(dir, "trust"), trust.InitOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	f, err := trust.OpenFolder(filepath.Join(dir, "trust"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root := filepath.Join(dir, "root.json")
	if err := os.WriteFile(root, f.FirstRoot(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.Name, c.Class, c.Data, c.Root = "n1", "kv", filepath.Join(dir, "data"), root
	if err := os.Mkdir(c.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	first := freeRun(t, servePorts+1)
	c.Services = map[string]ServiceConfig{"api": {
		Address: fmt.Sprintf("127.0.0.1:%d", first), First: first + 1, Last: first + servePorts, Attach: ways.AttachRelay,
	}}
	c.Egress = ways.EgressProxy
	return c
}

// freeRun returns the first of n ports in a row that are free, below those that
// the kernel gives away.
func freeRun(t *testing.T, n int) int {
	t.Helper()
	for first := 20000 + os.Getpid()%500*20; first < 32000; first += n {
		free := 0
		for ; free < n; free++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+free))
			if err != nil {
				break
			}
			l.Close()
		}
		if free == n {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

// newBench opens an agent in the state of a node that runs version running.
func newBench(t *testing.T, cfg Config, running bundle.Version) *bench {
	t.Helper()
	ctx, quit := context.WithCancel(t.Context())
	log := slog.New(slog.DiscardHandler)
	c := &closers{}
	f, err := openFolder(cfg, log, c)
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(f, cfg, log, quit)
	err = a.restore()
	if err == nil {
		err = a.openLayer(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Agent: a, t: t, frozen: map[bundle.Version]bundle.Digest{}}
	if running != 0 {
		b.in(upgrade.State{Phase: upgrade.Current, Version: running, Running: running, Served: true})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case f := <-a.inbox:
				f()
			case <-ctx.Done():
				return
			}
		}
	}()
	closed := false
	b.close = func() {
		if closed {
			return
		}
		closed = true
		quit()
		<-ended
		close(a.stopped)
		a.work.Wait()
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(b.close)
	return b
}

// do runs f in the loop.
func (b *bench) do(f func()) {
	b.t.Helper()
	if !b.ask(f) {
		b.t.Fatal("the loop has ended")
	}
}

// in puts the machine in a state; it is for before the loop runs, or inside do.
// What the node knows of releases, and of its software, stays.
func (b *bench) in(s upgrade.State) {
	b.t.Helper()
	m := node.Memory{State: &s, Floor: floorOf(b.store.Floor()), Metadata: metadataOf(b.trust), Frozen: b.frozen}
	for r := range b.node.View().All() {
		signed, _ := b.node.View().Signed(r.Node)
		m.Records = append(m.Records, signed)
	}
	n, err := node.New(b.nodeConfig(), m, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	maps.Copy(n.Manifests(), b.node.Manifests())
	maps.Copy(n.Orders(), b.node.Orders())
	b.node, b.saved = n, n.Saved()
	b.step(node.Members{Alive: b.alive})
	b.tellSoftware()
}

// software says that the software of version v is ready, and callers may reach it.
func (b *bench) software(v bundle.Version) {
	b.ready, b.admitted = v, true
	b.tellSoftware()
}

// holds says that callers may not reach it yet.
func (b *bench) holds() {
	b.admitted = false
	b.tellSoftware()
}

func (b *bench) stops() {
	b.ready = 0
	b.tellSoftware()
}

func (b *bench) tellSoftware() {
	b.step(node.SoftwareStops{})
	if b.ready != 0 {
		b.step(node.SoftwareUp{Version: b.ready})
	}
	if b.admitted {
		b.step(node.LetIn{})
	}
}

// freeze freezes these releases, and no others.
func (b *bench) freeze(vs ...bundle.Version) {
	clear(b.frozen)
	for _, v := range vs {
		b.frozen[v] = bundle.Digest{}
	}
	b.in(b.saved)
}

// releases makes manifests from one version to another known, all compatible.
func (b *bench) releases(from, to bundle.Version, change ...func(bundle.Version, *bundle.ClassUpgrade)) {
	for v := from; v <= to; v++ {
		cu := bundle.ClassUpgrade{
			From: v - 1, Services: map[string]bundle.Service{"api": {Protocol: bundle.ProtocolHTTP}},
			Past: bundle.Simulation{Kind: bundle.SimulateCompatible}, Future: bundle.Simulation{Kind: bundle.SimulateCompatible},
		}
		for _, f := range change {
			f(v, &cu)
		}
		b.node.Manifests()[v] = &bundle.Manifest{Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": cu}}
	}
}

// up says that the software of version v is ready, on these services.
func (b *bench) up(v bundle.Version, services ...string) {
	b.software(v)
	b.live.backends = map[string]string{}
	for i, name := range services {
		b.live.backends[name] = fmt.Sprintf("127.0.0.1:%d", i+1)
	}
}

// answers lists the versions that have an address.
func (b *bench) answers() []bundle.Version {
	var vs []bundle.Version
	for v := range b.layer.Addresses()["api"].Versions {
		vs = append(vs, v)
	}
	slices.Sort(vs)
	return vs
}

func (b *bench) alarmed(words string) int {
	n := 0
	for _, a := range b.node.Alarms() {
		if strings.Contains(a, words) {
			n++
		}
	}
	return n
}

// peer merges a record of another node.
func (b *bench) peer(change func(*view.Record)) bundle.NodeID {
	b.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r := view.Record{Name: "n2", Class: "kv", Seq: 1, Addr: "10.0.0.2:7946", Version: 1, Phase: "current", Since: time.Now().UTC().Truncate(time.Millisecond)}
	change(&r)
	s, err := view.Sign(key, r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.merge(b.id, []view.Signed{s})
	return bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
}

func run(from, to bundle.Version) (vs []bundle.Version) {
	for v := from; v <= to; v++ {
		vs = append(vs, v)
	}
	return vs
}

// From the release on for which there is no port any more, the oldest callers
// are let go, not the node.
func TestRouteMoreVersionsThanPorts(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		for v := bundle.Version(1); v <= 12; v++ {
			b.releases(v, v)
			b.in(upgrade.State{Phase: upgrade.Current, Version: v, Running: v, Served: true})
			b.up(v, "api")
			if err := b.routeNow(); err != nil {
				t.Fatalf("release %d: %v", v, err)
			}
			oldest := max(1, v-servePorts+1)
			if got := b.answers(); v > oldest && !slices.Equal(got, run(oldest, v)) {
				t.Errorf("release %d: answers %v, want %d to %d", v, got, oldest, v)
			}
		}
		if len(b.node.Alarms()) > 0 {
			t.Errorf("nobody speaks the versions let go, and yet: %q", b.node.Alarms())
		}
		b.peer(func(r *view.Record) { r.Version = 2 })
		for range 3 {
			b.releases(13, 13)
			b.route()
			b.releases(14, 14)
			b.route()
		}
		if n := b.alarmed("there is room for callers of 9 versions only"); n != 1 {
			t.Errorf("%d alarms that callers of version 2 are not answered, want one: %q", n, b.node.Alarms())
		}
		if got := b.answers(); !slices.Equal(got, run(6, 14)) {
			t.Errorf("answers %v, want the newest that there are ports for", got)
		}
	})
}

func TestWindow(t *testing.T) {
	for _, c := range []struct{ oldest, native, newest, n, lo, hi bundle.Version }{
		{1, 3, 4, 9, 1, 4},
		{1, 9, 10, 9, 2, 10},
		{1, 10, 10, 9, 2, 10},
		{5, 5, 30, 9, 5, 13}, // native always
		{1, 5, 30, 2, 5, 6},
		{1, 5, 5, 1, 5, 5},
	} {
		if lo, hi := window(c.oldest, c.native, c.newest, c.n); lo != c.lo || hi != c.hi {
			t.Errorf("%+v: %d to %d", c, lo, hi)
		}
	}
}

// Whatever became of a rollout, the callers of a release are answered: some nodes
// may have settled at it.
func TestRouteAnswersNewerInEveryPhase(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.releases(1, 3)
		b.node.Orders()[2] = &schedule.Order{Release: 2, State: schedule.StateAborted}
		b.up(1, "api")
		for _, p := range []upgrade.Phase{upgrade.Current, upgrade.Fetching, upgrade.Waiting, upgrade.Held} {
			s := upgrade.State{Phase: p, Version: 1, Running: 1, Served: true}
			if p != upgrade.Current {
				s.Goal, s.Path = 2, []bundle.Version{2}
			}
			b.in(s)
			b.routed.Native = 0 // as after a restart
			if err := b.routeNow(); err != nil || !slices.Equal(b.answers(), run(1, 3)) {
				t.Errorf("%s: answers %v, %v; want 1 to 3", p, b.answers(), err)
			}
		}
		b.freeze(3)
		b.route()
		if got := b.answers(); !slices.Equal(got, run(1, 2)) {
			t.Errorf("release 3 is frozen, and callers of %v are answered", got)
		}
		b.freeze()
		b.node.Manifests()[2].Classes["kv"] = bundle.ClassUpgrade{From: 1, Future: bundle.Simulation{
			Kind: bundle.SimulateRules, Rules: bundle.Chunk{Digest: bundle.Sum([]byte("rules")), Length: 5},
		}}
		b.route()
		if got := b.answers(); !slices.Equal(got, run(1, 1)) {
			t.Errorf("the rules of release 2 are not here, and callers of %v are answered", got)
		}
	})
}

// A release may have more services than a node is configured with; fewer is an
// error that its caller sees.
func TestRouteServicesDiffer(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.up(1, "api", "admin")
		if err := b.routeNow(); err != nil || b.routed.Down {
			t.Errorf("software with one service more: %v, down %v", err, b.routed.Down)
		}
		b.up(1, "admin")
		if err := b.routeNow(); err == nil || !strings.Contains(err.Error(), "api") {
			t.Errorf("software without the service: %v", err)
		}
		if err := b.routeNow(); err == nil {
			t.Error("the second time the error is gone")
		}
		if got := b.lacks([]string{"admin"}); !slices.Equal(got, []string{"api"}) {
			t.Errorf("lacks %v", got)
		}
		b.up(1, "api")
		if err := b.routeNow(); err != nil {
			t.Errorf("mended: %v", err)
		}
	})
}

func TestExternal(t *testing.T) {
	b := newBench(t, benchConfig(t), 3)
	b.do(func() {
		want := func(what string, v bundle.Version) {
			t.Helper()
			b.up(3, "api")
			b.route()
			if b.routed.External != v {
				t.Errorf("%s: external version %d, want %d", what, b.routed.External, v)
			}
		}
		b.releases(1, 3)
		want("alone", 3)
		gone := b.peer(func(r *view.Record) { r.Version = 1 })
		b.peer(func(r *view.Record) { r.Version, r.Left = 1, true })
		b.peer(func(r *view.Record) { r.Version = 2 })
		want("a node at version 1", 1)
		b.viewNews = false
		order := &schedule.Order{Release: 3, Classes: map[bundle.Class]schedule.ClassOrder{"kv": {Roster: []bundle.NodeID{gone, b.id, gone}, Skipped: []int{0}}}}
		b.node.Orders()[3] = order
		want("skipped, and given a new place", 1)
		order.Classes["kv"] = schedule.ClassOrder{Roster: []bundle.NodeID{gone, b.id, gone}, Skipped: []int{0, 2}}
		b.viewNews = true
		want("skipped", 2)
	})
}

// route is called after every event, and works only where something is new.
func TestRouteIsCheap(t *testing.T) {
	b := newBench(t, benchConfig(t), 9)
	b.do(func() {
		b.releases(1, 9)
		b.up(9, "api")
		b.route()
		b.viewNews = false
		b.serving.external = 5 // to see whether it is worked out anew
		b.route()
		if b.routed.External != 5 {
			t.Error("worked out anew with nothing new")
		}
		b.viewNews = true
		b.route()
		if b.routed.External != 9 {
			t.Error("not worked out anew with a new view")
		}
	})
}

func TestDirectory(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		const public = "10.0.0.2:7000"
		at := time.Now().UTC().Truncate(time.Millisecond)
		claim := func(name, addr string, since time.Time, left bool) bundle.NodeID {
			return b.peer(func(r *view.Record) {
				r.Name, r.Since, r.Left = name, since, left
				r.Services = map[string]view.ServiceAddr{"api": {Public: public, Versions: map[bundle.Version]string{1: addr}, Native: 1, Attach: "relay", Egress: "proxy", Protocol: "http"}}
			})
		}
		want := func(what, addr string) {
			t.Helper()
			b.list(b.node.View().Snapshot())
			if got, isPeer, err := b.resolve(public, 1); got != addr || isPeer != (addr != "") || err != nil {
				t.Errorf("%s: %q, %v, %v; want %q", what, got, isPeer, err, addr)
			}
		}
		claim("gone", "10.0.0.2:1", at.Add(time.Hour), true)
		want("left", "")
		ids := map[string]bundle.NodeID{}
		for i := range 8 { // whatever the order of their IDs
			addr := fmt.Sprintf("10.0.0.2:%d", 10+i)
			ids[addr] = claim(fmt.Sprintf("old%d", i), addr, at.Add(time.Duration(i)*time.Second), false)
		}
		want("the latest", "10.0.0.2:17")
		b.alive = map[bundle.NodeID]bool{ids["10.0.0.2:13"]: true}
		want("the one that is alive", "10.0.0.2:13")
		if len(b.node.Alarms()) > 0 {
			t.Errorf("only one is alive: %q", b.node.Alarms())
		}
		b.alive[ids["10.0.0.2:15"]] = true
		want("of two that are alive the latest", "10.0.0.2:15")
		b.list(b.node.View().Snapshot())
		if n := b.alarmed(public); n != 1 {
			t.Errorf("%d alarms of two live nodes with one address: %q", n, b.node.Alarms())
		}
	})
}

// Services of TCP and UDP may have one number, of one node or of two.
func TestDirectoryNetworks(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.peer(func(r *view.Record) {
			r.Services = map[string]view.ServiceAddr{
				"api": {Public: "10.0.0.2:7000", Versions: map[bundle.Version]string{1: "10.0.0.2:7001"}, Native: 1, Attach: "relay", Egress: "proxy", Protocol: "tcp"},
				"log": {Public: "10.0.0.2:7000", Versions: map[bundle.Version]string{1: "10.0.0.2:8001"}, Native: 1, Attach: "relay", Egress: "proxy", Protocol: "udp"},
				"ntp": {Public: "10.0.0.2:123", Versions: map[bundle.Version]string{1: "10.0.0.2:9001"}, Native: 1, Attach: "relay", Egress: "proxy", Protocol: "udp"},
			}
		})
		b.list(b.node.View().Snapshot())
		for public, want := range map[publicAddr]string{
			{"10.0.0.2:7000", false}: "10.0.0.2:7001", {"10.0.0.2:7000", true}: "10.0.0.2:8001", {"10.0.0.2:123", true}: "10.0.0.2:9001",
		} {
			if got := (*b.directory.Load())[public].versions[1]; got != want {
				t.Errorf("%v: %q, want %q", public, got, want)
			}
		}
		for public, want := range map[string]string{"10.0.0.2:7000": "10.0.0.2:7001", "10.0.0.2:123": "10.0.0.2:9001"} {
			if got, isPeer, err := b.resolve(public, 1); got != want || !isPeer || err != nil {
				t.Errorf("%s: %q, %v, %v", public, got, isPeer, err)
			}
		}
	})
}

// What a service speaks is what the software speaks that runs, whatever a release says
// to which the node has not gone yet.
func TestProtocolOfRunning(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		speaks := map[bundle.Version]string{2: "tcp", 3: "tcp", 4: "udp"}
		b.releases(2, 4, func(v bundle.Version, cu *bundle.ClassUpgrade) {
			cu.Services = map[string]bundle.Service{"api": {Protocol: speaks[v]}}
		})
		for _, c := range []struct {
			running, speaks bundle.Version
			want            string
		}{
			{0, 0, "udp"}, // it is installed at the newest
			{3, 3, "tcp"}, {2, 0, "tcp"}, {4, 4, "udp"}, {9, 9, "udp"},
			{3, 4, "udp"}, // it is being started at 4
			{4, 3, "tcp"}, // and goes back
			{1, 1, "tcp"}, // nobody knows release 1 any more
		} {
			b.saved.Running, b.speaks = c.running, c.speaks
			if got := b.protocolOf("api"); got != c.want {
				t.Errorf("at version %d, software of %d: %s, want %s", c.running, c.speaks, got, c.want)
			}
		}
		b.saved.Running, b.speaks = 1, 1
		s := b.cfg.Services["api"]
		s.Protocol = "udp"
		b.cfg.Services["api"] = s
		if got := b.protocolOf("api"); got != "udp" {
			t.Errorf("agent.hcl says udp, and nobody knows release 1: %s", got)
		}
		b.saved.Running, b.speaks = 0, 0
	})
}

// A release that changes what a service speaks leaves its callers alone until the node
// goes there.
func TestProtocolChangesWithNode(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.releases(1, 1)
		b.in(upgrade.State{Running: 1, Version: 1, Phase: upgrade.Current})
		b.speaks = 1
		b.up(1, "api")
		b.route()
		before := b.layer.Addresses()["api"].Versions[1]
		b.releases(2, 2, func(_ bundle.Version, cu *bundle.ClassUpgrade) {
			cu.Services = map[string]bundle.Service{"api": {Protocol: bundle.ProtocolUDP}}
		})
		b.route()
		if b.routed.Protocols["api"] != bundle.ProtocolHTTP {
			t.Errorf("a node of version 1 speaks %s", b.routed.Protocols["api"])
		}
		c, err := net.Dial("tcp", before)
		if err != nil {
			t.Fatalf("callers of version 1 at %s: %v", before, err)
		}
		c.Close()
	})
}

// The directory is there before the first call can leave.
func TestDirectoryAtStart(t *testing.T) {
	cfg := benchConfig(t)
	b := newBench(t, cfg, 1)
	b.do(func() {
		b.peer(func(r *view.Record) {
			r.Services = map[string]view.ServiceAddr{"api": {Public: "10.0.0.2:7000", Versions: map[bundle.Version]string{1: "10.0.0.2:7001"}, Native: 1, Attach: "relay", Egress: "proxy", Protocol: "http"}}
		})
		b.persistView()
	})
	b.close()
	again := newBench(t, cfg, 1)
	if addr, isPeer, err := again.resolve("10.0.0.2:7000", 1); !isPeer || addr != "10.0.0.2:7001" {
		t.Errorf("resolve at start: %q, %v, %v", addr, isPeer, err)
	}
}
