package simlayer

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"moult/simlayer/attach"
	"moult/simlayer/packets"
	"moult/simlayer/proxy"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// listener is one address of one service, for callers of one version.
type listener struct {
	net.Listener
	layer   *Layer
	service *service
	label   bundle.Version // 0: the public address

	// Of HTTP; nil for raw TCP. The server gets from hand the connections whose
	// calls need more than a relay.
	server *http.Server
	hand   *handover
	// packets is what relays UDP; nil for the others.
	packets *packets.Relay

	pair *attach.Pair // whose other socket the software has; or nil
	// single is why there is no pair although there should be; it does not change.
	single error
	// direct: new connections to the address go to the node without the agent,
	// so callers had better make new ones.
	direct  atomic.Bool
	retired atomic.Bool

	mu     sync.Mutex
	fronts map[*front]bool // mu; nil once closed
	none   chan struct{}   // mu; if not nil: closed once there are no fronts
}

// leads reports whether callers had better connect anew.
func (f *listener) leads() bool { return f.direct.Load() || f.retired.Load() }

// addFront reports false where the listener is closed.
func (f *listener) addFront(c *front) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fronts == nil {
		return false
	}
	f.fronts[c] = true
	return true
}

func (f *listener) removeFront(c *front) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.fronts, c)
	if f.none != nil && len(f.fronts) == 0 {
		close(f.none)
		f.none = nil
	}
}

// noFronts returns a channel that is closed once there are none.
func (f *listener) noFronts() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	none := make(chan struct{})
	if len(f.fronts) == 0 {
		close(none)
	} else {
		f.none = none
	}
	return none
}

// allFronts lists the connections; the last time where closed is set.
func (f *listener) allFronts(closed bool) []*front {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Collect(maps.Keys(f.fronts))
	if closed {
		f.fronts = nil
	}
	return all
}

// listen binds an address and serves it.
func (l *Layer) listen(s *service, label bundle.Version, addr string) (*listener, error) {
	f, err := l.bindListener(s, label, addr)
	if err == nil {
		f.serve()
	}
	return f, err
}

// bindListener binds an address. Callers who connect before serve wait.
func (l *Layer) bindListener(s *service, label bundle.Version, addr string) (*listener, error) {
	var f *listener
	var err error
	if s.Protocol == bundle.ProtocolUDP {
		f, err = l.bindPackets(s, label, addr)
	} else {
		f, err = l.bindStream(s, label, addr)
	}
	if err != nil {
		return nil, err
	}
	if label != 0 {
		l.mu.Lock()
		s.versioned[label] = f
		l.mu.Unlock()
	}
	return f, nil
}

// bindStream binds an address of a TCP service.
func (l *Layer) bindStream(s *service, label bundle.Version, addr string) (*listener, error) {
	ln, pair, err := l.bindSocket(s, label, addr)
	if err != nil {
		return nil, err
	}
	f := &listener{Listener: ln, layer: l, service: s, label: label, pair: pair, fronts: map[*front]bool{}}
	if s.Protocol == bundle.ProtocolHTTP {
		f.hand = newHandover(f.Addr())
		f.server = takesHanded(l.newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.proxy.serve(w, r, f)
		})))
	}
	return f, nil
}

// newServer returns a server of HTTP whose connections count.
func (l *Layer) newServer(h http.Handler) *http.Server {
	s := proxy.NewServer(h, l.log)
	s.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if !l.conns.Enter() {
				c.Close()
			}
		case http.StateClosed, http.StateHijacked:
			l.conns.Leave()
		}
	}
	return s
}

// serve accepts callers until the listener is closed.
func (f *listener) serve() {
	if f.packets != nil {
		f.packets.Serve()
		return
	}
	if f.server != nil {
		f.task(func() error { return f.server.Serve(f.hand) })
	}
	f.serveFrom(f.Listener)
}

// serveFrom accepts callers from a socket until that is closed.
func (f *listener) serveFrom(ln net.Listener) {
	take := f.relay
	if f.server != nil {
		take = f.front
	}
	f.task(func() error { return f.accept(ln, take) })
}

// task runs what serves the listener.
func (f *listener) task(run func() error) {
	if !f.layer.tasks.Begin() {
		return
	}
	go func() {
		defer f.layer.tasks.End()
		if err := run(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			f.layer.log.Error("listener failed", "service", f.service.name, "version", f.label, "address", f.Addr().String(), "err", err)
		}
	}()
}

// accept gives each caller to take, in a goroutine of its own, if there is room.
func (f *listener) accept(ln net.Listener, take func(net.Conn)) error {
	l := f.layer
	return stream.Accept(l.ctx, ln, l.log.With("service", f.service.name), func(c net.Conn) {
		if !l.conns.Enter() || !l.tasks.Go(func() { take(c) }) {
			l.conns.Leave()
			stream.Reset(c)
		}
	})
}

// retire closes the listener; connections end after the call that they are in.
func (f *listener) retire() {
	f.closeSocket()
	if f.server == nil || !f.layer.tasks.Begin() {
		return
	}
	f.retired.Store(true)
	for _, c := range f.allFronts(false) {
		c.closeIdle()
	}
	go func() {
		defer f.layer.tasks.End()
		select {
		case <-f.noFronts(): // none is handed over any more
		case <-f.layer.ctx.Done():
		}
		if err := f.server.Shutdown(f.layer.ctx); err != nil {
			f.server.Close()
		}
	}()
}

// close closes the listener and its connections; those of raw TCP are the gate's
// to cut.
func (f *listener) close() {
	f.closeSocket()
	if f.server == nil {
		return
	}
	f.hand.Close() // also where nobody serves it
	f.server.Close()
	for _, c := range f.allFronts(true) {
		c.conn.Close()
	}
}

// closeSocket closes the listening socket. Where new connections go past it, they
// go on to do so.
func (f *listener) closeSocket() {
	if f.pair == nil || f.packets != nil {
		f.Listener.Close()
	}
	_ = f.closePair() // as far as it is not closed yet
}

func (f *listener) closePair() error {
	if f.pair == nil {
		return nil
	}
	return f.pair.Close()
}
