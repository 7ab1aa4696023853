package packets

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
)

// sessionKey tells sessions apart.
type sessionKey struct {
	caller netip.AddrPort
	called netip.Addr // of the relay; invalid unless it listens on all
}

// session is one caller. The relay's lock protects it.
type session struct {
	key   sessionKey
	up    *net.UDPConn // to the node; nil before the first datagram goes there
	addr  string       // of the node, as up has it
	last  time.Time    // of a datagram either way
	asked time.Time    // of the last one to the node; zero once it has answered
	held  int          // datagrams of it in the queue
}

// begin makes a session; nil: there are too many. The lock is held.
func (r *Relay) begin(key sessionKey) *session {
	if len(r.sessions) >= r.cfg.Limits.Sessions {
		return nil
	}
	if r.cfg.Quota != nil && !r.cfg.Quota.Enter() {
		r.cfg.Quota.Leave()
		return nil
	}
	s := &session{key: key}
	r.sessions[key] = s
	return s
}

// send passes a datagram on to the node.
func (r *Relay) send(s *session, way Way, data []byte, waited time.Duration) {
	if err := r.reach(s, way.Addr); err != nil {
		r.cfg.Log.Debug("datagram not passed on", "address", r.Addr().String(), "to", way.Addr, "err", err)
		r.lose(way, &r.stats.Unreachable, waited)
		r.endIfUnused(s)
		return
	}
	asked := time.Now() // before the node can answer
	_, err := s.up.Write(data)
	if errors.Is(err, syscall.ECONNREFUSED) {
		// That was said of an earlier datagram; this one was not sent yet.
		r.stats.Unreachable++
		_, err = s.up.Write(data)
	}
	if err != nil {
		r.lose(way, &r.stats.Unreachable, waited)
		return
	}
	s.asked = asked
	r.stats.ToNode++
	r.cfg.Target.Count(way, tally.Answered, waited)
}

// reach gives a session its socket to the node at addr.
func (r *Relay) reach(s *session, addr string) error {
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
		r.cfg.Senders.remove(s.up)
	}
	s.up, s.addr = up, addr
	r.cfg.Senders.add(up)
	_ = up.SetReadDeadline(s.last.Add(r.cfg.Limits.Idle))
	r.running.Go(func() { r.answer(s, up) })
	return nil
}

// end ends a session.
func (r *Relay) end(s *session) {
	if r.sessions[s.key] != s {
		return
	}
	delete(r.sessions, s.key)
	if s.up != nil {
		s.up.Close()
		r.cfg.Senders.remove(s.up)
	}
	if r.cfg.Quota != nil {
		r.cfg.Quota.Leave()
	}
}

// answer passes what the node says to one caller on, until the session ends or has
// another socket. The lock is not held.
func (r *Relay) answer(s *session, up *net.UDPConn) {
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

// answered notes what the node said at that time, and what came of passing it on.
func (r *Relay) answered(s *session, said time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.last = time.Now()
	if !s.asked.After(said) {
		// A caller is quick: it may have asked again since, and is still owed that.
		s.asked = time.Time{}
	}
	select {
	case r.heard <- struct{}{}:
	default: // AwaitAnswers looks anyway
	}
	if err == nil {
		r.stats.ToCaller++
	} else if !r.closed {
		r.cfg.Log.Debug("datagram not passed back", "caller", s.key.caller.String(), "err", err)
	}
}

// read waits for a datagram. It takes a buffer only when there is one, so that
// sessions in which nothing happens cost little.
func (r *Relay) read(raw syscall.RawConn) (buf *[]byte, n int, err error) {
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		buf = r.buffers.Get().(*[]byte)
		if n, readErr = stream.Take(fd, *buf); readErr == nil {
			return true
		}
		r.buffers.Put(buf)
		return !errors.Is(readErr, syscall.EAGAIN)
	})
	if err == nil {
		err = readErr
	}
	return buf, n, err
}

// pardon returns nil for an error after which a session goes on: nobody listens at
// the node for a while, or nothing has come for a while and something has gone.
func (r *Relay) pardon(s *session, up *net.UDPConn, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		r.stats.Unreachable++
		return nil
	case errors.As(err, &timeout) && timeout.Timeout():
		until := s.last.Add(r.cfg.Limits.Idle)
		if s.held > 0 || time.Now().Before(until) {
			return up.SetReadDeadline(later(until, time.Now().Add(r.cfg.Limits.Idle/8)))
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

// lose counts a datagram that is dropped. The lock is held.
func (r *Relay) lose(way Way, why *int64, waited time.Duration) {
	*why++
	o := tally.Failed
	if way.Denied && why == &r.stats.NoTarget {
		o = tally.Denied
	}
	if why == &r.stats.Overflow || why == &r.stats.Expired {
		way.Native = 0 // it did not get that far
	}
	r.cfg.Target.Count(way, o, waited)
}

// endIfUnused ends a session of which nothing waits and nothing was sent.
func (r *Relay) endIfUnused(s *session) {
	if s.held == 0 && s.up == nil {
		r.end(s)
	}
}
