package agent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/objects"
	"moult/simlayer"
	"moult/store/bundle"
)

// serving is how the routing is put in force.
type serving struct {
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

// answer takes in whom the node answers from now on.
func (a *Agent) answer(r node.Route) {
	all := map[bundle.Version]objects.Object{}
	for v := r.Oldest; v < r.Native; v++ {
		all[v] = objects.Of(a.node.Manifests()[v+1], a.cfg.Class, a.platform, true)
	}
	for v := r.Native + 1; v <= r.Newest; v++ {
		all[v] = objects.Of(a.node.Manifests()[v], a.cfg.Class, a.platform, false)
	}
	if r.Native != a.answers.Native || r.Oldest != a.answers.Oldest || r.Newest != a.answers.Newest || !maps.Equal(r.Releases, a.answers.Releases) {
		a.objects.Offer(all)
	}
	speaks := a.answers.Speaks
	a.answers = r
	if speaks != r.Speaks {
		a.redirect()
	}
}

// route tells the simulation layer who answers whom now. What goes wrong is an
// alarm, and is tried again.
func (a *Agent) route() { _ = a.routeNow() }

// routeNow is route, for whoever must know why callers cannot be routed. A node
// that has never had software answers nobody: its callers wait.
func (a *Agent) routeNow() error {
	s, to := a.saved, a.answers
	if to.Native == 0 {
		return nil
	}
	up := a.node.GateFor(s).Open
	now := time.Now()
	a.objects.Arrange(objects.Node{Native: to.Native, Settled: s.Version, Backends: a.backends(), Up: up, Down: s.Phase.Down(), Hold: to.Hold}, now)
	a.serving.holding = up && a.objects.Holds(a.routed.Native != 0 && !a.routed.Down, now)
	up = up && !a.serving.holding
	err := a.apply(simlayer.Routing{
		Native: to.Native, Backends: a.backends(), Protocols: to.Protocols, Processes: a.live.processes, Down: !up, HoldTimeout: to.Hold,
		Objects: a.objects.Lead(up), External: to.External, Egress: to.Speaks, Watched: watched(to),
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

// watched are the versions whose callers must come through the agent, which else does
// not hear of those whose calls pass unchanged.
func watched(r node.Route) map[bundle.Version]bool {
	set := map[bundle.Version]bool{}
	for _, v := range r.Watched {
		set[v] = true
	}
	return set
}

// resolve finds the address at which the peer behind a public address answers
// callers of version v: the egress proxy's question, which is one of TCP. Where there
// is only a service of UDP it is that one's. It may be called from anywhere.
func (a *Agent) resolve(dest string, v bundle.Version) (addr string, isPeer bool, err error) {
	d := a.directory.Load()
	if d == nil {
		return "", false, nil
	}
	peer, ok := (*d)[node.PublicAddr{Addr: dest}]
	if !ok {
		peer, ok = (*d)[node.PublicAddr{Addr: dest, UDP: true}]
	}
	if !ok {
		return "", false, nil
	}
	addr, ok = peer.Versions[v]
	if !ok {
		return "", true, fmt.Errorf("node %s at %s does not answer callers of version %d", peer.Name, dest, v)
	}
	return addr, true, nil
}

// guide takes in where peers answer from now on.
func (a *Agent) guide(d node.Directory) {
	a.directory.Store(&d)
	a.redirect()
}

func listenTCP(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// closeWith closes c and keeps both errors.
func closeWith(err error, c io.Closer) error { return errors.Join(err, c.Close()) }
