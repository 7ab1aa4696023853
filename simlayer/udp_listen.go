package simlayer

import (
	"context"
	"net"
	"sync"
	"time"

	"moult/store/bundle"
)

// bindPackets opens an address of a UDP service. Datagrams that come before serve
// wait.
func (l *Layer) bindPackets(s *service, label bundle.Version, addr string) (*listener, error) {
	f := &listener{layer: l, service: s, label: label, fronts: map[*front]bool{}}
	limits := defaultUDPLimits()
	limits.admit = func() bool { return l.conns.Add(1) <= int64(l.cfg.Limits.Conns) }
	limits.leave = func() { l.conns.Add(-1) }
	r, err := bindUDP(l.ctx, addr, f, limits, l.log)
	if err != nil {
		return nil, err
	}
	f.packets, f.Listener = r, packetSocket{r}
	return f, nil
}

// packetSocket is a UDP address as far as it is like a net.Listener.
type packetSocket struct{ relay *udpRelay }

// Accept implements net.Listener: there is nothing to accept.
func (packetSocket) Accept() (net.Conn, error) { return nil, net.ErrClosed }

// Close implements net.Listener.
func (p packetSocket) Close() error {
	p.relay.close()
	return nil
}

// Addr implements net.Listener.
func (p packetSocket) Addr() net.Addr { return net.UDPAddrFromAddrPort(p.relay.local()) }

// way implements udpTarget: datagrams go where the connections of a raw protocol
// would, and wait where those would be held.
func (f *listener) way() udpWay {
	route, open, shut, changed := f.layer.gate.look()
	w := udpWay{changed: changed, version: f.versionUnder(route)}
	switch {
	case shut:
		return w
	case !open:
		w.hold = route.hold
		return w
	}
	path, backend, err := route.path(w.version, f.service.name)
	switch {
	case err != nil:
		f.layer.log.Debug("datagram refused", "service", f.service.name, "from", w.version, "to", route.native, "error", err)
	case !path.plain:
		f.layer.log.Debug("datagram denied", "service", f.service.name, "from", w.version, "to", route.native)
		w.denied = true
	default:
		w.addr = backend.addr
	}
	return w
}

// count implements udpTarget.
func (f *listener) count(v bundle.Version, o outcome, waited time.Duration) {
	f.service.tally.of(v).ended(o, waited, time.Now().Add(-waited))
}

// look returns what is in force, and a channel that is closed when it may no longer
// be.
func (g *gate) look() (r *route, open, shut bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.route, g.open, g.shut, g.changed
}

// restPackets waits until the node has answered the datagrams that it has, as far
// as it answers any. It is called when the gate is closed.
func (l *Layer) restPackets(ctx context.Context) {
	var wg sync.WaitGroup
	for _, f := range l.listeners() {
		if f.packets != nil {
			wg.Go(func() { f.packets.rest(ctx, packetRest) })
		}
	}
	wg.Wait()
}

// heldPackets is how many datagrams wait.
func (l *Layer) heldPackets() (n int) {
	for _, f := range l.listeners() {
		if f.packets != nil {
			n += f.packets.statistics().held
		}
	}
	return n
}
