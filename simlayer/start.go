package simlayer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"

	"moult/simlayer/calls"
	"moult/simlayer/egress"
	"moult/simlayer/gate"
	"moult/simlayer/packets"
	"moult/simlayer/routes"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

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
	l := &Layer{cfg: cfg, log: cfg.Log, gate: gate.New(&routes.Route{Down: true, Hold: DefaultHoldTimeout}, DefaultHoldTimeout, cfg.Limits.Held), conns: stream.NewQuota(cfg.Limits.Conns), answerTime: answerTime, services: map[string]*service{}, taken: map[string]taken{}, asides: map[string]*packets.Aside{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.calls = calls.New(calls.Config{
		Ctx: l.ctx, Gate: l.gate, Conns: l.conns, Tasks: &l.tasks, Log: l.log,
		Held: cfg.Limits.Held, Open: cfg.Limits.Conns, Replay: cfg.Limits.Replay, ByProxy: cfg.byProxy,
	})
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
			Addr: cfg.Egress, Listen: func(addr string) (*net.TCPListener, error) { return l.listenStream(egressName, addr) }, Secret: cfg.EgressSecret, Resolve: cfg.Resolve, Label: l.label, Quota: l.conns, Held: cfg.Limits.Held, Log: cfg.Log,
		})
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("%w: %w", ErrEgress, err)
		}
		l.out = out
	}
	return l, nil
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
			l.drop(egressName)
		}
	})
	<-l.tasks.Close()
	l.closeObservers()
	l.gate.Routing().Release(nil)
	return nil
}
