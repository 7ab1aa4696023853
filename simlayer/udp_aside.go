package simlayer

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"moult/simlayer/attach"
	"moult/store/bundle"
)

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
func (l *Layer) bound(f *listener, r *route) (bool, error) {
	if b := r.backends[f.service.name]; b != nil && b.addr == f.address() {
		return true, nil
	}
	if l.unbound != nil {
		return false, l.unbound
	}
	return false, errNotBound
}

var errNotBound = errors.New("the software's own socket is not at the address of its callers, from where its answers must come: it was started before, binds another address than the one that it was given, has SO_REUSEPORT set, or runs as another user than the agent")

// aside is a way to software for programs of this machine, whatever its callers
// have to wait for.
type aside struct {
	relay *udpRelay

	mu      sync.Mutex
	addr    string       // mu; of the software
	unsure  *attach.Pair // mu; beside whose socket the software may open its own; or nil
	instead string       // mu; the address if it does
}

func (a *aside) set(f *listener, private string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addr, a.unsure, a.instead = f.address(), nil, ""
	if f.pair.Open() {
		a.addr, a.unsure, a.instead = private, f.pair, f.address()
	}
}

// way implements udpTarget. Before the software has a socket at either address
// datagrams wait: who asks is not told that nobody is there, and would wait in vain.
func (a *aside) way() udpWay {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unsure == nil {
		return udpWay{addr: a.addr}
	}
	if joined, err := a.unsure.Joined(); joined && err == nil {
		a.addr, a.unsure = a.instead, nil
		return udpWay{addr: a.addr}
	}
	if at, err := addrPort(a.addr); err == nil {
		if bound, err := attach.Bound(at.Port()); !bound && err == nil {
			look := make(chan struct{})
			time.AfterFunc(asideLook, func() { close(look) })
			return udpWay{hold: asideHold, changed: look}
		}
	}
	return udpWay{addr: a.addr}
}

// count implements udpTarget: these are no calls.
func (a *aside) count(bundle.Version, outcome, time.Duration) {}

// Aside returns an address, of this machine only, that leads past all holding to the
// socket which software of version v has inherited for a service of UDP, or opens
// beside the layer's; private is where it was told to. It is for
// programs that ask after the software's health before its callers are let in: the
// layer has its own connections marked for that, but another program's datagrams
// would be held. The address stays for as long as the layer; "" where the software
// is reached at its Backend by everybody.
func (l *Layer) Aside(name string, v bundle.Version, private string) (string, error) {
	l.apply.Lock()
	defer l.apply.Unlock()
	if l.closed {
		return "", ErrClosed
	}
	s := l.services[name]
	if s == nil {
		return "", nil
	}
	f := l.versionedOf(s, v)
	if f == nil || f.pair == nil || f.packets == nil {
		return "", nil
	}
	if a := l.asides[name]; a != nil {
		a.set(f, private)
		return a.relay.local().String(), nil
	}
	local := "127.0.0.1:0"
	if f.pair.Addr().Addr().Is6() {
		local = net.JoinHostPort(net.IPv6loopback.String(), "0")
	}
	a := &aside{}
	a.set(f, private)
	relay, err := bindUDP(l.ctx, local, a, defaultUDPLimits(), l.log)
	if err != nil {
		return "", fmt.Errorf("service %q: a way to ask after its health: %w", name, err)
	}
	a.relay, relay.senders = relay, &l.senders
	l.asides[name] = a
	relay.serve()
	return relay.local().String(), nil
}

// closeAsides is called once there are no new ones.
func (l *Layer) closeAsides() {
	for _, a := range l.asides {
		a.relay.close()
	}
}
