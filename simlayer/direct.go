package simlayer

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"

	"moult/simlayer/attach"
	"moult/simlayer/routes"
	"moult/simlayer/stream"
)

// SetSteer gives the layer what steers callers of its services with AttachSteer. It is
// the caller's, and must outlive the layer. It is called before the first Apply.
func (l *Layer) SetSteer(s *attach.Steer) {
	l.apply.Lock()
	defer l.apply.Unlock()
	l.steer = s
}

func addrPort(addr string) (netip.AddrPort, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return tcp.AddrPort(), nil
}

// aim leads new connections past the layer where r lets callers of a listener
// through to the node unchanged, and all others to the layer; with nil, all. Where
// that fails they come to the layer. It is called with apply held.
func (l *Layer) aim(r *routes.Route) {
	for _, f := range l.listeners() {
		direct, err := l.aimOne(f, r, r != nil && !r.Down && f.straight(r))
		if err != nil {
			l.fell(f, err)
		} else if direct {
			l.fallen.Delete(f.service.name)
		}
		f.Lead(direct)
	}
}

// fell notes why callers are relayed. The same is not said twice.
func (l *Layer) fell(f *listener, err error) {
	level, why := slog.LevelWarn, err.Error()
	if before, _ := l.fallen.Swap(f.service.name, why); before == why {
		level = slog.LevelDebug
	}
	l.log.Log(l.ctx, level, "callers are relayed", "service", f.service.name, "version", f.Label, "address", f.Addr().String(), "err", err)
}

// straight reports whether r lets the callers of f through to the node unchanged.
func (f *listener) straight(r *routes.Route) bool {
	v := f.VersionUnder(r)
	p := r.Paths[v]
	return p != nil && r.Relays(p, f.service.Protocol) && p.Via == 0 && !r.Watched[v]
}

// aimOne leads new connections of one listener past the layer, or to it, and
// reports whether they go past.
func (l *Layer) aimOne(f *listener, r *routes.Route, straight bool) (direct bool, err error) {
	switch {
	case f.pair != nil:
		return l.point(f, r, straight)
	case f.single != nil && straight && f.Label == r.Native:
		return false, f.single
	case f.packets != nil:
		return false, nil
	case f.service.Attach == AttachSteer && l.steer != nil:
		err = l.steerOne(f, r, straight)
		return straight && err == nil, err
	}
	return false, nil
}

func (l *Layer) steerOne(f *listener, r *routes.Route, straight bool) error {
	at := netip.AddrPort{}
	if a, ok := stream.AddrPort(f.Addr()); ok {
		at = a
	}
	if !straight {
		return l.steer.Clear("tcp", at)
	}
	sock, err := l.socket(f.service, r)
	if err == nil {
		err = l.steer.Point("tcp", at, sock)
	}
	if err != nil {
		return errors.Join(err, l.steer.Clear("tcp", at))
	}
	return nil
}

// socket returns the one of the software of r for a service. It is kept until the
// software is another: what is queued at it outlives the software.
func (l *Layer) socket(s *service, r *routes.Route) (*os.File, error) {
	b := r.Backends[s.name]
	if b == nil || b.Network != "tcp" {
		return nil, fmt.Errorf("service %q: only software that listens on an IP address can be steered to", s.name)
	}
	if f := l.versionedOf(s, r.Native); f != nil && f.pair != nil {
		return nil, fmt.Errorf("service %q: the software has a socket that it inherited, until it is started anew", s.name)
	}
	have := l.taken[s.name]
	if have.file != nil && have.addr == b.Addr && slices.Equal(have.processes, r.Processes) {
		return have.file, nil
	}
	l.letGo(s.name)
	at, err := addrPort(b.Addr)
	if err != nil {
		return nil, err
	}
	file, err := attach.Take(r.Processes, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("the software's socket %s: %w", b.Addr, err)
	}
	l.taken[s.name] = taken{file: file, processes: r.Processes, addr: b.Addr}
	return file, nil
}

// letGo closes what is kept of the software's sockets.
func (l *Layer) letGo(service string) {
	if t := l.taken[service]; t.file != nil {
		t.file.Close()
	}
	delete(l.taken, service)
}

// Ended tells the layer that the software has ended. Connections that it had not
// accepted yet are accepted here, and held as all others are; so are datagrams that it
// had not read.
func (l *Layer) Ended() {
	l.apply.Lock()
	defer l.apply.Unlock()
	if l.closed {
		return
	}
	l.orphan.Store(l.gate.Routing())
	l.aim(nil)
	l.endStrays(func(stray) bool { return true })
	l.given, l.known = 0, nil
	for _, f := range l.listeners() {
		if f.pair == nil || f.pair.Open() {
			continue
		}
		if err := l.takePairStrays(f); err != nil {
			l.log.Warn("calls that the software left behind are lost", "address", f.Addr().String(), "err", err)
		}
	}
	for name, t := range l.taken {
		s := l.services[name]
		if s.network() != "tcp" {
			l.letGo(name) // it speaks another protocol by now
			continue
		}
		ln, err := attach.Strays(t.file)
		if err != nil {
			l.log.Warn("connections that the software left behind are lost", "service", name, "err", err)
			continue
		}
		// Whoever was queued there was steered from an address that is straight:
		// of the node's own version.
		if f := l.versionedOf(s, l.gate.Routing().Native); f != nil {
			l.takeStrays(f, ln, false)
		} else {
			ln.Close()
		}
	}
}

// takePairStrays takes what is queued at the software's socket of a pair.
func (l *Layer) takePairStrays(f *listener) error {
	if f.packets == nil {
		ln, err := f.pair.Strays()
		if err != nil {
			return err
		}
		l.takeStrays(f, ln, true)
		return nil
	}
	conn, err := f.pair.StrayPackets()
	if err != nil {
		return err
	}
	l.strays = append(l.strays, stray{conn, f, true})
	f.packets.ServeFrom(conn)
	return nil
}

func (l *Layer) takeStrays(f *listener, ln net.Listener, inherited bool) {
	l.strays = append(l.strays, stray{ln, f, inherited})
	f.serveFrom(ln)
}

// endStrays stops that.
func (l *Layer) endStrays(which func(stray) bool) {
	l.strays = slices.DeleteFunc(l.strays, func(s stray) bool {
		end := which(s)
		if end {
			s.Close()
		}
		return end
	})
}

// Fallen says why callers of a service are relayed although they need not be; ""
// where nothing is wrong.
func (l *Layer) Fallen(service string) string {
	why, _ := l.fallen.Load(service)
	text, _ := why.(string)
	return text
}
