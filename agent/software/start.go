package software

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"moult/agent/process"
	"moult/simlayer"
	"moult/store/bundle"
)

// ensure returns the running process of version v, and how it was started: the
// one at hand, the one that an earlier agent started, or a new one. Anything else
// that runs for this node is stopped first.
func (s *Software) ensure(ctx context.Context, v bundle.Version) (*process.Process, Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if proc, err := s.take(v); proc != nil || err != nil {
		return proc, s.record.Plan, err
	}
	p, err := s.cfg.Plan(v)
	if err != nil {
		return nil, p, err
	}
	drain := s.record.Plan.Health.DrainTimeout
	if drain == 0 {
		drain = p.Health.DrainTimeout
	}
	if err := s.stopLocked(ctx, drain); err != nil {
		return nil, p, err
	}
	proc, err := s.startLocked(ctx, p)
	return proc, p, err
}

// take returns the process that already runs version v; nil if none does. It
// needs nothing but the record: software that runs is not ended because the
// agent has lost what it was told of it.
func (s *Software) take(v bundle.Version) (*process.Process, error) {
	if s.proc != nil && ended(s.proc) {
		s.proc = nil
	}
	if s.record.Version != v || !s.record.names() {
		return nil, nil
	}
	if s.proc != nil {
		return s.proc, nil
	}
	if s.record.Plan.Version != v { // an older moult wrote the record
		p, err := s.cfg.Plan(v)
		if err != nil {
			return nil, err
		}
		s.record.Plan = p
	}
	spec, err := s.spec(s.record.Plan, s.record.Backends, s.record.account(s.cfg.Account))
	if err != nil {
		return nil, err
	}
	proc, err := process.Adopt(s.record.Handle, spec)
	if errors.Is(err, process.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over the running software of version %d; it goes on, unwatched, until that succeeds: %w", v, err)
	}
	s.cfg.Log.Info("took over the running software", "pid", s.record.Handle.PID, "version", v)
	if err := s.cfg.Bounds.InGroup().Add(family(s.record.Handle.PID)...); err != nil {
		s.cfg.Log.Error("the running software is not held to memory_max and cpu_weight until it is started anew", "err", err)
	}
	s.bind(s.record) // it may do so again
	if c := s.cfg.Connect; c != nil {
		if err := c.Add(s.record.Handle.PID); err != nil {
			s.cfg.Log.Error("the running software's calls are not labelled with its version until it is started anew", "err", err)
		}
	}
	s.proc = proc
	return proc, nil
}

// startLocked starts the software on free ports of the loopback interface, or on
// sockets that it inherits.
func (s *Software) startLocked(ctx context.Context, p Plan) (*process.Process, error) {
	if !p.Artifact.IsZero() {
		dir, err := s.cfg.Unpacked(ctx, p.Artifact) // no byte runs that was not hashed
		if err != nil {
			return nil, fmt.Errorf("the software of release %d: %w", p.Version, err)
		}
		p.Dir = dir
	}
	if err := s.cfg.Tell(Starting{Version: p.Version}); err != nil {
		return nil, err
	}
	sockets, err := s.cfg.Layer.Sockets(p.Version)
	if err != nil {
		return nil, err
	}
	defer closeSockets(sockets)
	backends, err := s.places(p, sockets)
	if err != nil {
		return nil, err
	}
	spec, err := s.spec(p, backends, s.cfg.Account)
	if err != nil {
		return nil, err
	}
	r := record{Version: p.Version, Backends: backends, Plan: p, As: &as{s.cfg.Account}}
	if proxy := s.cfg.Layer.EgressURL(); proxy != nil {
		r.Egress = proxy.Host
		r.EgressSecret, _ = proxy.User.Password()
	}
	for _, one := range sockets {
		if one.Node != nil {
			spec.Sockets = append(spec.Sockets, process.Socket{Name: one.Service, File: one.Node})
		}
		spec.Held = append(spec.Held, one.Hold)
		r.Inherited = append(r.Inherited, one.Inherited)
	}
	if err := s.cfg.Own(p.Version); err != nil {
		return nil, err
	}
	spec.Cgroup = s.bind(r)
	if c := s.cfg.Connect; c != nil {
		spec.Cgroup = c.Cgroup() // the same
	}
	spec.OnStart = func(h process.Handle) error {
		r.Handle = h
		return s.save(r)
	}
	proc, err := process.Start(spec)
	if err != nil {
		return nil, fmt.Errorf("start version %d: %w", p.Version, err)
	}
	s.cfg.Log.Info("started the software", "version", p.Version, "pid", proc.Handle().PID)
	s.proc = proc
	return proc, nil
}

// places says where the software is to listen: at the sockets that it inherits,
// and else at free ports.
func (s *Software) places(p Plan, sockets []simlayer.Socket) (map[string]string, error) {
	backends := map[string]string{}
	for _, one := range sockets {
		if one.Node != nil {
			backends[one.Service] = one.Addr
		}
	}
	chosen := map[string]string{} // by public address: what has one port for both networks has so here
	for _, name := range p.Services {
		if backends[name] != "" {
			continue
		}
		public := s.cfg.Services[name]
		if addr := chosen[public]; addr != "" && public != "" {
			backends[name] = addr
			continue
		}
		addr, err := privateAddr(public)
		if err != nil {
			return nil, err
		}
		backends[name], chosen[public] = addr, addr
	}
	return backends, nil
}

func closeSockets(sockets []simlayer.Socket) {
	for _, s := range sockets {
		_ = s.Close() // the software has its own
	}
}

// privateAddr returns an address for the software to listen on, free for TCP and for
// UDP, of the family of the address that its callers know.
func privateAddr(public string) (addr string, err error) {
	local := "127.0.0.1:0"
	if at, err := netip.ParseAddrPort(public); err == nil && at.Addr().Is6() && !at.Addr().Is4In6() {
		local = "[::1]:0"
	}
	for range privateTries {
		if addr, err = freeAddr(local); err == nil {
			return addr, nil
		}
	}
	return "", fmt.Errorf("find a free port for the software: %w", err)
}

func freeAddr(local string) (string, error) {
	l, err := net.Listen("tcp", local)
	if err != nil {
		return "", err
	}
	c, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		return "", errors.Join(err, l.Close())
	}
	return l.Addr().String(), errors.Join(c.Close(), l.Close())
}
