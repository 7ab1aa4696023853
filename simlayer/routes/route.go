package routes

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"moult/simlayer/observe"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// Route says who answers which callers. It does not change.
type Route struct {
	Native, External bundle.Version
	Egress           bundle.Version // 0 before the first routing
	Down             bool
	Hold             time.Duration
	Watched          map[bundle.Version]bool
	Backends         map[string]*Backend
	Processes        []int // of the software
	Paths            map[bundle.Version]*Path
	Observer         *observe.Observer // of the calls at the node; nil where there is none
}

// Path is the way of the callers of one version: steps in this process first,
// then an object process or the node.
type Path struct {
	Chain *so.Chain // the steps in this process
	Plain bool      // they change nothing
	// Via is the version whose object process comes next, at these addresses; 0:
	// the node comes next.
	Via      bundle.Version
	Backends map[string]*Backend
}

// Versions returns those that the route answers.
func (r *Route) Versions() []bundle.Version {
	return slices.Sorted(maps.Keys(r.Paths))
}

// Path returns what answers callers of version v of a service, and where it
// leads: to the node, or to an object process.
func (r *Route) Path(v bundle.Version, service string) (*Path, *Backend, error) {
	p := r.Paths[v]
	if p == nil {
		return nil, nil, &so.Refusal{
			Status: http.StatusNotImplemented,
			Reason: fmt.Sprintf("this node runs version %d and has no simulation object for callers of version %d", r.Native, v),
			From:   v, To: r.Native,
		}
	}
	if p.Via == 0 {
		return p, r.Backends[service], nil
	}
	b := p.Backends[service]
	if b == nil {
		return nil, nil, &so.Refusal{
			Status: http.StatusNotImplemented,
			Reason: fmt.Sprintf("the simulation object for version %d does not answer for service %q", p.Via, service),
			From:   v, To: r.Native,
		}
	}
	return p, b, nil
}

// Shape gives a refusal the form that callers of a version get, and says whose it is
// where nobody has yet.
func (r *Route) Shape(v bundle.Version, refusal *so.Refusal) {
	if refusal.From == 0 {
		refusal.From, refusal.To = v, r.Native
	}
	if p := r.Paths[v]; p != nil {
		p.Chain.Shape(refusal)
	}
}

// Sign gives a refusal in err the node's version: a chain that ends at an object
// process does not know it.
func (r *Route) Sign(err error) error {
	var ref *so.Refusal
	if !errors.As(err, &ref) || ref.To == r.Native {
		return err
	}
	signed := *ref
	signed.To = r.Native
	return &signed
}

// All returns every backend of the route by what it is: the node's services, and
// the object processes'.
func (r *Route) All() map[*Backend]string {
	all := map[*Backend]string{}
	for name, b := range r.Backends {
		all[b] = fmt.Sprintf("backend %s of service %q", b.Addr, name)
	}
	for _, p := range r.Paths {
		for name, b := range p.Backends {
			all[b] = fmt.Sprintf("address %s of the simulation object for version %d, service %q,", b.Addr, p.Via, name)
		}
	}
	return all
}

// Release lets go of connections that keep does not use.
func (r *Route) Release(keep *Route) {
	var kept map[*Backend]string
	if keep != nil {
		kept = keep.All()
	}
	for b := range r.All() {
		if _, ok := kept[b]; !ok {
			b.release()
		}
	}
}

// Relays reports whether callers of a path by a protocol can be relayed as they are:
// nothing in this process changes their calls, or looks at them.
func (r *Route) Relays(p *Path, protocol string) bool {
	return p.Plain && (r.Observer == nil || protocol != bundle.ProtocolHTTP)
}
