package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"moult/agent/node"
	"moult/agent/objects"
	"moult/simlayer"
	"moult/store/bundle"
)

// serving is how the routing is put in force.
type serving struct {
	// holding: the software is up, and calls wait for the objects to follow. admission,
	// where there is one, is answered when they wait no more.
	holding   bool
	admission *callersWanted

	// err says why failed could not be put in force; it is tried again from
	// retry on.
	err    error
	failed simlayer.Routing
	retry  time.Time
}

// takeRoute takes in whom the node answers from now on.
func (l *loop) takeRoute(r node.Route) {
	all := map[bundle.Version]objects.Object{}
	for v := r.Oldest; v < r.Native; v++ {
		all[v] = objects.Of(l.node.Manifests()[v+1], l.cfg.Class, l.platform, true)
	}
	for v := r.Native + 1; v <= r.Newest; v++ {
		all[v] = objects.Of(l.node.Manifests()[v], l.cfg.Class, l.platform, false)
	}
	if r.Native != l.answering.Native || r.Oldest != l.answering.Oldest || r.Newest != l.answering.Newest || !maps.Equal(r.Releases, l.answering.Releases) {
		l.objects.Offer(all)
	}
	speaks := l.answering.Speaks
	l.answering = r
	if speaks != r.Speaks {
		l.redirect()
	}
}

// route tells the simulation layer who answers whom now. What goes wrong is an
// alarm, and is tried again.
func (l *loop) route() { _ = l.routeNow() }

// routeNow is route, for whoever must know why callers cannot be routed. A node
// that has never had software answers nobody: its callers wait.
func (l *loop) routeNow() error {
	s, to := l.saved, l.answering
	if to.Native == 0 {
		return nil
	}
	up := l.node.GateFor(s).Open
	now := time.Now()
	l.objects.Arrange(objects.Node{Native: to.Native, Settled: s.Version, Backends: l.backends(), Up: up, Down: s.Phase.Down(), Back: s.Reverts != 0, Hold: to.Hold}, now)
	l.serving.holding = up && l.objects.Holds(l.routed.Native != 0 && !l.routed.Down, now)
	up = up && !l.serving.holding
	err := l.apply(simlayer.Routing{
		Native: to.Native, Backends: l.backends(), Protocols: to.Protocols, Processes: l.live.processes, Down: !up, HoldTimeout: to.Hold,
		Objects: l.objects.Lead(up), External: to.External, Egress: to.Speaks, Watched: watched(to),
	}, now)
	if !l.serving.holding && l.serving.admission != nil {
		l.serving.admission.answer(done{}, err)
		l.serving.admission = nil
	}
	if err == nil || !l.objects.CallNode() {
		l.objects.Follow(now)
	}
	return err
}

// letIn lets callers in, and says so when they are.
func (l *loop) letIn(wanted *callersWanted) {
	l.step(node.LetIn{})
	if err := l.routeNow(); err != nil || !l.serving.holding {
		wanted.answer(done{}, err)
		return
	}
	l.serving.admission = wanted
}

// calling is the version as which the software that runs calls its peers; 0 where that
// has not yet been found out.
func (l *loop) calling() bundle.Version { return cmp.Or(l.answering.Speaks, l.saved.Running) }

// apply puts a routing in force, unless it is, or has just failed.
func (l *loop) apply(r simlayer.Routing, now time.Time) error {
	switch {
	case sameRouting(r, l.routed):
		l.serving.err = nil
		return nil
	case l.serving.err != nil && sameRouting(r, l.serving.failed) && now.Before(l.serving.retry):
		return l.serving.err
	}
	if err := l.layer.Apply(r); err != nil {
		l.alarmOf(causeRouting, fmt.Sprintf("callers cannot be routed: %v", err))
		l.serving.err, l.serving.failed, l.serving.retry = err, r, now.Add(routePause)
		return err
	}
	l.routed, l.serving.err = r, nil
	l.alarmOf(causeRouting, "")
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
func (l *loop) backends() map[string]string {
	b := make(map[string]string, len(l.cfg.Services))
	for name := range l.cfg.Services {
		if addr, ok := l.live.backends[name]; ok {
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

// takeDirectory takes in where peers answer from now on.
func (l *loop) takeDirectory(d node.Directory) {
	l.directory.Store(&d)
	l.redirect()
}

// closeWith closes c and keeps both errors.
func closeWith(err error, c io.Closer) error { return errors.Join(err, c.Close()) }
