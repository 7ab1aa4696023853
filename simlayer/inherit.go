package simlayer

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"

	"moult/simlayer/routes"
	"moult/store/bundle"
)

// Socket is what software is given of one service.
type Socket struct {
	Inherited
	// Node is what it listens on, or reads its datagrams from. It is nil of a service
	// of UDP with AttachSteer: the software is to open that socket by itself, at Addr,
	// with SO_REUSEPORT (package connect, Binder).
	Node *os.File
	// Hold is the layer's own socket. The software only keeps it open: so callers
	// that come to it wait for the next layer when this one has died, instead of
	// reaching software that must not have them.
	Hold *os.File
}

// Close closes both files.
func (s Socket) Close() error {
	err := s.Hold.Close()
	if s.Node != nil {
		err = errors.Join(err, s.Node.Close())
	}
	return err
}

// Sockets returns the sockets that software of version v is to inherit, or to hold,
// one by service with AttachInherit, or of UDP with AttachSteer, in the order of the names: of the address for
// callers of v. They are the caller's to close. New connections are led to them
// when a routing that is not Down makes v native; the layer's own reach them in any
// case, so that the address is the software's Backend too.
func (l *Layer) Sockets(v bundle.Version) ([]Socket, error) {
	l.apply.Lock()
	defer l.apply.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	l.endStrays(func(s stray) bool { return s.inherited && s.at.Label == v })
	if !l.lends() {
		return nil, nil
	}
	fresh, err := l.bind([]bundle.Version{v})
	for _, f := range fresh {
		f.serve()
	}
	var all []Socket
	for _, name := range slices.Sorted(maps.Keys(l.services)) {
		f := l.versionedOf(l.services[name], v)
		if err != nil {
			break
		}
		if f == nil || f.pair == nil {
			continue
		}
		var one Socket
		if one, err = f.socket(); err == nil {
			all = append(all, one)
		}
	}
	if err != nil {
		for _, s := range all {
			_ = s.Close() // nobody has them
		}
		return nil, fmt.Errorf("sockets for version %d of the software: %w", v, err)
	}
	l.given = v
	return all, nil
}

// lends reports whether software is given anything.
func (l *Layer) lends() bool {
	for _, s := range l.services {
		if s.Attach == AttachInherit || s.Attach == AttachSteer && s.Protocol == bundle.ProtocolUDP {
			return true
		}
	}
	return false
}

// Lends reports whether software of version v inherits a socket of a service, as far as
// is known before there is one.
func (l *Layer) Lends(service string, v bundle.Version) bool {
	l.apply.Lock()
	defer l.apply.Unlock()
	s := l.services[service]
	return s != nil && s.Attach == AttachInherit && s.versionAddr(v) != ""
}

// socket is what software is given of a listener.
func (f *listener) socket() (Socket, error) {
	s := Socket{Inherited: Inherited{Service: f.service.name, Version: f.Label, Addr: f.address()}}
	var err error
	if s.Members, err = f.pair.Members(); err != nil {
		return s, err
	}
	if s.Hold, err = f.pair.Hold(); err != nil || f.pair.Open() {
		return s, err
	}
	if s.Node, err = f.pair.Node(); err != nil {
		_ = s.Hold.Close() // nobody has it
	}
	return s, err
}

// rejoin listens where the running software inherited its sockets, before the
// first routing: who has come to the layer's own meanwhile is held from now on.
// Where that fails the next bind tries again, and says why.
func (l *Layer) rejoin() {
	for _, k := range l.cfg.Inherited {
		s := l.services[k.Service]
		if s == nil || l.has(s, k.Version) || !k.of(s, k.Version, s.versionAddr(k.Version)) {
			continue
		}
		l.known = append(l.known, k)
		f, err := l.bindListener(s, k.Version, s.versionAddr(k.Version))
		if err != nil {
			l.log.Warn("the sockets of the running software are not taken back yet", "service", k.Service, "address", k.Addr, "err", err)
			continue
		}
		f.serve()
	}
}

// point leads new connections of a pair to the node or to the layer, and reports
// whether they go to the node.
func (l *Layer) point(f *listener, r *routes.Route, straight bool) (direct bool, err error) {
	// The software has a socket of the address for its own version only.
	direct = straight && f.Label == r.Native
	switch {
	case direct && f.pair.Open():
		direct, err = l.bound(f, r)
	case direct && l.given != r.Native:
		direct, err = false, fmt.Errorf("service %q: the software has not inherited its listening socket: it gets it when it is started anew", f.service.name)
	}
	if perr := f.pair.Point(direct); perr != nil {
		return false, perr
	}
	return direct, err
}

// ownBackend reports whether a backend is the node's socket of the pair at addr,
// which the layer's connections reach past its own. The routing may still be, or be
// again, that of another version than the software's, while calls are held.
func (l *Layer) ownBackend(r *routes.Route, b *routes.Backend, addr net.Addr) bool {
	for name, one := range r.Backends {
		if one != b {
			continue
		}
		for _, v := range []bundle.Version{l.given, r.Native} {
			f := l.versionedOf(l.services[name], v)
			if f != nil && f.pair != nil && f.Addr() == addr && (v == l.given || f.pair.Open()) {
				return true
			}
		}
	}
	return false
}

// Unbound tells the layer why software cannot open its sockets of UDP beside the
// layer's, for AttachSteer; nil where it can.
func (l *Layer) Unbound(why error) {
	l.apply.Lock()
	defer l.apply.Unlock()
	l.unbound = why
}

// Found returns where software of version v really answers, which was told to listen
// at these addresses: with AttachSteer what it binds for UDP may have been bound at the
// address of its callers instead. The software must have bound it.
func (l *Layer) Found(v bundle.Version, told map[string]string) map[string]string {
	l.apply.Lock()
	defer l.apply.Unlock()
	l.orphan.Store(nil)
	found := maps.Clone(told)
	for _, name := range slices.Sorted(maps.Keys(told)) {
		s := l.services[name]
		if s == nil {
			continue
		}
		f := l.versionedOf(s, v)
		if f == nil || f.pair == nil || !f.pair.Open() {
			continue
		}
		joined, err := f.pair.Joined()
		if err != nil {
			l.log.Warn("software is taken to be where it was told to", "service", name, "address", told[name], "err", err)
		}
		if joined {
			found[name] = f.address()
		}
	}
	return found
}

// bound reports whether r leads to the socket that the software has opened beside the
// layer's, or why there is none.
func (l *Layer) bound(f *listener, r *routes.Route) (bool, error) {
	if b := r.Backends[f.service.name]; b != nil && b.Addr == f.address() {
		return true, nil
	}
	if l.unbound != nil {
		return false, l.unbound
	}
	return false, errNotBound
}

var errNotBound = errors.New("the software's own socket is not at the address of its callers, from where its answers must come: it was started before, binds another address than the one that it was given, has SO_REUSEPORT set, or runs as another user than the agent")
