package simlayer

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"moult/simlayer/attach"
)

// reach gives a session its socket to the node at addr.
func (r *udpRelay) reach(s *udpSession, addr string) error {
	if s.up != nil && s.addr == addr {
		return nil
	}
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	// Marked, to come past the layer's own socket where the address has another.
	d := net.Dialer{ControlContext: attach.DialControl}
	conn, err := d.Dial("udp", at.String())
	if err != nil {
		return err
	}
	up := conn.(*net.UDPConn)
	if s.up != nil {
		s.up.Close() // its reader ends
		r.senders.remove(s.up)
	}
	s.up, s.addr = up, addr
	r.senders.add(up)
	_ = up.SetReadDeadline(s.last.Add(r.limits.idle))
	r.running.Go(func() { r.answer(s, up) })
	return nil
}

// end ends a session.
func (r *udpRelay) end(s *udpSession) {
	if r.sessions[s.key] != s {
		return
	}
	delete(r.sessions, s.key)
	if s.up != nil {
		s.up.Close()
		r.senders.remove(s.up)
	}
	if r.limits.leave != nil {
		r.limits.leave()
	}
}

// answer passes what the node says to one caller on, until the session ends or has
// another socket. The lock is not held.
func (r *udpRelay) answer(s *udpSession, up *net.UDPConn) {
	oob := callFrom(s.key.called)
	raw, err := up.SyscallConn()
	for err == nil {
		var buf *[]byte
		var n int
		if buf, n, err = r.read(raw); err == nil {
			said := time.Now()
			_, _, sendErr := r.conn.WriteMsgUDPAddrPort((*buf)[:n], oob, s.key.caller)
			r.buffers.Put(buf)
			r.answered(s, said, sendErr)
			continue
		}
		err = r.pardon(s, up, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.up == up {
		r.end(s)
	}
}

// rest waits until every caller has heard from the node since it last asked, or
// has not for so long (limits.rest) that it may hear nothing; or until ctx ends. It
// is called when the target lets nothing more through.
func (r *udpRelay) rest(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := r.owed(r.limits.rest)
		if left <= 0 {
			return
		}
		timer.Reset(left)
		select {
		case <-r.heard:
		case <-timer.C:
		case <-ctx.Done():
			return
		case <-r.done:
			return
		}
	}
}

// owed is how long the node still has to answer the last caller that waits for it.
func (r *udpRelay) owed(long time.Duration) (left time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if !s.asked.IsZero() {
			left = max(left, time.Until(s.asked.Add(long)))
		}
	}
	return left
}

// callFrom says to the system that a datagram is to come from that address.
func callFrom(a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return nil
	case a.Is4():
		return (&ipv4.ControlMessage{Src: a.AsSlice()}).Marshal()
	}
	if !a.Is4In6() {
		return (&ipv6.ControlMessage{Src: a.AsSlice()}).Marshal()
	}
	// The package refuses an IPv4 address in IPv6 form; the system takes it.
	other := net.ParseIP("2001:db8::1")
	return bytes.Replace((&ipv6.ControlMessage{Src: other}).Marshal(), other, a.AsSlice(), 1)
}

// answered notes what the node said at that time, and what came of passing it on.
func (r *udpRelay) answered(s *udpSession, said time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.last = time.Now()
	if !s.asked.After(said) {
		// A caller is quick: it may have asked again since, and is still owed that.
		s.asked = time.Time{}
	}
	select {
	case r.heard <- struct{}{}:
	default: // rest will look anyway
	}
	if err == nil {
		r.stats.toCaller++
	} else if !r.closed {
		r.log.Debug("datagram not passed back", "caller", s.key.caller.String(), "error", err)
	}
}

// read waits for a datagram. It takes a buffer only when there is one, so that
// sessions in which nothing happens cost little.
func (r *udpRelay) read(raw syscall.RawConn) (buf *[]byte, n int, err error) {
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		buf = r.buffers.Get().(*[]byte)
		for {
			n, _, readErr = unix.Recvfrom(int(fd), *buf, unix.MSG_DONTWAIT)
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		if readErr == nil {
			return true
		}
		r.buffers.Put(buf)
		return !errors.Is(readErr, unix.EAGAIN)
	})
	if err == nil {
		err = readErr
	}
	return buf, n, err
}

// pardon returns nil for an error after which a session goes on: nobody listens at
// the node for a while, or nothing has come for a while and something has gone.
func (r *udpRelay) pardon(s *udpSession, up *net.UDPConn, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		r.stats.unreachable++
		return nil
	case errors.As(err, &timeout) && timeout.Timeout():
		until := s.last.Add(r.limits.idle)
		if s.held > 0 || time.Now().Before(until) {
			return up.SetReadDeadline(later(until, time.Now().Add(r.limits.idle/8)))
		}
	}
	return err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// calledAddr finds the address that a datagram came to in what the system says
// of it.
func calledAddr(oob []byte) netip.Addr {
	var four ipv4.ControlMessage
	var six ipv6.ControlMessage
	var a netip.Addr // stays invalid if nothing is said
	if four.Parse(oob) == nil && four.Dst != nil {
		a, _ = netip.AddrFromSlice(four.Dst)
	} else if six.Parse(oob) == nil && six.Dst != nil {
		a, _ = netip.AddrFromSlice(six.Dst)
	}
	return a
}

// senders are the sockets by which the relays of a layer send to nodes. What comes
// from one of them to a relay was for a node that has no socket just now, at an address
// that the relay shares with it: passed on, it would come back for ever. It is safe for
// concurrent use; nil has none.
type senders struct{ all sync.Map }

func sender(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}

func (s *senders) add(c *net.UDPConn) {
	if s != nil {
		s.all.Store(sender(c.LocalAddr().(*net.UDPAddr).AddrPort()), nil)
	}
}

func (s *senders) remove(c *net.UDPConn) {
	if s != nil {
		s.all.Delete(sender(c.LocalAddr().(*net.UDPAddr).AddrPort()))
	}
}

func (s *senders) has(caller netip.AddrPort) bool {
	if s == nil {
		return false
	}
	_, has := s.all.Load(sender(caller))
	return has
}
