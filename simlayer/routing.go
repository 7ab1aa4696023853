package simlayer

import (
	"fmt"
	"maps"
	"slices"

	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// newRoute checks r and makes it ready. Backends that old has too keep their
// connections.
func newRoute(r Routing, services map[string]Service, old *routes.Route) (*routes.Route, error) {
	switch {
	case r.Native < 1 || r.Native > bundle.MaxVersion:
		return nil, fmt.Errorf("native version %d, want 1 to %d", r.Native, bundle.MaxVersion)
	case r.Egress > bundle.MaxVersion:
		return nil, fmt.Errorf("egress version %d, want at most %d", r.Egress, bundle.MaxVersion)
	case r.HoldTimeout < 0 || r.HoldTimeout > MaxHoldTimeout:
		return nil, fmt.Errorf("hold timeout %v, want 0 to %v", r.HoldTimeout, MaxHoldTimeout)
	}
	n := &routes.Route{
		Native:   r.Native,
		External: r.External,
		Egress:   r.Egress,
		Down:     r.Down,
		Hold:     r.HoldTimeout,
		Watched:  maps.Clone(r.Watched),

		Processes: r.Processes,
	}
	if n.External == 0 {
		n.External = n.Native
	}
	if n.Egress == 0 {
		n.Egress = n.Native
	}
	if n.Hold == 0 {
		n.Hold = DefaultHoldTimeout
	}
	var err error
	if n.Backends, err = newBackends(r.Backends, services, reusable(n, old, old.Backends)); err != nil {
		return nil, err
	}
	for name := range services {
		if n.Backends[name] == nil && !n.Down {
			return nil, fmt.Errorf("service %q: no backend, and the node is not down", name)
		}
	}
	if err := lay(n, r.Objects, services, old); err != nil {
		return nil, err
	}
	return n, nil
}

// reusable returns those of old's backends that may go on under r.
func reusable(r, old *routes.Route, b map[string]*routes.Backend) map[string]*routes.Backend {
	if old.Native != r.Native || old.Down {
		return nil
	}
	return b
}

// newBackends makes the backends of these addresses by service; those that old
// has too stay.
func newBackends(addrs map[string]string, services map[string]Service, old map[string]*routes.Backend) (map[string]*routes.Backend, error) {
	all := make(map[string]*routes.Backend, len(addrs))
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		s, ok := services[name]
		if !ok {
			return nil, fmt.Errorf("backend %s of service %q: there is no such service", addrs[name], name)
		}
		b, err := routes.NewBackend(s.network(), addrs[name])
		if err != nil {
			return nil, fmt.Errorf("backend of service %q: %w", name, err)
		}
		if same := old[name]; same != nil && same.Network == b.Network && same.Addr == b.Addr && !same.Left() {
			b = same
		}
		all[name] = b
	}
	return all, nil
}

// lay makes r's paths of all versions that objects can answer, native among
// them. Objects beyond a gap are left out.
func lay(r *routes.Route, objects map[bundle.Version]Object, services map[string]Service, old *routes.Route) error {
	local := make(map[bundle.Version]so.Object, len(objects))
	remote := map[bundle.Version]map[string]*routes.Backend{}
	for v, o := range objects {
		switch {
		case (o.Local == nil) == (o.Addrs == nil):
			return fmt.Errorf("simulation object for version %d: want either one in this process or the addresses of one", v)
		case o.Local != nil:
			local[v] = o.Local
			continue
		}
		var kept map[string]*routes.Backend
		if p := old.Paths[v]; p != nil && p.Via == v {
			kept = reusable(r, old, p.Backends)
		}
		backends, err := newBackends(o.Addrs, services, kept)
		if err != nil {
			return fmt.Errorf("simulation object for version %d: %w", v, err)
		}
		remote[v] = backends
		local[v] = so.Compatible() // for the search for gaps
	}
	r.Paths = map[bundle.Version]*routes.Path{}
	for v := range so.Chains(r.Native, local) {
		p := &routes.Path{}
		end := v
		for end != r.Native && remote[end] == nil {
			end = towards(end, r.Native)
		}
		if end != r.Native {
			p.Via, p.Backends = end, remote[end]
		}
		var err error
		if p.Chain, err = so.NewChain(v, end, local); err != nil {
			return err
		}
		p.Plain = so.Transparent(p.Chain)
		r.Paths[v] = p
	}
	return nil
}

func towards(v, native bundle.Version) bundle.Version {
	if v < native {
		return v + 1
	}
	return v - 1
}
