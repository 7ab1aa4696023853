package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Network opens sockets. The operating system's is used unless Config names
// another, such as one in memory.
type Network interface {
	// Listen opens a stream listener and a packet socket on one port. Packets
	// come from and go to *net.UDPAddr addresses.
	Listen(ctx context.Context, addr string) (net.Listener, net.PacketConn, error)
	// Dial opens a stream to host:port.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

type sockets struct{}

// portAttempts bounds the search for a port that is free for both TCP and
// UDP, when the kernel may choose.
const portAttempts = 16

func (sockets) Listen(ctx context.Context, addr string) (net.Listener, net.PacketConn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, fmt.Errorf("bind address %q: %w", addr, err)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	for attempt := 1; ; attempt++ {
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, listenError("TCP", addr, err)
		}
		both := net.JoinHostPort(host, strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
		pc, err := lc.ListenPacket(ctx, "udp", both)
		if err == nil {
			// A small buffer only costs packets, which gossip survives.
			_ = pc.(*net.UDPConn).SetReadBuffer(udpReceiveBuffer)
			return ln, pc, nil
		}
		_ = ln.Close()
		if port != "0" || attempt == portAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, listenError("UDP", both, err)
		}
	}
}

func listenError(kind, addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cannot listen on %s %s: %w: stop what holds it (another agent?) or bind another port", kind, addr, err)
	}
	return fmt.Errorf("cannot listen on %s %s: %w", kind, addr, err)
}

func (sockets) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", addr)
}

// advertised decides which address peers are told. bound is what the listener
// got; advertise may be empty.
func advertised(ctx context.Context, bound *net.TCPAddr, advertise string) (*net.TCPAddr, error) {
	if advertise != "" {
		a, err := resolve(ctx, advertise)
		if err != nil {
			return nil, fmt.Errorf("advertised address %q: %w", advertise, err)
		}
		if a.Port == 0 {
			a.Port = bound.Port
		}
		return a, nil
	}
	if !bound.IP.IsUnspecified() {
		return bound, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("looking for an address to advertise: %w: name one", err)
	}
	if ip := bestInterface(addrs); ip != nil {
		return &net.TCPAddr{IP: ip, Port: bound.Port}, nil
	}
	return nil, fmt.Errorf("bound to every interface (%s), and none has an address that peers could reach: name one to advertise", bound)
}

// bestInterface prefers private addresses, then other global ones, IPv4
// before IPv6.
func bestInterface(addrs []net.Addr) net.IP {
	var best net.IP
	rank := 0
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() {
			continue
		}
		r := 1
		if n.IP.To4() != nil {
			r++
		}
		if n.IP.IsPrivate() {
			r += 2
		}
		if r > rank {
			best, rank = n.IP, r
		}
	}
	return best
}

// resolve turns host:port into one address. Host names are looked up here and
// not by memberlist, which would ask DNS servers on its own.
func resolve(ctx context.Context, addr string) (*net.TCPAddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: want a number up to 65535", port)
	}
	if ip := net.ParseIP(host); ip != nil {
		return &net.TCPAddr{IP: ip, Port: int(p)}, nil
	}
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		if ip.To4() != nil {
			return &net.TCPAddr{IP: ip, Port: int(p)}, nil
		}
	}
	return &net.TCPAddr{IP: ips[0], Port: int(p)}, nil
}
