package stream

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// SplitAddr takes a host:port apart.
func SplitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q: want host:port", addr)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q: want a port from 0 to 65535", addr)
	}
	return host, port, nil
}

// AddrPort returns an address of TCP or UDP; false for any other.
func AddrPort(addr net.Addr) (netip.AddrPort, bool) {
	a, ok := addr.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}, false
	}
	return a.AddrPort(), true
}

// Source is whence a caller comes, as far as shares go: its address, or the network that one
// host has of IPv6.
func Source(ap netip.AddrPort) netip.Prefix {
	ip, bits := ap.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	from, _ := ip.Prefix(bits) // bits fit
	return from
}

// SameAddr reports whether connecting to dest, a host:port, would reach a listener
// at addr.
func SameAddr(addr net.Addr, dest string) bool {
	own, ok := AddrPort(addr)
	host, port, err := SplitAddr(dest)
	if !ok || err != nil || int(own.Port()) != port {
		return false
	}
	at := own.Addr().Unmap()
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost" && (at.IsLoopback() || at.IsUnspecified())
	}
	ip = ip.Unmap()
	return at == ip || ip.IsUnspecified() || at.IsUnspecified() && ip.IsLoopback()
}
