package simlayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/egress"
	"moult/simlayer/gate"
	"moult/simlayer/observe"
	"moult/simlayer/packets"
	"moult/simlayer/routes"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// Layer is the simulation layer of one node. It is safe for concurrent use.
type Layer struct {
	cfg   Config
	log   *slog.Logger
	gate  *gate.Gate[*routes.Route]
	proxy *callProxy
	out   *egress.Proxy // nil without one

	// ctx ends with Close.
	ctx    context.Context
	stop   context.CancelFunc
	closer sync.Once
	tasks  stream.Tasks
	conns  *stream.Quota // that are open

	buffers     stream.Buffers
	simulations simulations

	services map[string]*service // fixed
	// past and future count the calls that came to objects.
	past, future tally.ByVersion

	// apply is held by Apply, and by Close once it has begun.
	apply  sync.Mutex
	closed bool
	steer  *attach.Steer             // apply; nil where nothing is steered
	taken  map[string]taken          // apply; the software's own sockets, by service
	asides map[string]*packets.Aside // apply; by service
	strays []stray                   // apply; sockets that software left behind
	// given is the version of the software that runs with sockets of ours; 0 where
	// none does. known are those that the software of an earlier layer has.
	given bundle.Version // apply
	// orphan is the routing under which the software has ended, until there is
	// another or software again: datagrams wait, as nothing tells that they are lost.
	orphan  atomic.Pointer[routes.Route]
	known   []Inherited // apply
	unbound error       // apply; why software cannot open its sockets of UDP beside ours

	// observers are those of the routing in force, by path, and observed are the
	// paths of all that there were.
	observers map[string]*observe.Observer // apply
	observed  map[string]bool              // apply

	senders packets.Senders
	// answerTime and lastingAfter are these constants, but for tests.
	answerTime, lastingAfter time.Duration
	draining                 sync.Mutex // held by whoever waits for calls to end

	fallen sync.Map // service to why its callers are relayed although they need not be

	// mu guards versioned of every service.
	mu sync.Mutex
}

// service is one service with its listeners.
type service struct {
	Service
	name      string
	public    *listener
	versioned map[bundle.Version]*listener
	tally     tally.ByVersion
}

// Addresses are where one service is reached.
type Addresses struct {
	Public   string
	Versions map[bundle.Version]string
}

// Start listens on the public addresses and the egress address. Until the first
// Apply all calls are held, those of the node too. An address that cannot be had
// is an error that names it (ErrEgress where it is the egress proxy's), and leaves
// nothing behind.
func Start(cfg Config) (*Layer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("simulation layer: %w", err)
	}
	cfg.Services = maps.Clone(cfg.Services)
	if cfg.Limits == (Limits{}) {
		cfg.Limits = DefaultLimits()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Layer{cfg: cfg, log: cfg.Log, gate: gate.New(&routes.Route{Down: true, Hold: DefaultHoldTimeout}, DefaultHoldTimeout, cfg.Limits.Held), conns: stream.NewQuota(cfg.Limits.Conns), answerTime: answerTime, lastingAfter: lastingAfter, services: map[string]*service{}, taken: map[string]taken{}, asides: map[string]*packets.Aside{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.proxy = newCallProxy(l)
	for _, name := range slices.Sorted(maps.Keys(cfg.Services)) {
		s := &service{Service: cfg.Services[name], name: name, versioned: map[bundle.Version]*listener{}}
		l.services[name] = s
		public, err := l.listen(s, 0, s.Public)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("service %q: listen on its public address: %w", name, err)
		}
		s.public = public
	}
	l.rejoin()
	if cfg.Egress != "" {
		out, err := egress.Start(egress.Config{
			Addr: cfg.Egress, Resolve: cfg.Resolve, Label: l.label, Quota: l.conns, Held: cfg.Limits.Held, Log: cfg.Log,
		})
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("%w: %w", ErrEgress, err)
		}
		l.out = out
	}
	return l, nil
}

// Apply puts r in force at once: a call is answered wholly under the routing
// that it was let in under. It listens on the versioned addresses that r has and
// the one before had not, and closes those that it has no more; connections there
// end after the call that they are in. On an error the old routing stays in force.
func (l *Layer) Apply(r Routing) error {
	l.apply.Lock()
	defer l.apply.Unlock()
	if l.closed {
		return ErrClosed
	}
	if err := l.speak(r.Protocols); err != nil {
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	old := l.gate.Routing()
	next, err := newRoute(r, l.cfg.Services, old)
	if err != nil {
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	fresh, err := l.bind(next.Versions())
	if err != nil {
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	if err := l.noLoop(next); err != nil {
		for _, f := range fresh {
			l.forget(f)
		}
		return fmt.Errorf("routing for version %d: %w", r.Native, err)
	}
	if !next.Down {
		// The software has these sockets now, or has others of its own.
		l.endStrays(func(s stray) bool { return !s.inherited || s.at.label == next.Native })
	}
	gone := l.observe(next, r)
	l.gate.Set(next, !next.Down, next.Hold)
	l.aim(next)
	l.seeAll(old, next, gone)
	old.Release(next)
	l.retire(next)
	for _, f := range fresh {
		f.serve()
	}
	l.log.Info("routing applied", "native", next.Native, "external", l.externals(next), "egress", next.Egress, "down", next.Down, "versions", next.Versions())
	return nil
}

// externals are the versions that callers of the public addresses count as: one, or one
// for each service where these differ.
func (l *Layer) externals(r *routes.Route) any {
	all, by := map[bundle.Version]bool{}, map[string]bundle.Version{}
	for name, s := range l.services {
		by[name] = l.externalVersion(s, r)
		all[by[name]] = true
	}
	if len(all) != 1 {
		return by
	}
	return slices.Collect(maps.Keys(all))[0]
}

// bind makes the listeners that are missing for these versions, all or none.
// They accept nothing until they serve.
func (l *Layer) bind(versions []bundle.Version) (fresh []*listener, err error) {
	defer func() {
		if err != nil {
			for _, f := range fresh {
				l.forget(f)
			}
			fresh = nil
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(l.services)) {
		s := l.services[name]
		if err := s.apartVersions(versions); err != nil {
			return nil, fmt.Errorf("service %q: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.services)) {
		s := l.services[name]
		for _, v := range versions {
			if l.has(s, v) {
				continue
			}
			if port := s.versionPort(v); port != 0 {
				l.evict(s, port, versions)
			}
			f, err := l.bindListener(s, v, s.versionAddr(v))
			if err != nil {
				return fresh, fmt.Errorf("service %q: listen for callers of version %d: %w", name, v, err)
			}
			fresh = append(fresh, f)
		}
	}
	return fresh, nil
}

func (l *Layer) has(s *service, v bundle.Version) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.versioned[v] != nil
}

// evict closes a listener of a version that is going, whose port a coming one
// needs.
func (l *Layer) evict(s *service, port int, keep []bundle.Version) {
	l.mu.Lock()
	var gone *listener
	for v, old := range s.versioned {
		if s.versionPort(v) == port && !slices.Contains(keep, v) && !l.lent(old) {
			gone = old
			delete(s.versioned, v)
		}
	}
	l.mu.Unlock()
	if gone != nil {
		l.retireOne(gone)
	}
}

// lent reports whether running software has the other socket of a listener's pair.
func (l *Layer) lent(f *listener) bool { return f.pair != nil && f.label == l.given }

func (l *Layer) retireOne(f *listener) {
	l.endStrays(func(s stray) bool { return s.at == f })
	f.retire()
}

// forget closes a listener that never served.
func (l *Layer) forget(f *listener) {
	l.mu.Lock()
	delete(f.service.versioned, f.label)
	l.mu.Unlock()
	f.close()
}

// retire closes the listeners of versions that the routing no longer answers.
func (l *Layer) retire(r *routes.Route) {
	var gone []*listener
	l.mu.Lock()
	for _, s := range l.services {
		for v, f := range s.versioned {
			if r.Paths[v] == nil && !l.lent(f) {
				gone = append(gone, f)
				delete(s.versioned, v)
			}
		}
	}
	l.mu.Unlock()
	for _, f := range gone {
		l.retireOne(f)
	}
}

// noLoop refuses a backend that is one of the layer's own addresses: its calls
// would come back for ever. The node's own get none while it is down, and may still
// be where software was that has inherited a socket, and has ended.
func (l *Layer) noLoop(r *routes.Route) error {
	for b, what := range r.All() {
		if b.Network == "unix" || r.Down && slices.Contains(slices.Collect(maps.Values(r.Backends)), b) {
			continue
		}
		for _, addr := range l.own() {
			if addr.Network() == b.Network && stream.SameAddr(addr, b.Addr) && !l.ownBackend(r, b, addr) {
				return fmt.Errorf("%s is the layer's own address; give the software another one to listen on", what)
			}
		}
	}
	return nil
}

// own returns the addresses that the layer listens on.
func (l *Layer) own() []net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var addrs []net.Addr
	for _, s := range l.services {
		addrs = append(addrs, s.public.Addr())
		for _, f := range s.versioned {
			addrs = append(addrs, f.Addr())
		}
	}
	if l.out != nil {
		addrs = append(addrs, l.out.Addr())
	}
	return addrs
}

// Addresses returns where each service is reached now.
func (l *Layer) Addresses() map[string]Addresses {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]Addresses, len(l.services))
	for name, s := range l.services {
		a := Addresses{Public: s.public.Addr().String(), Versions: map[bundle.Version]string{}}
		if _, port, _ := stream.SplitAddr(s.Public); port != 0 {
			a.Public = s.Public
		}
		for v, f := range s.versioned {
			at, _ := stream.AddrPort(f.Addr())
			a.Versions[v] = net.JoinHostPort(s.host(), fmt.Sprint(at.Port()))
		}
		out[name] = a
	}
	return out
}

// EgressURL returns the URL of the HTTP proxy for the node's own calls, or nil
// without one.
func (l *Layer) EgressURL() *url.URL {
	if l.out == nil {
		return nil
	}
	return &url.URL{Scheme: "http", Host: l.out.Addr().String()}
}

// EgressEnvironment returns the environment that has programs call by the egress
// proxy, as egress.Proxy has it. It is empty without a proxy.
func (l *Layer) EgressEnvironment() map[string]string {
	if l.out == nil {
		return nil
	}
	return l.out.Environment()
}

// label is the version of the node's own calls, and how long they may wait.
func (l *Layer) label() (bundle.Version, time.Duration) {
	r := l.gate.Routing()
	return r.Egress, r.Hold
}

// Finish waits until the calls that are at the node now have ended, while those that
// come are let in as before. It is for before a Drain, which then has short calls to wait
// for only, and returns at once where calls are held already. Calls that are not meant to
// end (events, long polls, connections that have changed their protocol) are not waited
// for, and answers of unknown length only until ctx ends: they are the next Drain's. Where
// all this takes longer than a Drain would wait, so may the calls that came meanwhile, and
// they are waited for too. If ctx ends first, those that remain of the calls that were
// there at its beginning, and are meant to end, are cut, as Drain cuts calls; n is how
// many, and err then says so.
func (l *Layer) Finish(ctx context.Context) (n int, err error) {
	l.draining.Lock()
	defer l.draining.Unlock()
	if n = l.gate.Finish(ctx, max(l.lastCalls(), l.lastingAfter), func() { l.callAnew(routes.Relayed.Warn) }); n > 0 {
		err = fmt.Errorf("drain: %d calls had not ended and were cut: %w", n, context.Cause(ctx))
	}
	return n, err
}

// lastCalls is how long a drain waits for calls while it holds others.
func (l *Layer) lastCalls() time.Duration { return max(l.gate.Routing().Hold/lastCalls, rawGrace) }

// Drain holds calls from now on and waits until all those at the node have
// ended, whichever routing let them in. Those that may never end do so now, as the
// node would end them: answers of unknown length that have gone on for lastingAfter,
// events, connections that have changed their protocol. Long polls, calls that may be
// made again and have had no answer for lastingAfter, are held with the new ones. If ctx
// ends first, or a third of the hold timeout is over, it cuts the rest: calls
// of HTTP that have no answer yet get 503 with Connection: close, or are held where they
// may be made again; all others lose their connection. inFlight is how many it cut, and
// err then says so. Calls are held until an Apply that is not Down.
//
// Where a call of a raw protocol ends nobody can see, and its connections may last
// for ever: each has a second from its beginning, and those that remain are the
// software's to end when it is told to stop, as without the layer. Whether a datagram
// is answered yet cannot be known either: callers by UDP that wait for an answer get a
// short time for it.
func (l *Layer) Drain(ctx context.Context) (inFlight int, err error) {
	l.draining.Lock()
	defer l.draining.Unlock()
	l.gate.Hold()
	l.apply.Lock()
	direct := l.directPackets()
	if !l.closed {
		l.aim(nil)
	}
	l.apply.Unlock()
	l.callAnew(routes.Relayed.Drain)
	defer l.leaveBackends()
	defer l.tellAll()
	limit := l.lastCalls()
	last, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("new ones are held for %v at most before the software is stopped", limit))
	defer cancel()
	done := l.gate.Drained(last)
	if n := l.gate.EndedEarly(); n > 0 {
		l.log.Warn("answers whose length nothing tells had not ended and were ended", "calls", n)
	}
	if done {
		l.awaitPackets(ctx, direct)
		return 0, nil
	}
	if inFlight = l.gate.Cut(); inFlight > 0 {
		err = fmt.Errorf("drain: %d calls had not ended and were cut: %w", inFlight, context.Cause(last))
	}
	grace, cancel := context.WithTimeout(l.ctx, cutGrace)
	defer cancel()
	if !l.gate.Drained(grace) {
		err = errors.Join(err, fmt.Errorf("calls that were cut go on after %v", cutGrace))
	}
	return inFlight, err
}

// callAnew has callers, where their protocol can say so, make further calls by other
// connections than those that the node has calls of.
func (l *Layer) callAnew(say func(routes.Relayed)) {
	for b := range l.gate.Routing().All() {
		for _, r := range b.Relaying() {
			say(r)
		}
	}
}

// leaveBackends closes the connections to software that has been drained.
func (l *Layer) leaveBackends() {
	for b := range l.gate.Routing().All() {
		b.Leave()
	}
}

// Stats returns what the layer has seen.
func (l *Layer) Stats() Stats {
	g := l.gate.Stats()
	s := Stats{
		InFlight: g.In, Held: g.Held + l.heldPackets(), PeakInFlight: g.PeakIn, PeakHeld: g.PeakHeld,
		LongestHold: g.Longest, Services: map[string]map[bundle.Version]tally.Calls{},
	}
	for name, one := range l.services {
		s.Services[name] = one.tally.Snapshot()
	}
	s.Past, s.Future = l.past.Snapshot(), l.future.Snapshot()
	if l.out != nil {
		s.Egress = l.out.Calls()
	}
	s.Observers = l.observerStats()
	return s
}

// Close closes all listeners, cuts all calls and returns when everything that
// the layer started has ended. It may be called again.
func (l *Layer) Close() error {
	l.closer.Do(func() {
		l.apply.Lock()
		l.closed = true
		l.endStrays(func(stray) bool { return true })
		for name := range l.taken {
			l.letGo(name)
		}
		l.apply.Unlock()
		l.stop()
		l.gate.Close()
		l.mu.Lock()
		var all []*listener
		for _, s := range l.services {
			if s.public != nil {
				all = append(all, s.public)
			}
			for _, f := range s.versioned {
				all = append(all, f)
			}
		}
		l.mu.Unlock()
		for _, f := range all {
			f.close()
		}
		l.closeAsides()
		if l.out != nil {
			l.out.Close()
		}
	})
	<-l.tasks.Close()
	l.closeObservers()
	l.gate.Routing().Release(nil)
	return nil
}
