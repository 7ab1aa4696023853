package calls

import (
	"net"
	"net/http"
	"net/netip"

	"moult/simlayer/proxy"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// OpenPort makes a port at an address.
func (c *Calls) OpenPort(addr net.Addr, cfg PortConfig) *Port {
	f := &Port{PortConfig: cfg, calls: c, here: map[connection]bool{}}
	if cfg.Protocol == bundle.ProtocolHTTP {
		p := newCallProxy(c)
		f.hand = newHandover(addr)
		f.server = takesHanded(f.newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.serve(w, r, f)
		})))
	}
	return f
}

// newServer returns a server of HTTP whose connections, which were handed over, count.
func (f *Port) newServer(h http.Handler) *http.Server {
	c := f.calls
	s := proxy.NewServer(h, c.Log)
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if !c.Conns.Enter() {
				conn.Close()
			}
		case http.StateClosed, http.StateHijacked:
			c.Conns.Leave()
			f.count(&f.handed, -1)
		}
	}
	return s
}

// Take serves a connection until it has ended, and leaves Conns for it.
func (f *Port) Take(conn net.Conn) {
	if f.server != nil {
		f.front(conn)
		return
	}
	f.Refused() // connections of raw protocols are not counted here
	f.relay(conn)
}

// Serve serves calls that cannot be relayed, until Retire or Close. It returns at once
// where the protocol is not HTTP, and else an error.
func (f *Port) Serve() error {
	if f.server == nil {
		return nil
	}
	return f.server.Serve(f.hand)
}

// sourceOf is whose share a connection's calls take; all whose address is none are one.
func sourceOf(conn net.Conn) netip.Prefix {
	at, _ := stream.AddrPort(conn.RemoteAddr())
	return stream.Source(at)
}

// Wean has callers of HTTP make new connections: each is told so by the answer to its call,
// and may call until then.
func (f *Port) Wean() { f.retired.Store(true) }

// Weaned reports whether Wean, or Retire, has been called.
func (f *Port) Weaned() bool { return f.retired.Load() }

// Retire has connections of HTTP end after the call that they are in; the channel is closed
// once all have. No new ones may be given to it.
func (f *Port) Retire() (ended <-chan struct{}) {
	none := make(chan struct{})
	if f.server == nil || !f.calls.Tasks.Begin() {
		close(none)
		return none
	}
	f.Wean()
	for _, c := range f.all(false) {
		c.closeIdle()
	}
	ctx := f.calls.Ctx
	go func() {
		defer close(none)
		defer f.calls.Tasks.End()
		select {
		case <-f.noneComes(): // none is handed over any more
		case <-ctx.Done():
		}
		if err := f.server.Shutdown(ctx); err != nil {
			f.server.Close()
		}
		select {
		case <-f.None():
		case <-ctx.Done():
		}
	}()
	return none
}

// Close closes the connections of HTTP; those of raw protocols are the gate's to cut.
func (f *Port) Close() {
	if f.server == nil {
		return
	}
	f.hand.Close() // also where nobody serves it
	f.server.Close()
	for _, c := range f.all(true) {
		c.close()
	}
}

// front takes over a connection that was accepted. The layer's tasks count it.
func (f *Port) front(conn net.Conn) {
	c := &front{calls: f.calls, port: f, conn: conn, from: sourceOf(conn)}
	c.cutFunc = c.cut
	if !f.add(c) {
		c.end()
		return
	}
	if err := c.in.Start(conn, &f.calls.buffers); err != nil {
		c.setHand()
		c.handOver()
		return
	}
	c.run()
}
