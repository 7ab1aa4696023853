package agent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"time"

	"moult/agent/objects"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/simlayer"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// serving is what the routing is made of. It is worked out anew only when what
// it comes from has changed, for route is called after every event.
type serving struct {
	from     servingFrom
	external bundle.Version

	// holding: the software is up, and calls wait for the objects to follow. letIn,
	// where there is one, gets the outcome when they wait no more; it has room for it.
	holding bool
	letIn   chan error

	// err says why failed could not be put in force; it is tried again from
	// retry on.
	err    error
	failed simlayer.Routing
	retry  time.Time
}

// servingFrom tells whether the documents or the machine say anything new. Of
// the documents it is enough to count them: those of one trust set are fixed,
// and only arrive.
type servingFrom struct {
	native, settled            bundle.Version
	trust                      bundle.Digest
	manifests, orders, missing int
	frozen                     int // releases; they never become fewer
}

// route tells the simulation layer who answers whom now. What goes wrong is an
// alarm, and is tried again.
func (a *Agent) route() { _ = a.routeNow() }

// routeNow is route, for whoever must know why callers cannot be routed. A node
// that has never had software answers nobody: its callers wait.
func (a *Agent) routeNow() error {
	s := a.saved
	native := s.Running
	if native == 0 {
		native = a.speaks // it is being installed
	}
	if native == 0 {
		return nil
	}
	up := a.node.GateFor(s).Open
	now := time.Now()
	hold := a.holdTimeout(s)
	a.prepare(s, native)
	a.objects.Arrange(objects.Node{Native: native, Settled: s.Version, Backends: a.backends(), Up: up, Down: s.Phase.Down(), Hold: hold}, now)
	a.serving.holding = up && a.objects.Holds(a.routed.Native != 0 && !a.routed.Down, now)
	up = up && !a.serving.holding
	err := a.apply(simlayer.Routing{
		Native: native, Backends: a.backends(), Protocols: a.protocols(), Processes: a.live.processes, Down: !up, HoldTimeout: hold,
		Objects: a.objects.Lead(up), External: a.serving.external, Egress: a.speaks,
		Watched: maps.Clone(a.watched),
	}, now)
	if !a.serving.holding && a.serving.letIn != nil {
		a.serving.letIn <- err
		a.serving.letIn = nil
	}
	if err == nil || !a.objects.Near() {
		a.objects.Follow(now)
	}
	return err
}

// apply puts a routing in force, unless it is, or has just failed.
func (a *Agent) apply(r simlayer.Routing, now time.Time) error {
	switch {
	case sameRouting(r, a.routed):
		a.serving.err = nil
		return nil
	case a.serving.err != nil && sameRouting(r, a.serving.failed) && now.Before(a.serving.retry):
		return a.serving.err
	}
	if err := a.layer.Apply(r); err != nil {
		a.alarmOf(causeRouting, fmt.Sprintf("callers cannot be routed: %v", err))
		a.serving.err, a.serving.failed, a.serving.retry = err, r, now.Add(routePause)
		return err
	}
	a.routed, a.serving.err = r, nil
	a.alarmOf(causeRouting, "")
	return nil
}

// causeRouting is that of an alarm.
const causeRouting = "routing"

func sameRouting(a, b simlayer.Routing) bool {
	return a.Native == b.Native && a.Down == b.Down && a.HoldTimeout == b.HoldTimeout && a.External == b.External && a.Egress == b.Egress &&
		maps.Equal(a.Watched, b.Watched) && maps.Equal(a.Backends, b.Backends) && maps.Equal(a.Protocols, b.Protocols) && slices.Equal(a.Processes, b.Processes) && maps.EqualFunc(a.Objects, b.Objects, simlayer.Object.Equal)
}

// backends are the software's addresses of the services that this node is
// configured with. A release may have more: nobody calls them here.
func (a *Agent) backends() map[string]string {
	b := make(map[string]string, len(a.cfg.Services))
	for name := range a.cfg.Services {
		if addr, ok := a.live.backends[name]; ok {
			b[name] = addr
		}
	}
	return b
}

// lacks lists the configured services that software with these services does
// not have.
func (a *Agent) lacks(services []string) (missing []string) {
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Services)) {
		if !slices.Contains(services, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// prepare works out what callers from outside count as, and which objects there are,
// where something has changed.
func (a *Agent) prepare(s upgrade.State, native bundle.Version) {
	from := servingFrom{
		native: native, settled: s.Version, trust: a.trust.Digest(), frozen: a.node.FrozenReleases(),
		manifests: len(a.node.Manifests()), orders: len(a.node.Orders()), missing: a.node.MissingDocuments(),
	}
	if from == a.serving.from && !a.viewNews {
		return
	}
	a.serving.from = from
	a.serving.external = a.advance(a.external(s, native))
	a.objects.Offer(a.fit(native, a.simulations(native)))
}

// simulations returns the simulation objects of a node whose software is of
// version native: for callers of older versions as far back as the releases are
// known and not retired, and of newer ones up to the newest that is not frozen. In
// which phase the node is, and whether the rollout of a release goes on, does not
// matter: peers that have settled at it call this node.
func (a *Agent) simulations(native bundle.Version) map[bundle.Version]objects.Object {
	all := map[bundle.Version]objects.Object{}
	if len(a.cfg.Services) == 0 {
		return all // nobody calls
	}
	for v := native; v > max(1, a.answering.Oldest) && native-v < so.MaxChain; v-- {
		m := a.node.Manifests()[v]
		if m == nil {
			break
		}
		if cu, changes := m.Classes[a.cfg.Class]; changes && cu.From == 0 {
			break // the class begins here
		}
		all[v-1] = objects.Of(m, a.cfg.Class, a.platform, true)
	}
	for v := native + 1; v-native <= so.MaxChain; v++ {
		m := a.node.Manifests()[v]
		if m == nil || a.node.Conflicted(v) {
			break
		}
		all[v] = objects.Of(m, a.cfg.Class, a.platform, false)
	}
	return all
}

// fit leaves out of the objects those for which there are no ports, the oldest
// first. It is an alarm where callers of such a version are still about.
func (a *Agent) fit(native bundle.Version, all map[bundle.Version]objects.Object) map[bundle.Version]objects.Object {
	oldest, newest := native, native
	for v := range all {
		oldest, newest = min(oldest, v), max(newest, v)
	}
	n, narrow := a.room()
	lo, hi := window(oldest, native, newest, bundle.Version(n))
	if lo == oldest && hi == newest {
		return all
	}
	needed := a.serving.external
	for _, s := range a.cfg.Services {
		if s.External != 0 {
			needed = min(needed, s.External)
		}
	}
	if lo > max(oldest, needed) || hi < newest {
		a.alarm("there is room for callers of %d versions only, and callers of more are about: the oldest are not answered; bring all nodes up to date, or widen `versions` of %s in agent.hcl", n, narrow)
	}
	maps.DeleteFunc(all, func(v bundle.Version, _ objects.Object) bool { return v < lo || v > hi })
	return all
}

// window cuts the run of versions from oldest to newest to n, native among them:
// the oldest go first, and of the newest only those that native leaves no room.
func window(oldest, native, newest, n bundle.Version) (lo, hi bundle.Version) {
	lo, hi = oldest, min(newest, native+n-1)
	if hi-lo >= n {
		lo = hi - n + 1
	}
	return lo, hi
}

// room returns how many versions have an address at every service, and what to
// widen for more.
func (a *Agent) room() (n int, narrow string) {
	n, narrow = maxOffered, "nothing, it is the most that a record has room for,"
	if len(a.cfg.Services) > 0 {
		n = min(n, maxAddresses/len(a.cfg.Services))
	}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Services)) {
		s := a.cfg.Services[name]
		if ports := s.Last - s.First + 1; s.First != 0 && ports < n {
			n, narrow = ports, fmt.Sprintf("service %q", name)
		}
	}
	return max(n, 1), narrow
}

// holdTimeout is how long a call may wait for the node.
func (a *Agent) holdTimeout(s upgrade.State) time.Duration {
	for _, v := range []bundle.Version{s.Goal, s.EndedRelease, s.Running} {
		if m := a.node.Manifests()[v]; m != nil {
			if cu, ok := m.Classes[a.cfg.Class]; ok && cu.Schedule.HoldTimeout > 0 {
				return time.Duration(cu.Schedule.HoldTimeout)
			}
		}
	}
	return holdTimeout
}

// external is the version that callers from outside speak: the newest that is
// settled everywhere. Nodes that have left, or that the newest order skips, are
// nowhere.
func (a *Agent) external(s upgrade.State, native bundle.Version) bundle.Version {
	v := native
	if s.Version != 0 {
		v = min(v, s.Version)
	}
	skipped := a.skipped()
	for r := range a.node.View().Snapshot().All() {
		if r.Node != a.id && !r.Left && r.Version != 0 && !skipped[r.Node] {
			v = min(v, r.Version)
		}
	}
	return v
}

// skipped returns the nodes that the newest order has no place for any more: the
// operator's word that they are gone.
func (a *Agent) skipped() map[bundle.NodeID]bool {
	var newest *schedule.Order
	for _, o := range a.node.Orders() {
		if newest == nil || o.Release > newest.Release {
			newest = o
		}
	}
	gone := map[bundle.NodeID]bool{}
	if newest == nil {
		return gone
	}
	for _, c := range newest.Classes {
		for _, i := range c.Skipped {
			gone[c.Roster[i]] = true
		}
		for i, id := range c.Roster {
			if _, skips := slices.BinarySearch(c.Skipped, i); !skips {
				delete(gone, id)
			}
		}
	}
	return gone
}

// directory says where each service of each peer answers callers of each version, by
// its public address.
type directory map[publicAddr]peerService

// publicAddr is an address of TCP or UDP: services of both may have one number.
type publicAddr struct {
	addr string
	udp  bool
}

type peerService struct {
	node     string
	versions map[bundle.Version]string
}

// list makes the directory anew from the view. Where two nodes say that one
// address is theirs, as when a machine was installed anew, it is the one's that
// is alive, or was last heard of in a new phase.
func (a *Agent) list(s *view.Snapshot) {
	d := directory{}
	owners := map[publicAddr]view.Record{}
	for r := range s.All() {
		if r.Left {
			continue
		}
		for _, service := range r.Services {
			public := publicAddr{service.Public, service.Protocol == bundle.ProtocolUDP}
			owner, claimed := owners[public]
			if claimed && owner.Node != r.Node && a.alive[owner.Node] && a.alive[r.Node] {
				a.alarm("nodes %s (%s) and %s (%s) both say that %s is their address: give one of them another in its agent.hcl",
					owner.Name, owner.Node.Short(), r.Name, r.Node.Short(), service.Public)
			}
			if claimed && !a.supersedes(r, owner) {
				continue
			}
			owners[public] = r
			d[public] = peerService{node: r.Name, versions: service.Versions}
		}
	}
	a.directory.Store(&d)
	a.redirect()
}

// supersedes reports whether r rather than owner has the address of both.
func (a *Agent) supersedes(r, owner view.Record) bool {
	if a.alive[r.Node] != a.alive[owner.Node] {
		return a.alive[r.Node]
	}
	return r.Since.After(owner.Since)
}

// resolve finds the address at which the peer behind a public address answers
// callers of version v: the egress proxy's question, which is one of TCP. Where there
// is only a service of UDP it is that one's. It may be called from anywhere.
func (a *Agent) resolve(dest string, v bundle.Version) (addr string, isPeer bool, err error) {
	d := a.directory.Load()
	if d == nil {
		return "", false, nil
	}
	service, ok := (*d)[publicAddr{addr: dest}]
	if !ok {
		service, ok = (*d)[publicAddr{dest, true}]
	}
	if !ok {
		return "", false, nil
	}
	addr, ok = service.versions[v]
	if !ok {
		return "", true, fmt.Errorf("node %s at %s does not answer callers of version %d", service.node, dest, v)
	}
	return addr, true, nil
}

// protocols returns the protocol of every configured service.
func (a *Agent) protocols() map[string]string {
	all := make(map[string]string, len(a.cfg.Services))
	for name := range a.cfg.Services {
		all[name] = a.protocolOf(name)
	}
	return all
}

// protocolOf returns the protocol of a service, as the newest release says that the
// software which runs, or ran last, has reached: what a later one changes is no matter
// before this node goes there. Where no such release is known it is what agent.hcl says,
// and else the next release; before any software has run, the newest.
func (a *Agent) protocolOf(name string) string {
	said := a.cfg.Services[name].Protocol
	if ad := a.cfg.Adopt; ad != nil {
		if s, ok := ad.Services[name]; ok {
			said = s.Protocol
		}
	}
	at := a.saved.Running
	if a.speaks != 0 {
		at = a.speaks // it is there before the machine is, and after
	}
	var reached, next bundle.Version
	for v, m := range a.node.Manifests() {
		switch _, ok := m.Classes[a.cfg.Class].Services[name]; {
		case !ok:
		case at == 0 || v <= at:
			reached = max(reached, v)
		case next == 0 || v < next:
			next = v
		}
	}
	if reached == 0 && said == "" {
		reached = next
	}
	if reached != 0 {
		return a.node.Manifests()[reached].Classes[a.cfg.Class].Services[name].Protocol
	}
	if said == "" {
		return bundle.ProtocolHTTP
	}
	return said
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}

func listenTCP(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// closeWith closes c and keeps both errors.
func closeWith(err error, c io.Closer) error { return errors.Join(err, c.Close()) }
