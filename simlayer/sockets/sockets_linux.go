package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openStates are those in which a call may still come by a connection.
var openStates = []uint8{netlink.TCP_ESTABLISHED, netlink.TCP_SYN_RECV, netlink.TCP_CLOSE_WAIT}

// Others returns the connections that callers have to these addresses, and of which
// this process has neither end. Those that are not accepted yet are among them.
func Others(addrs []netip.AddrPort) ([]Conn, error) {
	own, err := ownSockets()
	if err != nil {
		return nil, err
	}
	var all []*netlink.InetDiagTCPInfoResp
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := netlink.SocketDiagTCPInfo(family)
		if err != nil && !(family == unix.AF_INET6 && errors.Is(err, unix.ENOENT)) {
			return nil, fmt.Errorf("ask the kernel for connections past the layer: %w", err)
		}
		all = append(all, some...)
	}
	return othersOf(all, addrs, own), nil
}

// ownSockets returns the inodes of this process's sockets.
func ownSockets() (map[uint32]bool, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for connections past the layer: %w", err)
	}
	own := map[uint32]bool{}
	for _, e := range entries {
		// One that is gone by now is nobody's.
		to, _ := os.Readlink(dir + "/" + e.Name())
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			if n, err := strconv.ParseUint(strings.TrimSuffix(inode, "]"), 10, 32); err == nil {
				own[uint32(n)] = true
			}
		}
	}
	return own, nil
}

// othersOf returns those of all connections whose local address is among addrs, and of
// which this process has neither end: own are its sockets.
func othersOf(all []*netlink.InetDiagTCPInfoResp, addrs []netip.AddrPort, own map[uint32]bool) []Conn {
	at := map[netip.AddrPort]bool{}
	for _, a := range addrs {
		at[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())] = true
	}
	ours, others := map[Ends]bool{}, []Conn{}
	for _, s := range all {
		if s.InetDiagMsg == nil || !slices.Contains(openStates, s.InetDiagMsg.State) {
			continue
		}
		id := s.InetDiagMsg.ID
		local, remote := addrPort(id.Source, id.SourcePort), addrPort(id.Destination, id.DestinationPort)
		switch {
		case own[s.InetDiagMsg.INode]:
			ours[Ends{Local: remote, Remote: local}] = true
		case at[local] || at[netip.AddrPortFrom(netip.IPv4Unspecified(), local.Port())] || at[netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())]:
			others = append(others, Conn{Ends{local, remote}, unanswered(s)})
		}
	}
	return slices.DeleteFunc(others, func(c Conn) bool { return ours[c.Ends] })
}

func unanswered(s *netlink.InetDiagTCPInfoResp) bool {
	// That nothing more will come is counted as unread, too, but is no call.
	if s.InetDiagMsg.RQueue > 0 && s.InetDiagMsg.State == netlink.TCP_ESTABLISHED {
		return true
	}
	return s.TCPInfo != nil && s.TCPInfo.Data_segs_in > 0 && s.TCPInfo.Last_data_recv < s.TCPInfo.Last_data_sent
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}
