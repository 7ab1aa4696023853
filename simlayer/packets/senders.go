package packets

import (
	"net"
	"net/netip"
	"sync"
)

// Senders are the sockets by which the relays of a layer send to nodes. What comes
// from one of them to a relay was for a node that has no socket just now, at an address
// that the relay shares with it: passed on, it would come back for ever. It is safe for
// concurrent use; nil has none.
type Senders struct{ all sync.Map }

func sender(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}

func (s *Senders) add(c *net.UDPConn) {
	if s != nil {
		s.all.Store(sender(c.LocalAddr().(*net.UDPAddr).AddrPort()), nil)
	}
}

func (s *Senders) remove(c *net.UDPConn) {
	if s != nil {
		s.all.Delete(sender(c.LocalAddr().(*net.UDPAddr).AddrPort()))
	}
}

func (s *Senders) has(caller netip.AddrPort) bool {
	if s == nil {
		return false
	}
	_, has := s.all.Load(sender(caller))
	return has
}
