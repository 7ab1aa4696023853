package node

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// Service is one that a node is configured to offer.
type Service struct {
	Protocol string         // that its configuration gives; "" for none
	External bundle.Version // of callers of its public address; 0: all nodes tell
	Ports    int            // that its versioned addresses may have; 0: as many as it takes
}

// Route says whom the node answers.
type Route struct {
	// Native is the version of the software; 0 while there is none, and all callers
	// wait. Speaks is what labels its calls to peers: it is there before the machine
	// is, and after.
	Native, Speaks bundle.Version
	// Oldest and Newest bound the versions whose callers are answered: older ones
	// than Native by past objects, newer ones by future objects.
	Oldest, Newest bundle.Version
	// Releases has the manifests that the objects are taken from: none of a release
	// that is withdrawn, which changes nothing for callers.
	Releases map[bundle.Version]bundle.Digest
	// External is what callers of the public addresses are taken for.
	External bundle.Version
	// Watched lists, rising, versions that nobody but callers from outside can need:
	// who calls by them must be seen, and told by Called.
	Watched   []bundle.Version
	Protocols map[string]string // of each service
	Hold      time.Duration     // how long a call may wait for the node
}

func (r Route) equal(o Route) bool {
	return r.Native == o.Native && r.Speaks == o.Speaks && r.Oldest == o.Oldest && r.Newest == o.Newest && maps.Equal(r.Releases, o.Releases) &&
		r.External == o.External && slices.Equal(r.Watched, o.Watched) && maps.Equal(r.Protocols, o.Protocols) && r.Hold == o.Hold
}

// routing is what the node knows of its callers.
type routing struct {
	told  Route // as the driver has it
	peers peers
	stale bool // peers, and so what is told, may be older than what is known
	fresh bool // told is what is known, and durable
	// answering is as it will be once all is saved, saved as it is durable.
	answering, saved Answering
	heard            map[bundle.Version]heard // of the versions that are watched
}

// heard is when callers of a version last called, as far as this agent has seen. It
// counts from when the agent began to listen to them.
type heard struct {
	begun int64
	at    time.Time
}

// Answering says whom a node answers, as far as that only ever changes one way.
// Where it is lost, the node answers more callers than it must.
type Answering struct {
	// Oldest is the oldest version whose callers are answered: the objects for older
	// ones are retired.
	Oldest bundle.Version `json:"oldest"`
	// External is what callers of the public addresses are taken for. It does not go
	// back when a node of an older version joins: those who call from outside have
	// gone on.
	External bundle.Version `json:"external"`
}

// Answering is what is durable of whom this node answers.
func (n *Node) Answering() Answering { return n.routing.saved }

// Route is whom the node answers now.
func (n *Node) Route() Route {
	n.refreshView()
	return n.routeFor(n.saved, n.routing.saved)
}

// routeFor says whom the node answers in a state that is durable, or is about to be.
func (n *Node) routeFor(s upgrade.State, w Answering) Route {
	r := Route{
		Native: s.Running, Speaks: n.software.speaks, Releases: map[bundle.Version]bundle.Digest{},
		Hold: n.hold(s), Protocols: n.protocols(s),
	}
	if r.Native == 0 {
		r.Native = r.Speaks // it is being installed
	}
	if r.Native == 0 {
		return r
	}
	r.External = max(n.everywhere(s, r.Native), w.External)
	oldest, newest := n.span(r.Native, w.Oldest)
	room, _ := n.room()
	r.Oldest, r.Newest = window(oldest, r.Native, newest, bundle.Version(room))
	for v := r.Oldest; v <= r.Newest; v++ {
		if d, ok := n.docs.known[v]; ok && !n.docs.struck[v] {
			r.Releases[v] = d
		}
	}
	r.Watched = n.watch(s, r, w)
	return r
}

// peers is how far the other nodes are. Those that have left, that the newest order
// skips, or that do not belong to the cluster, are nowhere.
type peers struct {
	least  bundle.Version // of those that have said which they have; 0: nobody has
	silent bool           // one has not
}

// refreshView looks at the view anew, where something has changed, and keeps that every
// node has settled at a version or a newer one. A view may lack nodes, so what it says
// is kept only where the rollout order of that release names everyone and each has
// said that it is done.
func (n *Node) refreshView() {
	if !n.routing.stale {
		return
	}
	n.routing.stale = false
	pending := n.membersPending()
	p := peers{silent: pending}
	for r := range n.view.All() {
		switch {
		case r.Node == n.cfg.Self || r.Left || n.skipped(r.Node) || n.Stranger(r.Node) && !n.awaitsMembers():
		case r.Version == 0:
			p.silent = true
		case p.least == 0 || r.Stands() < p.least:
			p.least = r.Stands()
		}
	}
	n.routing.peers = p
	v := n.everywhere(n.saved, n.saved.Running)
	if o := n.docs.orders[v]; v > n.routing.answering.External && !pending && o != nil && n.cfg.Rules.Complete(o, n.view.Get) {
		n.routing.answering.External = v
	}
	n.alarm(causePorts, n.crowded(n.saved, n.routing.saved))
	n.routing.fresh = false
}

// everywhere is the newest version that is settled everywhere, which is what callers
// from outside speak.
func (n *Node) everywhere(s upgrade.State, native bundle.Version) bundle.Version {
	for _, v := range []bundle.Version{s.Version, n.routing.peers.least} {
		if v != 0 {
			native = min(native, v)
		}
	}
	return native
}

// skipped reports whether the operator's word is that a node is gone, and it is not
// there all the same: it has no open place in the newest order that names it.
func (n *Node) skipped(id bundle.NodeID) bool {
	if n.skips == nil {
		n.skips = map[bundle.NodeID]bool{}
		for _, v := range slices.Backward(sorted(n.docs.orders)) {
			for _, class := range sorted(n.docs.orders[v].Classes) {
				n.noteSkips(n.docs.orders[v].Classes[class])
			}
		}
	}
	return n.skips[id] && !n.alive[id]
}

// noteSkips takes in a class of an order older than those that were taken in before.
func (n *Node) noteSkips(c schedule.ClassOrder) {
	open := map[bundle.NodeID]bool{}
	for i, id := range c.Roster {
		_, skips := slices.BinarySearch(c.Skipped, i)
		open[id] = open[id] || !skips
	}
	for _, id := range c.Roster {
		if _, judged := n.skips[id]; !judged {
			n.skips[id] = !open[id]
		}
	}
}

// span returns the oldest and the newest version whose callers there are objects for:
// as far back as the releases are known and not retired, and up to the newest that is
// not frozen. In which phase the node is, and whether the rollout of a release goes
// on, does not matter: peers that have settled at it call this node.
func (n *Node) span(native, kept bundle.Version) (oldest, newest bundle.Version) {
	if len(n.cfg.Services) == 0 {
		return native, native // nobody calls
	}
	for oldest = native; oldest > max(1, kept) && native-oldest < maxSteps; oldest-- {
		m := n.docs.manifests[oldest]
		if m == nil {
			break
		}
		if cu, changes := m.Classes[n.cfg.Class]; changes && cu.From == 0 {
			break // the class begins here
		}
	}
	newest = native
	if n.withdrawn().Has(n.cfg.Class, native) {
		return oldest, newest // what follows goes around it, so nothing stands between
	}
	for ; newest-native < maxSteps; newest++ {
		if n.docs.manifests[newest+1] == nil || n.Conflicted(newest+1) {
			break
		}
	}
	return oldest, newest
}

// crowded says that callers are about for whom there are no ports; "" if there are
// none.
func (n *Node) crowded(s upgrade.State, w Answering) string {
	native := s.Running
	if native == 0 {
		return ""
	}
	oldest, newest := n.span(native, w.Oldest)
	room, narrow := n.room()
	lo, hi := window(oldest, native, newest, bundle.Version(room))
	if lo <= max(oldest, n.external(n.everywhere(s, native), w)) && hi == newest {
		return ""
	}
	return fmt.Sprintf("there is room for callers of %d versions only, and there are callers of more: the oldest are not answered; bring all nodes up to date, or widen `versions` of %s in agent.hcl", room, narrow)
}

// external is the oldest version that callers of public addresses may have, of which
// the nodes say v.
func (n *Node) external(v bundle.Version, w Answering) bundle.Version {
	v = max(v, w.External)
	for _, name := range sorted(n.cfg.Services) {
		if at := n.cfg.Services[name].External; at != 0 {
			v = min(v, at)
		}
	}
	return v
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

// room returns how many versions have an address at every service, and what to widen
// for more.
func (n *Node) room() (versions int, narrow string) {
	versions, narrow = maxAnswered, "nothing, it is the most that a record has room for,"
	if len(n.cfg.Services) > 0 {
		versions = min(versions, maxAddresses/len(n.cfg.Services))
	}
	for _, name := range sorted(n.cfg.Services) {
		if ports := n.cfg.Services[name].Ports; ports != 0 && ports < versions {
			versions, narrow = ports, fmt.Sprintf("service %q", name)
		}
	}
	return max(versions, 1), narrow
}

// hold is how long a call may wait for the node.
func (n *Node) hold(s upgrade.State) time.Duration {
	for _, v := range []bundle.Version{s.Goal, s.EndedRelease, s.Running} {
		if m := n.docs.manifests[v]; m != nil {
			if cu, ok := m.Classes[n.cfg.Class]; ok && cu.Schedule.HoldTimeout > 0 {
				return time.Duration(cu.Schedule.HoldTimeout)
			}
		}
	}
	return holdTimeout
}

func (n *Node) protocols(s upgrade.State) map[string]string {
	all := map[string]string{}
	for _, name := range sorted(n.cfg.Services) {
		all[name] = n.protocolOf(name, s.Running)
	}
	return all
}

// protocolOf returns the protocol of a service, as the newest release says that the
// software which runs, or ran last, has reached: what a later one changes is no matter
// before this node goes there. Where no such release is known it is what the
// configuration says, and else the next release; before any software has run, the
// newest.
func (n *Node) protocolOf(name string, at bundle.Version) string {
	said := n.cfg.Services[name].Protocol
	if n.software.speaks != 0 {
		at = n.software.speaks
	}
	var reached, next string
	for _, v := range sorted(n.docs.manifests) {
		s, offers := n.docs.manifests[v].Classes[n.cfg.Class].Services[name]
		switch {
		case !offers:
		case at == 0 || v <= at:
			reached = s.Protocol
		case next == "":
			next = s.Protocol
		}
	}
	for _, p := range []string{reached, said, next} {
		if p != "" {
			return p
		}
	}
	return bundle.ProtocolHTTP
}

// watch lists the versions, the oldest first, that only callers from outside can need:
// the rollout of their successor, or of a newer release, has ended at every node, none
// that the view knows is behind, and callers of public addresses are taken for a newer
// version, too.
func (n *Node) watch(s upgrade.State, r Route, w Answering) (watched []bundle.Version) {
	p := n.routing.peers
	if s.Phase != upgrade.Current || s.Running == 0 || s.Version == 0 || p.silent {
		return n.routing.told.Watched // as before
	}
	needed := min(n.everywhere(s, s.Version), n.external(0, w))
	for v := r.Oldest; v < min(r.Native, needed); v++ {
		if n.mayGoBack(v + 1) {
			break // nodes may come to call by it again
		}
		watched = append(watched, v)
	}
	return watched
}

// listen begins to listen to callers of the versions that are watched from now on.
func (n *Node) listen(watched []bundle.Version) {
	before := n.routing.heard
	n.routing.heard = map[bundle.Version]heard{}
	for _, v := range watched {
		h, known := before[v]
		if !known {
			h = heard{begun: -1, at: n.now} // whatever came before was not heard
		}
		n.routing.heard[v] = h
	}
}

// called takes in who has called, and gives up the objects that nobody needs any more,
// the oldest first, for each answers by way of the next. A call that goes on is
// nobody's to end, and who could not be counted may have called.
func (n *Node) called(by map[bundle.Version]Calls) {
	n.refreshView()
	for _, v := range n.routing.told.Watched {
		now, counted := by[v]
		if before := n.routing.heard[v]; !counted || before.begun != now.Begun || now.Open > 0 {
			n.routing.heard[v] = heard{begun: now.Begun, at: n.now}
		}
	}
	if n.saved.Phase != upgrade.Current || n.saved.Version == 0 || n.routing.peers.silent {
		return
	}
	for _, v := range n.routing.told.Watched {
		if n.now.Sub(n.routing.heard[v].at) < n.quiet(v) {
			break
		}
		n.routing.answering.Oldest = max(n.routing.answering.Oldest, v+1)
	}
}

// quiet is how long nobody must have called for the object that answers callers of v
// to go, as its release's author has set it.
func (n *Node) quiet(v bundle.Version) time.Duration {
	if m := n.docs.manifests[v+1]; m != nil {
		if cu, changes := m.Classes[n.cfg.Class]; changes {
			return time.Duration(cu.Past.Retire())
		}
	}
	return time.Duration(bundle.DefaultRetireAfter)
}
