package simlayer

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/observe"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// route is a Routing made ready. It does not change.
type route struct {
	native, external bundle.Version
	egress           bundle.Version // 0 before the first routing
	down             bool
	hold             time.Duration
	watched          map[bundle.Version]bool
	backends         map[string]*backend
	processes        []int // of the software
	paths            map[bundle.Version]*path
	observer         *observe.Observer // of the calls at the node; nil where there is none
}

// ticket is a call's stay at the node.
type ticket = gate.Ticket[*route]

// path is the way of the callers of one version: steps in this process first,
// then an object process or the node.
type path struct {
	chain *so.Chain // the steps in this process
	plain bool      // they change nothing
	// via is the version whose object process comes next, at these addresses; 0:
	// the node comes next.
	via      bundle.Version
	backends map[string]*backend
}

// newRoute checks r and makes it ready. Backends that old has too keep their
// connections.
func newRoute(r Routing, services map[string]Service, old *route) (*route, error) {
	switch {
	case r.Native < 1 || r.Native > bundle.MaxVersion:
		return nil, fmt.Errorf("native version %d, want 1 to %d", r.Native, bundle.MaxVersion)
	case r.Egress > bundle.MaxVersion:
		return nil, fmt.Errorf("egress version %d, want at most %d", r.Egress, bundle.MaxVersion)
	case r.HoldTimeout < 0 || r.HoldTimeout > MaxHoldTimeout:
		return nil, fmt.Errorf("hold timeout %v, want 0 to %v", r.HoldTimeout, MaxHoldTimeout)
	}
	n := &route{
		native:   r.Native,
		external: r.External,
		egress:   r.Egress,
		down:     r.Down,
		hold:     r.HoldTimeout,
		watched:  maps.Clone(r.Watched),

		processes: r.Processes,
	}
	if n.external == 0 {
		n.external = n.native
	}
	if n.egress == 0 {
		n.egress = n.native
	}
	if n.hold == 0 {
		n.hold = DefaultHoldTimeout
	}
	var err error
	if n.backends, err = newBackends(r.Backends, services, n.reusable(old.backends, old)); err != nil {
		return nil, err
	}
	for name := range services {
		if n.backends[name] == nil && !n.down {
			return nil, fmt.Errorf("service %q: no backend, and the node is not down", name)
		}
	}
	if err := n.lay(r.Objects, services, old); err != nil {
		return nil, err
	}
	return n, nil
}

// reusable returns those of old's backends that may go on under n.
func (r *route) reusable(b map[string]*backend, old *route) map[string]*backend {
	if old.native != r.native || old.down {
		return nil
	}
	return b
}

// newBackends makes the backends of these addresses by service; those that old
// has too stay.
func newBackends(addrs map[string]string, services map[string]Service, old map[string]*backend) (map[string]*backend, error) {
	all := make(map[string]*backend, len(addrs))
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		s, ok := services[name]
		if !ok {
			return nil, fmt.Errorf("backend %s of service %q: there is no such service", addrs[name], name)
		}
		b, err := newBackend(s.network(), addrs[name])
		if err != nil {
			return nil, fmt.Errorf("backend of service %q: %w", name, err)
		}
		if same := old[name]; same != nil && same.network == b.network && same.addr == b.addr && !same.left() {
			b = same
		}
		all[name] = b
	}
	return all, nil
}

// lay makes the paths of all versions that objects can answer, native among
// them. Objects beyond a gap are left out.
func (r *route) lay(objects map[bundle.Version]Object, services map[string]Service, old *route) error {
	local := make(map[bundle.Version]so.Object, len(objects))
	remote := map[bundle.Version]map[string]*backend{}
	for v, o := range objects {
		switch {
		case (o.Local == nil) == (o.Addrs == nil):
			return fmt.Errorf("simulation object for version %d: want either one in this process or the addresses of one", v)
		case o.Local != nil:
			local[v] = o.Local
			continue
		}
		var kept map[string]*backend
		if p := old.paths[v]; p != nil && p.via == v {
			kept = r.reusable(p.backends, old)
		}
		backends, err := newBackends(o.Addrs, services, kept)
		if err != nil {
			return fmt.Errorf("simulation object for version %d: %w", v, err)
		}
		remote[v] = backends
		local[v] = so.Compatible() // for the search for gaps
	}
	r.paths = map[bundle.Version]*path{}
	for v := range so.Chains(r.native, local) {
		p := &path{}
		end := v
		for end != r.native && remote[end] == nil {
			end = towards(end, r.native)
		}
		if end != r.native {
			p.via, p.backends = end, remote[end]
		}
		var err error
		if p.chain, err = so.NewChain(v, end, local); err != nil {
			return err
		}
		p.plain = so.Transparent(p.chain)
		r.paths[v] = p
	}
	return nil
}

func towards(v, native bundle.Version) bundle.Version {
	if v < native {
		return v + 1
	}
	return v - 1
}

// versions returns those that the route answers.
func (r *route) versions() []bundle.Version {
	return slices.Sorted(maps.Keys(r.paths))
}

// path returns what answers callers of version v of a service, and where it
// leads: to the node, or to an object process.
func (r *route) path(v bundle.Version, service string) (*path, *backend, error) {
	p := r.paths[v]
	if p == nil {
		return nil, nil, &so.Refusal{
			Status: http.StatusNotImplemented,
			Reason: fmt.Sprintf("this node runs version %d and has no simulation object for callers of version %d", r.native, v),
			From:   v, To: r.native,
		}
	}
	if p.via == 0 {
		return p, r.backends[service], nil
	}
	b := p.backends[service]
	if b == nil {
		return nil, nil, &so.Refusal{
			Status: http.StatusNotImplemented,
			Reason: fmt.Sprintf("the simulation object for version %d does not answer for service %q", p.via, service),
			From:   v, To: r.native,
		}
	}
	return p, b, nil
}

// shape gives a refusal the form that callers of a version get, and says whose it is
// where nobody has yet.
func (r *route) shape(v bundle.Version, refusal *so.Refusal) {
	if refusal.From == 0 {
		refusal.From, refusal.To = v, r.native
	}
	if p := r.paths[v]; p != nil {
		p.chain.Shape(refusal)
	}
}

// sign gives a refusal in err the node's version: a chain that ends at an object
// process does not know it.
func (r *route) sign(err error) error {
	var ref *so.Refusal
	if !errors.As(err, &ref) || ref.To == r.native {
		return err
	}
	signed := *ref
	signed.To = r.native
	return &signed
}

// all returns every backend of the route by what it is: the node's services, and
// the object processes'.
func (r *route) all() map[*backend]string {
	all := map[*backend]string{}
	for name, b := range r.backends {
		all[b] = fmt.Sprintf("backend %s of service %q", b.addr, name)
	}
	for _, p := range r.paths {
		for name, b := range p.backends {
			all[b] = fmt.Sprintf("address %s of the simulation object for version %d, service %q,", b.addr, p.via, name)
		}
	}
	return all
}

// release lets go of connections that keep does not use.
func (r *route) release(keep *route) {
	var kept map[*backend]string
	if keep != nil {
		kept = keep.all()
	}
	for b := range r.all() {
		if _, ok := kept[b]; !ok {
			b.release()
		}
	}
}

// relays reports whether callers of a path can be relayed as they are: nothing in
// this process changes their calls, or looks at them.
func (r *route) relays(p *path, s *service) bool {
	return p.plain && (r.observer == nil || s.Protocol != bundle.ProtocolHTTP)
}
