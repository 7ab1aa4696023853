package simlayer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"moult/simlayer/attach"
	"moult/store/bundle"
)

// bindPackets opens an address of a UDP service. Datagrams that come before serve
// wait.
func (l *Layer) bindPackets(s *service, label bundle.Version, addr string) (*listener, error) {
	f := &listener{layer: l, service: s, label: label, fronts: map[*front]bool{}}
	limits := defaultUDPLimits()
	limits.admit = func() bool { return l.conns.Add(1) <= int64(l.cfg.Limits.Conns) }
	limits.leave = func() { l.conns.Add(-1) }
	conn, err := l.bindPacketSocket(f, addr)
	if err != nil {
		return nil, err
	}
	r, err := relayUDP(conn, f, limits, l.log)
	if err != nil {
		return nil, errors.Join(err, f.closePair())
	}
	r.senders = &l.senders
	f.packets, f.Listener = r, packetSocket{r, net.UDPAddrFromAddrPort(r.local())}
	return f, nil
}

// bindPacketSocket opens the socket of an address of UDP: one of a pair where the
// node has, or is to get, the other.
func (l *Layer) bindPacketSocket(f *listener, addr string) (*net.UDPConn, error) {
	pair, err := l.adoptPair(f.service, f.label, addr)
	if err == nil && pair == nil && f.service.Attach != AttachRelay && f.label != 0 {
		listen := attach.ListenPair
		if f.service.Attach == AttachSteer {
			listen = attach.ListenOpen
		}
		pair, err = listen(l.ctx, "udp", addr)
		if errors.Is(err, attach.ErrSocket) {
			f.single, pair, err = err, nil, nil // it is relayed
		}
	}
	if err != nil {
		return nil, err
	}
	if pair == nil {
		return listenUDP(l.ctx, addr)
	}
	conn := pair.Packets()
	if conn == nil {
		return nil, errors.Join(fmt.Errorf("%s: the running software has a socket of TCP there: stop it first", addr), pair.Close())
	}
	f.pair = pair
	return conn, nil
}

// packetSocket is a UDP address as far as it is like a net.Listener.
type packetSocket struct {
	relay *udpRelay
	addr  net.Addr // always the same
}

// Accept implements net.Listener: there is nothing to accept.
func (packetSocket) Accept() (net.Conn, error) { return nil, net.ErrClosed }

// Close implements net.Listener.
func (p packetSocket) Close() error {
	p.relay.close()
	return nil
}

// Addr implements net.Listener.
func (p packetSocket) Addr() net.Addr { return p.addr }

// way implements udpTarget: datagrams go where the connections of a raw protocol
// would, and wait where those would be held.
func (f *listener) way() udpWay {
	route, open, shut, changed := f.layer.gate.look()
	w := udpWay{changed: changed, version: f.versionUnder(route)}
	switch {
	case shut:
		return w
	case !open, f.layer.orphan.Load() == route:
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
// as it answers any. It is called when the gate is closed. What came past the layer,
// as it did if direct, nobody knows of here: it gets all the time that there is.
func (l *Layer) restPackets(ctx context.Context, direct bool) {
	var wg sync.WaitGroup
	for _, f := range l.listeners() {
		if f.packets != nil {
			wg.Go(func() { f.packets.rest(ctx) })
		}
	}
	if direct {
		wg.Go(func() {
			timer := time.NewTimer(packetRest)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			case <-l.ctx.Done():
			}
		})
	}
	wg.Wait()
}

// directPackets reports whether datagrams go to the node past the layer.
func (l *Layer) directPackets() bool {
	return slices.ContainsFunc(l.listeners(), func(f *listener) bool { return f.packets != nil && f.direct.Load() })
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
