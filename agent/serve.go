package agent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/simlayer"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// route tells the simulation layer who answers whom now. A node that has never
// had software answers nobody: its callers wait.
func (a *Agent) route() {
	s := a.machine.State()
	if s.Running == 0 {
		return
	}
	up := a.live.ready && a.live.version == s.Running && !s.Phase.Down()
	if s.Phase == upgrade.Probing && !a.live.admitted {
		up = false
	}
	r := simlayer.Routing{
		Native: s.Running, Backends: maps.Clone(a.live.backends), Down: !up,
		HoldTimeout: a.holdTimeout(s), Objects: a.objectsFor(s), External: a.external(s),
	}
	if sameRouting(r, a.routed) {
		return
	}
	if err := a.layer.Apply(r); err != nil {
		a.alarm("callers cannot be routed: %v", err)
		return
	}
	a.routed = r
}

func sameRouting(a, b simlayer.Routing) bool {
	return a.Native == b.Native && a.Down == b.Down && a.HoldTimeout == b.HoldTimeout && a.External == b.External &&
		maps.Equal(a.Backends, b.Backends) && maps.Equal(a.Objects, b.Objects)
}

// objectsFor returns the simulation objects of this node: those of every
// release below its version, and of the release that it is staged for.
func (a *Agent) objectsFor(s upgrade.State) map[bundle.Version]so.Object {
	objects := map[bundle.Version]so.Object{}
	if s.Running == 0 {
		return objects
	}
	for v, m := range a.docs.manifests {
		cu, changes := m.Classes[a.cfg.Class]
		switch {
		case v <= s.Running && v > 1:
			objects[v-1] = a.object(changes, cu.Past)
		case v > s.Running && v <= a.answersUpTo(s):
			objects[v] = a.object(changes, cu.Future)
		}
	}
	for v, o := range objects {
		if o == nil {
			delete(objects, v)
		}
	}
	return objects
}

// answersUpTo is the newest version whose callers this node answers: its own
// settled one, or, from waiting on, the one that it is staged for.
func (a *Agent) answersUpTo(s upgrade.State) bundle.Version {
	switch s.Phase {
	case upgrade.Current, upgrade.Fetching, upgrade.Settled:
		return s.Version
	case upgrade.Held:
		return max(s.Version, s.EndedRelease)
	}
	return max(s.Version, s.Goal)
}

// object makes the simulation object that a release asks for; nil where its
// rules have not arrived.
func (a *Agent) object(changes bool, s bundle.Simulation) so.Object {
	if !changes || s.Kind == bundle.SimulateCompatible {
		return so.Compatible()
	}
	if s.Kind == bundle.SimulateRefuse {
		return so.Refuse(s.Reason)
	}
	if o, ok := a.rules[s.Rules.Digest]; ok {
		return o
	}
	data, ok, err := a.depot.Blob(s.Rules.Digest)
	if err != nil || !ok {
		return nil
	}
	rules, err := so.ParseRules(data, s.Rules.Digest.Short()+".hcl")
	if err != nil {
		a.alarm("rules %s do not parse here, their callers are refused: %v", s.Rules.Digest.Short(), err)
		return so.Refuse("the rules for this version do not parse")
	}
	a.rules[s.Rules.Digest] = rules
	return rules
}

// holdTimeout is how long a call may wait for the node.
func (a *Agent) holdTimeout(s upgrade.State) time.Duration {
	for _, v := range []bundle.Version{s.Goal, s.EndedRelease, s.Running} {
		if m := a.docs.manifests[v]; m != nil {
			if cu, ok := m.Classes[a.cfg.Class]; ok && cu.Schedule.HoldTimeout > 0 {
				return time.Duration(cu.Schedule.HoldTimeout)
			}
		}
	}
	return holdTimeout
}

// drainTimeout is how long the running software has to end. It is called
// beside the loop.
func (a *Agent) drainTimeout() time.Duration {
	timeout := time.Duration(DefaultHealth().DrainTimeout)
	a.ask(func() {
		v := a.machine.State().Running
		if m := a.docs.manifests[v]; m != nil {
			if cu, ok := m.Classes[a.cfg.Class]; ok {
				timeout = time.Duration(cu.Health.DrainTimeout)
				return
			}
		}
		if ad := a.cfg.Adopt; ad != nil && ad.Version == v {
			timeout = time.Duration(ad.Health.DrainTimeout)
		}
	})
	return timeout
}

// external is the version that callers from outside speak: the newest that is
// settled everywhere.
func (a *Agent) external(s upgrade.State) bundle.Version {
	v := s.Running
	for r := range a.view.Snapshot().All() {
		if !r.Left && r.Version != 0 {
			v = min(v, r.Version)
		}
	}
	return v
}

// directory says where each service of each peer answers callers of each version.
type directory map[string]peerService

type peerService struct {
	node     string
	versions map[bundle.Version]string
}

// list makes the directory anew from the view.
func (a *Agent) list(s *view.Snapshot) {
	d := directory{}
	for r := range s.All() {
		for _, service := range r.Services {
			d[service.Public] = peerService{node: r.Name, versions: service.Versions}
		}
	}
	a.directory.Store(&d)
}

// resolve finds the address at which the peer behind a public address answers
// callers of version v: the egress proxy's question. It may be called from
// anywhere.
func (a *Agent) resolve(dest string, v bundle.Version) (addr string, isPeer bool, err error) {
	d := a.directory.Load()
	if d == nil {
		return "", false, nil
	}
	service, ok := (*d)[dest]
	if !ok {
		return "", false, nil
	}
	addr, ok = service.versions[v]
	if !ok {
		return "", true, fmt.Errorf("node %s at %s does not answer callers of version %d", service.node, dest, v)
	}
	return addr, true, nil
}

// protocolOf returns the protocol of a service, as the newest release that
// knows it says.
func (a *Agent) protocolOf(name string) string {
	var newest bundle.Version
	protocol := bundle.ProtocolHTTP
	if ad := a.cfg.Adopt; ad != nil {
		if s, ok := ad.Services[name]; ok {
			protocol = s.Protocol
		}
	}
	for v, m := range a.docs.manifests {
		if s, ok := m.Classes[a.cfg.Class].Services[name]; ok && v > newest {
			newest, protocol = v, s.Protocol
		}
	}
	return protocol
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
