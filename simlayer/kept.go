package simlayer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"moult/simlayer/attach"
	"moult/simlayer/packets"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// Keeper keeps listening sockets open from one layer to the next, so that callers who come
// meanwhile wait. Names are of letters, digits, '.', '-' and '_'. It is called concurrently.
type Keeper interface {
	// Take returns the socket that a layer before has left by this name, the caller's from
	// now on; nil for none.
	Take(name string) *os.File
	// Keep keeps a copy of a socket, the Keeper's from now on; Drop closes it.
	Keep(name string, copied *os.File)
	Drop(name string)
	// Done closes what was left and nobody has taken.
	Done()
}

var errKept = errors.New("a socket of another kind")

// egressName is that of the egress proxy's socket: services have a version behind a dot.
const egressName = "egress"

// keptName is that of the socket for callers of a version of a service.
func keptName(s *service, label bundle.Version) string {
	return fmt.Sprintf("%s.%s.%d", s.network(), s.name, label)
}

// keep has a socket go over to the next layer.
func (l *Layer) keep(name string, copying func() (*os.File, error)) {
	if l.cfg.Sockets == nil {
		return
	}
	copied, err := copying()
	if err != nil {
		l.log.Warn("a listening socket cannot be kept for the next agent", "name", name, "err", err)
		return
	}
	l.cfg.Sockets.Keep(name, copied)
}

// drop ends what keep has begun; where the layer leaves, the next one takes it over.
func (l *Layer) drop(name string) {
	if l.cfg.Sockets != nil && !l.leaving.Load() {
		l.cfg.Sockets.Drop(name)
	}
}

// take returns the socket that a layer before has left by a name; nil for none.
func (l *Layer) take(name string) *os.File {
	if l.cfg.Sockets == nil {
		return nil
	}
	return l.cfg.Sockets.Take(name)
}

// forgo closes the socket that a layer before has left by a name: its address is bound anew.
func (l *Layer) forgo(name string) {
	if f := l.take(name); f != nil {
		f.Close()
	}
}

// listenPair opens a pair for callers of a version that the running software has no socket
// of. The layer's is the one that a layer before has left, if that is there.
func (l *Layer) listenPair(s *service, label bundle.Version, addr string) (*attach.Pair, error) {
	name := keptName(s, label)
	if left := l.take(name); left != nil {
		pair, err := attach.AdoptPair(l.ctx, addr, attach.Members{}, nil, left)
		left.Close() // the pair has its own
		if err == nil {
			return pair, nil
		}
		l.log.Warn("the socket of the agent before is of no use", "name", name, "err", err)
	}
	return attach.ListenPair(l.ctx, s.network(), addr)
}

// socket is a listening one of TCP, or one of UDP.
type socket interface {
	File() (*os.File, error)
	Close() error
}

// listenKept listens at an address, by the socket that a layer before has left if that is there,
// and keeps it for the next. A socket of another address is closed: that one may be somebody
// else's now.
func listenKept[S socket](l *Layer, name, addr string, open func(*os.File) (S, net.Addr, error), listen func(context.Context, string) (S, error)) (s S, err error) {
	left := l.take(name)
	if left != nil {
		var at net.Addr
		s, at, err = open(left)
		left.Close() // s has its own
		switch {
		case err != nil:
			l.log.Warn("the socket of the agent before is of no use", "name", name, "err", err)
			left = nil
		case !listensAt(at, addr):
			l.log.Info("the socket of the agent before is not wanted any more", "name", name, "at", at.String(), "wanted", addr)
			s.Close()
			left = nil
		}
	}
	if left == nil {
		if s, err = listen(l.ctx, addr); err != nil {
			return s, err
		}
	}
	l.keep(name, s.File)
	return s, nil
}

// listensAt reports whether a socket is what listening at a host:port would give, with
// port 0 at any port.
func listensAt(at net.Addr, addr string) bool {
	own, ok := stream.AddrPort(at)
	host, port, err := stream.SplitAddr(addr)
	if !ok || err != nil || port != 0 && int(own.Port()) != port {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "" && own.Addr().IsUnspecified() || host == "localhost" && own.Addr().IsLoopback()
	}
	return ip.Unmap() == own.Addr().Unmap()
}

// listenStream listens at an address of TCP, as listenKept has it.
func (l *Layer) listenStream(name, addr string) (*net.TCPListener, error) {
	return listenKept(l, name, addr, func(f *os.File) (*net.TCPListener, net.Addr, error) {
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, nil, err
		}
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			return nil, nil, errors.Join(fmt.Errorf("%w: %s, want tcp", errKept, ln.Addr().Network()), ln.Close())
		}
		return tcp, ln.Addr(), nil
	}, stream.Listen)
}

// listenPackets is listenStream for UDP.
func (l *Layer) listenPackets(name, addr string) (*net.UDPConn, error) {
	return listenKept(l, name, addr, func(f *os.File) (*net.UDPConn, net.Addr, error) {
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, nil, err
		}
		udp, ok := c.(*net.UDPConn)
		if !ok {
			return nil, nil, errors.Join(fmt.Errorf("%w: %s, want udp", errKept, c.LocalAddr().Network()), c.Close())
		}
		return udp, c.LocalAddr(), nil
	}, packets.Listen)
}
