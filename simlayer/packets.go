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
	"moult/simlayer/packets"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// bindPackets opens an address of a UDP service. Datagrams that come before serve
// wait.
func (l *Layer) bindPackets(s *service, label bundle.Version, addr string) (*listener, error) {
	f := &listener{layer: l, service: s, Port: l.openPort(s, label, nil)}
	conn, err := l.bindPacketSocket(f, addr)
	if err != nil {
		return nil, err
	}
	r, err := packets.New(conn, packets.Config{
		Target: packetWay{f}, Limits: packets.DefaultLimits(), Quota: l.conns, Senders: &l.senders, Log: l.log,
	})
	if err != nil {
		return nil, errors.Join(err, f.closePair())
	}
	f.packets, f.Listener = r, packetSocket{r, net.UDPAddrFromAddrPort(r.Addr())}
	return f, nil
}

// bindPacketSocket opens the socket of an address of UDP: one of a pair where the
// node has, or is to get, the other.
func (l *Layer) bindPacketSocket(f *listener, addr string) (*net.UDPConn, error) {
	pair, err := l.adoptPair(f.service, f.Label, addr)
	if err == nil && pair == nil && f.service.Attach != AttachRelay && f.Label != 0 {
		if f.service.Attach == AttachSteer {
			l.forgo(keptName(f.service, f.Label))
			pair, err = attach.ListenOpen(l.ctx, "udp", addr)
		} else {
			pair, err = l.listenPair(f.service, f.Label, addr)
		}
		if errors.Is(err, attach.ErrSocket) {
			f.single, pair, err = err, nil, nil // it is relayed
		}
	}
	if err != nil {
		return nil, err
	}
	if pair == nil {
		return l.listenPackets(keptName(f.service, f.Label), addr)
	}
	conn := pair.Packets()
	if conn == nil {
		return nil, errors.Join(fmt.Errorf("%s: the running software has a socket of TCP there: stop it first", addr), pair.Close())
	}
	if !pair.Open() {
		l.keep(keptName(f.service, f.Label), pair.Hold)
	}
	f.pair = pair
	return conn, nil
}

// packetSocket is a UDP address as far as it is like a net.Listener.
type packetSocket struct {
	relay *packets.Relay
	addr  net.Addr // always the same
}

// Accept implements net.Listener: there is nothing to accept.
func (packetSocket) Accept() (net.Conn, error) { return nil, net.ErrClosed }

// Close implements net.Listener.
func (p packetSocket) Close() error {
	p.relay.Close()
	return nil
}

// Addr implements net.Listener.
func (p packetSocket) Addr() net.Addr { return p.addr }

// packetWay is the way of the datagrams that come to a listener.
type packetWay struct{ *listener }

// Way implements packets.Target: datagrams go where the connections of a raw protocol
// would, and wait where those would be held.
func (f packetWay) Way() packets.Way {
	route, open, shut, changed := f.layer.gate.Look()
	w := packets.Way{Changed: changed, Version: f.VersionUnder(route)}
	switch {
	case shut:
		return w
	case !open, f.layer.orphan.Load() == route:
		w.Hold = route.Hold
		return w
	}
	path, backend, err := route.Path(w.Version, f.service.name)
	switch {
	case err != nil:
		f.layer.log.Debug("datagram refused", "service", f.service.name, "from", w.Version, "to", route.Native, "err", err)
	case !path.Plain:
		f.layer.log.Debug("datagram denied", "service", f.service.name, "from", w.Version, "to", route.Native)
		w.Native, w.Denied = route.Native, true
	default:
		w.Native, w.Addr = route.Native, backend.Addr
	}
	return w
}

// Count implements packets.Target.
func (f packetWay) Count(w packets.Way, o tally.Outcome, waited time.Duration) {
	f.Ended(w.Version, w.Native, o, waited, time.Now().Add(-waited))
}

// awaitPackets waits until the node has answered the datagrams that it has, as far
// as it answers any. It is called when the gate is closed. What came past the layer,
// as it did if direct, nobody knows of here: it gets all the time that there is.
func (l *Layer) awaitPackets(ctx context.Context, direct bool) {
	var wg sync.WaitGroup
	for _, f := range l.listeners() {
		if f.packets != nil {
			wg.Go(func() { f.packets.AwaitAnswers(ctx, l.answerTime) })
		}
	}
	if direct {
		wg.Go(func() {
			timer := time.NewTimer(answerTime)
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
	return slices.ContainsFunc(l.listeners(), func(f *listener) bool { return f.packets != nil && f.Direct() })
}

// heldPackets is how many datagrams wait.
func (l *Layer) heldPackets() (n int) {
	for _, f := range l.listeners() {
		if f.packets != nil {
			n += f.packets.Stats().Held
		}
	}
	return n
}

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
		f.leadAside(a, private)
		return a.Addr().String(), nil
	}
	local := "127.0.0.1:0"
	if f.pair.Addr().Addr().Is6() {
		local = net.JoinHostPort(net.IPv6loopback.String(), "0")
	}
	a, err := packets.OpenAside(l.ctx, local, &l.senders, l.log)
	if err != nil {
		return "", fmt.Errorf("service %q: a way to ask after its health: %w", name, err)
	}
	f.leadAside(a, private)
	l.asides[name] = a
	return a.Addr().String(), nil
}

// leadAside leads a to the software that has, or is to open, the other socket of f's
// pair; private is where it was told to listen.
func (f *listener) leadAside(a *packets.Aside, private string) {
	if f.pair.Open() {
		a.LeadEither(private, f.address(), f.pair.Joined)
	} else {
		a.Lead(f.address())
	}
}

// closeAsides is called once there are no new ones.
func (l *Layer) closeAsides() {
	for _, a := range l.asides {
		a.Close()
	}
}
