package node

import (
	"crypto/ed25519"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// bench is a node of class kv with a service "api", moved by hand.
type bench struct {
	*Node
	t   testing.TB
	key ed25519.PrivateKey
}

const ports = 9 // of its versioned addresses

func at(v bundle.Version) upgrade.State {
	return upgrade.State{Phase: upgrade.Current, Version: v, Running: v, Served: true}
}

func newBench(t testing.TB, s upgrade.State) *bench {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &bench{t: t, key: key}
	r.Node, err = New(Config{
		Self: bundle.NodeIDOf(public), Key: public, Name: "n1", Class: "kv", Services: map[string]Service{"api": {Ports: ports}},
	}, Memory{State: &s}, time.Unix(1_800_000_000, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// release makes releases known, all compatible.
func (r *bench) releases(from, to bundle.Version, change ...func(bundle.Version, *bundle.ClassUpgrade)) {
	for v := from; v <= to; v++ {
		cu := bundle.ClassUpgrade{
			From: v - 1, Services: map[string]bundle.Service{"api": {Protocol: bundle.ProtocolHTTP}},
			Past: bundle.Simulation{Kind: bundle.SimulateCompatible}, Future: bundle.Simulation{Kind: bundle.SimulateCompatible},
		}
		for _, f := range change {
			f(v, &cu)
		}
		r.docs.signed[v] = &bundle.Manifest{Version: v, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": cu}}
		r.docs.known[v] = bundle.Sum(fmt.Append(nil, v))
	}
	r.strike()
	r.routing.stale = true
}

// order makes an order known that has a place for this node alone.
func (r *bench) order(v bundle.Version) {
	r.docs.orders[v] = &schedule.Order{Release: v, State: schedule.StateRunning, Classes: map[bundle.Class]schedule.ClassOrder{
		"kv": {Roster: []bundle.NodeID{r.cfg.Self}, MaxUnavailable: 1},
	}}
	r.skips, r.routing.stale = nil, true
}

// peer merges a record of another node, or of this one.
func (r *bench) record(key ed25519.PrivateKey, change func(*view.Record)) bundle.NodeID {
	r.t.Helper()
	if key == nil {
		_, key, _ = ed25519.GenerateKey(nil) // it never fails
	}
	rec := view.Record{Name: "n2", Class: "kv", Seq: 1, Addr: "10.0.0.2:7946", Version: 1, Phase: "current", Since: r.now}
	change(&rec)
	s, err := view.Sign(key, rec)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.Merge(r.now, s); err != nil {
		r.t.Fatal(err)
	}
	return bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
}

// ready does what is to be done until that is nothing, on a disk with room.
func (r *bench) ready() Route {
	r.t.Helper()
	r.rests = false // a test may have changed what it knows
	for range 100 {
		todo := r.Ready()
		if todo.Empty() {
			return r.routing.told
		}
		r.Advance(todo)
	}
	r.t.Fatal("it never ends")
	return Route{}
}

func (r *bench) alarmed(words string) bool {
	return slices.ContainsFunc(r.Alarms(), func(a string) bool { return strings.Contains(a, words) })
}

// From the release on for which there is no port any more, the oldest callers are let
// go, not the node. It is an alarm only where such callers are about.
func TestMoreVersionsThanPorts(t *testing.T) {
	const alarm = "there is room for callers of 9 versions only"
	n := newBench(t, at(12))
	n.releases(1, 12)
	if r := n.ready(); r.Oldest != 4 || r.Newest != 12 || n.alarmed(alarm) {
		t.Errorf("answers %d to %d, alarms %q", r.Oldest, r.Newest, n.Alarms())
	}
	old := n.record(nil, func(r *view.Record) { r.Version = 2 })
	n.releases(13, 14)
	if r := n.ready(); r.Oldest != 6 || r.Newest != 14 || !n.alarmed(alarm) {
		t.Errorf("answers %d to %d while callers of 2 are about, alarms %q", r.Oldest, r.Newest, n.Alarms())
	}
	n.docs.orders[14] = &schedule.Order{Release: 14, Classes: map[bundle.Class]schedule.ClassOrder{"kv": {Roster: []bundle.NodeID{old}, Skipped: []int{0}}}}
	n.skips, n.routing.stale = nil, true
	if n.ready(); n.alarmed(alarm) {
		t.Errorf("the node of version 2 is gone: %q", n.Alarms())
	}
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

// Whatever became of a rollout, the callers of a release are answered: some nodes may
// have settled at it. Those of a frozen one are not.
func TestAnswersNewerInEveryPhase(t *testing.T) {
	for _, p := range []upgrade.Phase{upgrade.Current, upgrade.Fetching, upgrade.Waiting, upgrade.Held} {
		s := at(1)
		if s.Phase = p; p != upgrade.Current {
			s.Goal, s.Path = 2, []bundle.Version{2}
		}
		n := newBench(t, s)
		n.releases(1, 3)
		n.order(2)
		n.docs.orders[2].State = schedule.StateAborted
		if r := n.Route(); r.Oldest != 1 || r.Newest != 3 {
			t.Errorf("%s: answers %d to %d, want 1 to 3", p, r.Oldest, r.Newest)
		}
		n.freezeOne(3, bundle.Digest{})
		if r := n.Route(); r.Newest != 2 {
			t.Errorf("release 3 is frozen, and callers up to %d are answered", r.Newest)
		}
	}
}

// The route that comes with a state to be saved is that state's: nobody is led to
// software of one version as if it were of another.
func TestRouteComesWithState(t *testing.T) {
	n := newBench(t, upgrade.State{
		Step: 7, Phase: upgrade.Starting, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Done: 1, Obeys: 2,
	})
	n.releases(1, 2)
	n.ready()
	if r := n.Route(); r.Native != 1 {
		t.Fatalf("at first %+v", r)
	}
	n.Step(n.now, ActionEnded{upgrade.Ready{Step: 7}})
	r := n.Ready()
	if r.Save == nil || r.Save.State == nil || r.Save.State.Running != 2 {
		t.Fatalf("nothing is to be saved: %+v", r)
	}
	if r.Route == nil || r.Route.Native != 2 {
		t.Errorf("with the state of version 2 comes %+v", r.Route)
	}
}

// Callers from outside are of the newest version that is settled everywhere. Nodes
// that have left, or that the newest order skips, are nowhere.
func TestExternal(t *testing.T) {
	n := newBench(t, at(3))
	want := func(what string, v bundle.Version) {
		t.Helper()
		if r := n.ready(); r.External != v {
			t.Errorf("%s: external version %d, want %d", what, r.External, v)
		}
	}
	n.releases(1, 3)
	want("alone", 3)
	gone := n.record(nil, func(r *view.Record) { r.Version = 1 })
	n.record(nil, func(r *view.Record) { r.Version, r.Left = 1, true })
	n.record(nil, func(r *view.Record) { r.Version = 2 })
	want("a node at version 1", 1)
	roster := []bundle.NodeID{gone, n.cfg.Self, gone}
	order := &schedule.Order{Release: 3, Classes: map[bundle.Class]schedule.ClassOrder{"kv": {Roster: roster, Skipped: []int{0}}}}
	n.docs.orders[3], n.skips, n.routing.stale = order, nil, true
	want("skipped, and given a new place", 1)
	order.Classes["kv"] = schedule.ClassOrder{Roster: roster, Skipped: []int{0, 2}}
	n.skips, n.routing.stale = nil, true
	want("skipped", 2)
	n.releases(4, 4)
	n.order(4) // which does not name it any more
	want("skipped by the newest order that names it", 2)
	n.Step(n.now, Members{Alive: map[bundle.NodeID]bool{gone: true}})
	want("skipped, and there all the same", 1)
}

// Callers from outside are not taken for older ones again because an old node joins,
// but only where the whole rollout was seen to end.
func TestExternalDoesNotGoBack(t *testing.T) {
	for _, ended := range []bool{true, false} {
		n := newBench(t, at(2))
		n.releases(1, 2)
		if ended {
			n.order(2)
		}
		n.record(n.key, func(r *view.Record) { r.Seq, r.Version = n.Number()+5, 2 })
		n.ready()
		n.record(nil, func(r *view.Record) { r.Version = 1 })
		want := bundle.Version(1)
		if ended {
			want = 2
		}
		if r := n.ready(); r.External != want {
			t.Errorf("rollout ended %v: callers from outside count as version %d, want %d", ended, r.External, want)
		}
	}
}

// What a service speaks is what the software speaks that runs, whatever a release says
// to which the node has not gone yet.
func TestProtocolOfRunning(t *testing.T) {
	speaks := map[bundle.Version]string{2: "tcp", 3: "tcp", 4: "udp"}
	for _, c := range []struct {
		running, speaks bundle.Version
		said, want      string
	}{
		{0, 0, "", "udp"}, // it is installed at the newest
		{3, 3, "", "tcp"}, {2, 0, "", "tcp"}, {4, 4, "", "udp"}, {9, 9, "", "udp"},
		{3, 4, "", "udp"}, // it is being started at 4
		{4, 3, "", "tcp"}, // and goes back
		{1, 1, "", "tcp"}, // nobody knows release 1 any more
		{1, 1, "udp", "udp"},
	} {
		n := newBench(t, at(c.running))
		n.releases(2, 4, func(v bundle.Version, cu *bundle.ClassUpgrade) {
			cu.Services = map[string]bundle.Service{"api": {Protocol: speaks[v]}}
		})
		n.cfg.Services["api"] = Service{Protocol: c.said, Ports: ports}
		n.software.speaks = c.speaks
		if got := n.Route().Protocols["api"]; got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// A node at version 3 gives up the objects that nobody needs, and none too early:
// each condition alone keeps them.
func TestRetire(t *testing.T) {
	const quiet = time.Hour
	for _, c := range []struct {
		name   string
		change func(*bench)
		later  func(*bench)
		after  time.Duration
		called map[bundle.Version]Calls // by then
		oldest bundle.Version
	}{
		{name: "nobody needs them", after: quiet, oldest: 3},
		{name: "not quiet for long enough", after: quiet - time.Minute, oldest: 1},
		{name: "one has called", after: quiet, called: map[bundle.Version]Calls{1: {Begun: 8}, 2: {Begun: 7}}, oldest: 1},
		{name: "a call goes on", after: quiet, called: map[bundle.Version]Calls{1: {Begun: 7}, 2: {Begun: 7, Open: 1}}, oldest: 2},
		{name: "a node is at version 2", change: func(n *bench) { n.record(nil, func(r *view.Record) { r.Version = 2 }) }, after: quiet, oldest: 2},
		{name: "a node has not said its version", change: func(n *bench) { n.record(nil, func(r *view.Record) { r.Version = 0 }) }, after: quiet, oldest: 1},
		{name: "a node comes that has not said its version", after: quiet, later: func(n *bench) { n.record(nil, func(r *view.Record) { r.Version = 0 }) }, oldest: 1},
		{name: "callers of 2 could not be counted", after: quiet, called: map[bundle.Version]Calls{1: {Begun: 7}}, oldest: 2},
		{name: "a node has left", change: func(n *bench) { n.record(nil, func(r *view.Record) { r.Version, r.Left = 1, true }) }, after: quiet, oldest: 3},
		{name: "callers from outside are of version 2", change: func(n *bench) { n.cfg.Services["api"] = Service{Ports: ports, External: 2} }, after: quiet, oldest: 2},
		{name: "no rollout order is known", change: func(n *bench) { clear(n.docs.orders) }, after: quiet, oldest: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newBench(t, at(3))
			n.releases(1, 3, func(_ bundle.Version, cu *bundle.ClassUpgrade) { cu.Past.RetireAfter = bundle.Duration(quiet) })
			n.order(2)
			n.order(3)
			n.record(n.key, func(r *view.Record) { r.Seq, r.Version = n.Number()+5, 3 })
			if c.change != nil {
				c.change(n)
			}
			if r := n.ready(); r.Oldest != 1 {
				t.Fatalf("at first it answers callers from %d on", r.Oldest)
			}
			calls := map[bundle.Version]Calls{1: {Begun: 7}, 2: {Begun: 7}}
			n.Step(n.now, Called{calls})
			n.ready()
			if c.called != nil {
				calls = c.called
			}
			if c.later != nil {
				c.later(n)
			}
			n.Step(n.now.Add(c.after), Called{calls})
			if r := n.ready(); r.Oldest != c.oldest {
				t.Errorf("answers callers from %d on, want %d", r.Oldest, c.oldest)
			}
			// What is retired stays so after a restart, also when an old node comes.
			s := n.State()
			again, err := New(n.cfg, Memory{State: &s, Answering: n.Answering()}, n.now)
			if err != nil {
				t.Fatal(err)
			}
			after := &bench{again, t, n.key}
			after.releases(1, 3)
			after.record(nil, func(r *view.Record) { r.Version = 1 })
			if r := after.ready(); r.Oldest != c.oldest {
				t.Errorf("after an old node has come it answers from %d on, want %d", r.Oldest, c.oldest)
			}
		})
	}
}

// While an upgrade is under way nothing is retired.
func TestRetireWaitsForUpgrade(t *testing.T) {
	n := newBench(t, upgrade.State{Phase: upgrade.Waiting, Version: 3, Running: 3, Served: true, Goal: 4, Path: []bundle.Version{4}})
	n.releases(1, 4)
	n.routing.told.Watched = []bundle.Version{1, 2}
	n.listen(n.routing.told.Watched)
	n.Step(n.now.Add(1000*time.Hour), Called{map[bundle.Version]Calls{}})
	if w := n.routing.answering; w.Oldest != 0 {
		t.Errorf("%+v", w)
	}
}

// What is retired while the disk is full is not: somebody may come who needs it.
func TestRetiredOnceDurable(t *testing.T) {
	for _, comes := range []bool{true, false} {
		n := newBench(t, at(2))
		n.releases(1, 2)
		n.order(2)
		n.record(n.key, func(r *view.Record) { r.Seq, r.Version = n.Number()+5, 2 })
		n.ready()
		quiet := 10_000 * time.Hour
		retire := func() {
			for range 2 { // what came before the first was not heard
				n.Step(n.now.Add(quiet), Called{map[bundle.Version]Calls{1: {}}})
			}
		}
		retire()
		if r := n.Ready(); r.Save == nil || r.Save.Answering == nil || r.Save.Answering.Oldest != 2 {
			t.Fatalf("nothing is to be retired: %+v", r.Save)
		}
		n.Refused("no room")
		if r := n.Ready(); r.Save != nil || r.Route != nil || n.Route().Oldest != 1 {
			t.Errorf("refused, and it answers from %d on", n.Route().Oldest)
		}
		want := bundle.Version(2)
		if comes {
			n.record(nil, func(r *view.Record) { r.Version = 1 })
			want = 1
		}
		n.Step(n.now, Tick{})
		n.ready()
		retire()
		if r := n.ready(); r.Oldest != want {
			t.Errorf("with room again, and an old node there: %v, it answers from %d on", comes, r.Oldest)
		}
	}
}

// Nothing new is no work: what stands is told once.
func TestRouteIsToldOnce(t *testing.T) {
	n := newBench(t, at(9))
	n.releases(1, 9)
	n.ready()
	n.Step(n.now, Tick{})
	n.Step(n.now, Members{})
	if r := n.Ready(); r.Route != nil || r.Directory != nil || n.routing.stale {
		t.Errorf("told again: %+v", r)
	}
}

const public = "10.0.0.2:7000"

// claim has a node say that an address is its own.
func (n *bench) claim(key ed25519.PrivateKey, name, to string, change ...func(*view.Record)) bundle.NodeID {
	return n.record(key, func(r *view.Record) {
		r.Name = name
		r.Services = map[string]view.ServiceAddr{"api": {Public: public, Versions: map[bundle.Version]string{1: to}, Native: 1, Attach: "relay", Egress: "proxy", Protocol: "http"}}
		for _, f := range change {
			f(r)
		}
	})
}

func (n *bench) leads(what, want string) {
	n.t.Helper()
	n.ready()
	if got := n.directory[PublicAddr{Addr: public}].Versions[1]; got != want {
		n.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// Of several nodes that claim an address it is one's that is alive, then one's whose
// agent is at that host; the rest all peers decide alike, whatever they heard first.
func TestDirectory(t *testing.T) {
	var claims []func(*bench)
	ids := map[string]bundle.NodeID{}
	for i := range 6 {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		to := fmt.Sprintf("10.0.0.2:%d", 20+i)
		ids[to] = bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
		claims = append(claims, func(n *bench) {
			n.claim(key, "n", to, func(r *view.Record) {
				r.Since = r.Since.Add(time.Duration(i) * time.Hour)
				if i >= 3 {
					r.Addr = "10.0.0.9:7946"
				}
			})
		})
	}
	alive := func(tos ...string) Members {
		m := Members{Alive: map[bundle.NodeID]bool{}}
		for _, to := range tos {
			m.Alive[ids[to]] = true
		}
		return m
	}
	var first string
	for turn := range claims {
		n := newBench(t, at(1))
		n.claim(nil, "gone", "10.0.0.2:1", func(r *view.Record) { r.Left = true })
		n.leads("left", "")
		for i := range claims {
			claims[(turn+i)%len(claims)](n)
			n.ready()
		}
		got := n.directory[PublicAddr{Addr: public}].Versions[1]
		if first == "" {
			first = got
		}
		if got != first || got >= "10.0.0.2:23" {
			t.Errorf("heard in another order it is %s, else %s", got, first)
		}
		n.Step(n.now, alive("10.0.0.2:25"))
		n.leads("the one that is alive", "10.0.0.2:25")
		if n.alarmed(public) {
			t.Errorf("only one is alive: %q", n.Alarms())
		}
		n.Step(n.now, alive("10.0.0.2:21", "10.0.0.2:25"))
		n.leads("of two that are alive the one at that host", "10.0.0.2:21")
		if !n.alarmed(public) {
			t.Error("no alarm of two live nodes with one address")
		}
		n.Step(n.now, alive("10.0.0.2:25"))
		n.leads("the one that is left", "10.0.0.2:25")
		if n.alarmed(public) {
			t.Errorf("the clash is over: %q", n.Alarms())
		}
	}
}

// A member leads nobody's callers to a machine that is not its own, however late it
// says that its record was made.
func TestDirectoryIsNotPoisoned(t *testing.T) {
	n := newBench(t, at(1))
	victim := n.claim(nil, "victim", "10.0.0.2:7001")
	n.Step(n.now, Members{Alive: map[bundle.NodeID]bool{victim: true}})
	n.leads("its own", "10.0.0.2:7001")
	evil := n.claim(nil, "evil", "6.6.6.6:666", func(r *view.Record) {
		r.Addr, r.Since = "6.6.6.6:7946", time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
		r.Services["none"] = view.ServiceAddr{Public: public, Protocol: "http"}
		r.Services["db"] = view.ServiceAddr{Public: "10.9.9.9:5432", Versions: map[bundle.Version]string{1: "6.6.6.6:5432"}, Protocol: "tcp"}
	})
	for _, alive := range []map[bundle.NodeID]bool{{victim: true, evil: true}, {victim: true}} {
		n.Step(n.now, Members{Alive: alive})
		n.leads("claimed by another", "10.0.0.2:7001")
	}
	n.Step(n.now, Members{Alive: map[bundle.NodeID]bool{evil: true}})
	n.leads("of a node that is down", "10.0.0.2:7001")
	if to, listed := n.directory[PublicAddr{Addr: "10.9.9.9:5432"}]; listed {
		t.Errorf("calls of an address that no node has go to %v", to)
	}
}

// Services of TCP and UDP may have one number, of one node or of two.
func TestDirectoryNetworks(t *testing.T) {
	n := newBench(t, at(1))
	n.claim(nil, "n2", "10.0.0.2:7001", func(r *view.Record) {
		udp := r.Services["api"]
		udp.Protocol, udp.Versions = "udp", map[bundle.Version]string{1: "10.0.0.2:8001"}
		r.Services["log"] = udp
	})
	n.leads("of TCP", "10.0.0.2:7001")
	if got := n.directory[PublicAddr{public, true}].Versions[1]; got != "10.0.0.2:8001" {
		t.Errorf("of UDP: %q", got)
	}
}

// A decision that the disk refused, and that was all there was to save, does not keep
// the node from deciding once there is room.
func TestRefusedDecisionIsOver(t *testing.T) {
	n := newBench(t, at(1))
	n.ready()
	n.Refused("no room") // of what was taken back since
	n.Step(n.now, Tick{})
	if n.waits() || n.full != "" {
		t.Errorf("it waits %v, and says %q", n.waits(), n.full)
	}
}

// A release that is read anew is not given up meanwhile.
func TestRouteWaitsForReading(t *testing.T) {
	n := newBench(t, at(1))
	n.releases(1, 3)
	n.ready()
	delete(n.docs.manifests, 2)
	n.docs.read = []Document{{Kind: KindManifest, Release: 2}}
	n.routing.stale = true
	if r := n.Ready(); r.Route != nil {
		t.Errorf("while release 2 is being read it answers %d to %d", r.Route.Oldest, r.Route.Newest)
	}
	n.docs.read, n.rests = nil, false
	if r := n.Ready(); r.Route == nil || r.Route.Newest != 1 {
		t.Errorf("release 2 is not here: %+v", r.Route)
	}
}

// TestRouteEqual: each field counts, also one that is new.
func TestRouteEqual(t *testing.T) {
	for i := range reflect.TypeFor[Route]().NumField() {
		var r Route
		switch f := reflect.ValueOf(&r).Elem().Field(i); f.Kind() {
		case reflect.Uint64:
			f.SetUint(1)
		case reflect.Int64:
			f.SetInt(1)
		case reflect.Map:
			f.Set(reflect.MakeMap(f.Type()))
			f.SetMapIndex(reflect.Zero(f.Type().Key()), reflect.Zero(f.Type().Elem()))
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		}
		if r.equal(Route{}) || !r.equal(r) {
			t.Errorf("%s makes no difference", reflect.TypeFor[Route]().Field(i).Name)
		}
	}
}
