package simlayer

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"moult/simlayer/attach"
	"moult/simlayer/calls"
	"moult/simlayer/packets"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// listener is one address of one service, for callers of one version.
type listener struct {
	net.Listener
	*calls.Port
	layer   *Layer
	service *service

	// packets is what relays UDP; nil for the others.
	packets *packets.Relay

	pair    *attach.Pair   // whose other socket the software has; or nil
	accepts sync.WaitGroup // loops that accept its callers
	// single is why there is no pair although there should be; it does not change.
	single error
}

// openPort makes the port of a service's address.
func (l *Layer) openPort(s *service, label bundle.Version, addr net.Addr) *calls.Port {
	return l.calls.OpenPort(addr, calls.PortConfig{
		Name: s.name, Protocol: s.Protocol, External: s.External, Label: label, Tally: &s.tally,
	})
}

// serve accepts callers until the listener is closed.
func (f *listener) serve() {
	if f.packets != nil {
		f.packets.Serve()
		return
	}
	if f.Protocol == bundle.ProtocolHTTP {
		f.task(f.Port.Serve)
	}
	f.serveFrom(f.Listener)
}

// serveFrom accepts callers from a socket until that is closed.
func (f *listener) serveFrom(ln net.Listener) {
	f.accepts.Add(1)
	begun := f.task(func() error {
		defer f.accepts.Done()
		return f.accept(ln)
	})
	if !begun {
		f.accepts.Done()
	}
}

// task runs what serves the listener; false: it must not.
func (f *listener) task(run func() error) bool {
	return f.layer.tasks.Go(func() {
		if err := run(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			f.layer.log.Error("listener failed", "service", f.service.name, "version", f.Label, "address", f.Addr().String(), "err", err)
		}
	})
}

// accept gives each caller to the port, in a goroutine of its own, if there is room.
func (f *listener) accept(ln net.Listener) error {
	l := f.layer
	return stream.Accept(l.ctx, ln, l.log.With("service", f.service.name), func(c net.Conn) {
		f.Coming()
		if !l.conns.Enter() || !l.tasks.Go(func() { f.Take(c) }) {
			f.Refused()
			l.conns.Leave()
			stream.Reset(c)
		}
	})
}

// retire closes the listener; connections end after the call that they are in.
func (f *listener) retire() {
	f.closeSocket()
	f.Port.Retire()
}

// close closes the listener and its connections; those of raw TCP are the gate's
// to cut.
func (f *listener) close() {
	f.closeSocket()
	f.Port.Close()
}

// closeSocket closes the listening socket. Where new connections go past it, they
// go on to do so.
func (f *listener) closeSocket() {
	if f.pair == nil || f.packets != nil {
		f.Listener.Close()
	}
	f.layer.drop(keptName(f.service, f.Label))
	_ = f.closePair() // as far as it is not closed yet
}

func (f *listener) closePair() error {
	if f.pair == nil {
		return nil
	}
	return f.pair.Close()
}

// address is where callers reach a listener of one version.
func (f *listener) address() string {
	at, _ := stream.AddrPort(f.Addr())
	return net.JoinHostPort(f.service.host(), fmt.Sprint(at.Port()))
}
