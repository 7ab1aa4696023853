package agent

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/agent/config"
	"moult/agent/fdstore"
	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/selfupdate"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// bench is an agent without decisions: a test moves it.
type bench struct {
	*loop
	t     *testing.T
	close func()
	tests chan func()   // what tests do in the loop
	ended chan struct{} // closed when it has ended
	// What stays where the node is made anew.
	ready    bundle.Version // software that is up
	admitted bool
	frozen   map[bundle.Version]bundle.Digest
}

// servePorts is the number of versioned ports of benchConfig.
const servePorts = 9

// benchConfig is a node with one service, on ports that are free.
func benchConfig(t *testing.T) config.Config {
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
	c := config.Default()
	c.Name, c.Class, c.Data, c.Root = "n1", "kv", filepath.Join(dir, "data"), root
	if err := os.Mkdir(c.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	first := freeRun(t, servePorts+1)
	c.Services = map[string]config.Service{"api": {
		Address: fmt.Sprintf("127.0.0.1:%d", first), First: first + 1, Last: first + servePorts, Attach: config.AttachRelay,
	}}
	c.Egress, c.Bind = config.EgressProxy, "127.0.0.1:0"
	return c
}

// freeRun returns the first of n ports in a row that are free, below those that
// the kernel gives away, and that clusters of other tests take.
func freeRun(t *testing.T, n int) int {
	t.Helper()
	for first := 10000 + os.Getpid()%200*20; first < 15000; first += n {
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

// openBench opens an agent whose loop is the test itself.
func openBench(t *testing.T, cfg config.Config) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c := &closers{}
	h, err := home.Open(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	c.add(h.Close)
	b := &bench{loop: newLoop(h, cfg, selfupdate.Open(cfg.Data, log), fdstore.Open(log), log, func() {}), t: t, tests: make(chan func()), ended: make(chan struct{}), frozen: map[bundle.Version]bundle.Digest{}}
	b.close = sync.OnceFunc(func() {
		close(b.stopped)
		b.work.Wait()
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { b.close() })
	if err := b.open(c); err != nil {
		t.Fatal(err)
	}
	return b
}

// newBench opens an agent in the state of a node that runs version running, and has its
// loop handle messages.
func newBench(t *testing.T, cfg config.Config, running bundle.Version) *bench {
	t.Helper()
	b := openBench(t, cfg)
	if running != 0 {
		b.in(upgrade.State{Phase: upgrade.Current, Version: running, Running: running, Served: true})
	}
	quit := make(chan struct{})
	go func() {
		defer close(b.ended)
		for {
			select {
			case m := <-b.inbox:
				b.handle(m)
			case f := <-b.tests:
				f()
			case <-quit:
				return
			}
		}
	}()
	end := b.close
	b.close = sync.OnceFunc(func() {
		close(quit)
		<-b.ended
		end()
	})
	return b
}

// do runs f in the loop, after the messages that were sent before.
func (b *bench) do(f func()) {
	b.t.Helper()
	ran := make(chan struct{})
	turn := func() {
		defer close(ran)
		b.emptyInbox()
		f()
	}
	select {
	case b.tests <- turn:
		<-ran
	case <-b.ended:
		b.t.Fatal("the loop has ended")
	}
}

// in puts the machine in a state; it is for before the loop runs, or inside do.
// What the node knows of releases, and of its software, stays.
func (b *bench) in(s upgrade.State) {
	b.t.Helper()
	m := node.Memory{State: &s, Floor: b.Floor(), Metadata: node.MetadataOf(b.trust), Frozen: b.frozen}
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
	b.tellSoftware()
}

// refresh takes in what a test has changed.
func (b *bench) refresh() {
	b.step(node.LookAgain{})
	b.takeRoute(b.node.Route())
}

func (b *bench) route() {
	b.refresh()
	b.loop.route()
}

func (b *bench) routeNow() error {
	b.refresh()
	return b.loop.routeNow()
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
	b.loop.answering = node.Route{Speaks: b.loop.answering.Speaks} // what was offered may be other objects
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
	b.merge(b.ID, []view.Signed{s})
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

// What a node lacks of what a release needs is told before it goes down.
func TestFits(t *testing.T) {
	cfg := benchConfig(t)
	cfg.Vars, cfg.Args = map[string]string{"region": "eu"}, []string{"--own"}
	b := newBench(t, cfg, 1)
	command := func(services string, argv ...string) func(bundle.Version, *bundle.ClassUpgrade) {
		return func(_ bundle.Version, cu *bundle.ClassUpgrade) {
			cu.Services = map[string]bundle.Service{services: {Protocol: bundle.ProtocolHTTP}}
			cu.Command, cu.Placeholders = argv, true
			cu.Artifacts = []bundle.Artifact{{Platform: b.platform}}
		}
	}
	for _, c := range []struct {
		change func(bundle.Version, *bundle.ClassUpgrade)
		want   string
	}{
		{command("api", "./kv", "${vars.region}", "${args}"), ""},
		{command("api", "./kv", "${vars.zone}"), "version 2 cannot be started here: ${vars.zone} has no value: say vars"},
		{command("admin", "./kv"), "agent.hcl of this node has service api, and release 2 has only admin"},
	} {
		b.do(func() {
			b.releases(2, 2, c.change)
			b.in(upgrade.State{Running: 1, Version: 1, Goal: 2, Path: []bundle.Version{2}, Phase: upgrade.Waiting})
		})
		err := b.fits(2)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// A release that changes what a service speaks leaves its callers alone until the node
// goes there.
func TestProtocolChangesWithNode(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	b.do(func() {
		b.releases(1, 1)
		b.in(upgrade.State{Running: 1, Version: 1, Phase: upgrade.Current})
		b.step(node.SoftwareStarts{Version: 1})
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
