package software

import (
	"net"
	"net/netip"
	"os"

	"moult/simlayer/connect"
)

// bind has what the software binds for services of UDP, in a cgroup of its own, bound
// where its callers call, for attach by steer: its answers come from there. It returns
// the cgroup, nil where there is no need. Where that does not work the layer relays, and
// says why. s.mu is held.
func (s *Software) bind(r record) *os.File {
	where := map[netip.AddrPort]netip.AddrPort{}
	for _, one := range r.Inherited {
		if one.Members.Node != 0 {
			continue // it has its socket
		}
		from, err := udpAddr(r.Backends[one.Service])
		var to netip.AddrPort
		if err == nil {
			to, err = udpAddr(one.Addr)
		}
		if err != nil {
			s.cfg.Layer.Unbound(err)
			return nil
		}
		where[from] = to
	}
	if len(where) == 0 && s.binder == nil {
		return nil
	}
	err := s.openBinder()
	if err == nil {
		err = s.binder.Set(where)
	}
	s.cfg.Layer.Unbound(err)
	if err != nil {
		s.cfg.Log.Warn("the software's UDP sockets cannot be bound where its callers call", "err", err)
		return nil
	}
	return s.binder.Cgroup()
}

func (s *Software) openBinder() (err error) {
	if s.binder == nil {
		o := connect.Options{Name: s.cfg.KernelName}
		if g := s.cfg.Bounds.InGroup(); g != nil {
			o.Cgroup = g.Unified
		}
		s.binder, err = connect.OpenBinder(o)
	}
	return err
}

func udpAddr(addr string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := a.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}
