package simlayer

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"moult/store/bundle"
)

// aside is a way to software for programs of this machine, whatever its callers
// have to wait for.
type aside struct {
	relay *udpRelay
	addr  atomic.Pointer[string] // of the software
}

// way implements udpTarget.
func (a *aside) way() udpWay { return udpWay{addr: *a.addr.Load()} }

// count implements udpTarget: these are no calls.
func (a *aside) count(bundle.Version, outcome, time.Duration) {}

// Aside returns an address, of this machine only, that leads past all holding to the
// socket which software of version v has inherited for a service of UDP. It is for
// programs that ask after the software's health before its callers are let in: the
// layer has its own connections marked for that, but another program's datagrams
// would be held. The address stays for as long as the layer; "" where the software
// is reached at its Backend by everybody.
func (l *Layer) Aside(name string, v bundle.Version) (string, error) {
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
	at := f.address()
	if a := l.asides[name]; a != nil {
		a.addr.Store(&at)
		return a.relay.local().String(), nil
	}
	local := "127.0.0.1:0"
	if f.pair.Addr().Addr().Is6() {
		local = net.JoinHostPort(net.IPv6loopback.String(), "0")
	}
	a := &aside{}
	a.addr.Store(&at)
	relay, err := bindUDP(l.ctx, local, a, defaultUDPLimits(), l.log)
	if err != nil {
		return "", fmt.Errorf("service %q: a way to ask after its health: %w", name, err)
	}
	a.relay = relay
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
