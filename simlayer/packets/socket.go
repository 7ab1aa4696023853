package packets

import (
	"bytes"
	"context"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"moult/simlayer/stream"
)

// Listen opens a socket of UDP at a host:port. Its errors name the address, and say
// what to do.
func Listen(ctx context.Context, addr string) (*net.UDPConn, error) {
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, stream.ListenError(addr+" (udp)", err)
	}
	return conn.(*net.UDPConn), nil
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
