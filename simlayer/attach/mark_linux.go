package attach

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mark is the type of service, or traffic class, of the agent's own connections to
// the node: the code point 23, of those that are for local use (RFC 2474, pool 2),
// without the two bits of ECN (RFC 3168), which are the network's.
const (
	mark     = 23 << 2
	markMask = 0xfc
)

// DialControl is a net.Dialer's ControlContext. It marks a connection, so that at
// the address of a Pair it reaches the node, whatever that is pointed at, if it
// comes from the same address, which is to say from this machine. Elsewhere a
// mark changes nothing.
func DialControl(_ context.Context, network, addr string, rc syscall.RawConn) error {
	level, option := 0, 0
	switch {
	case strings.HasPrefix(network, "unix"):
		return nil
	case strings.HasSuffix(network, "4"):
		level, option = unix.IPPROTO_IP, unix.IP_TOS
	case strings.HasSuffix(network, "6"):
		level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	default:
		return fmt.Errorf("mark a connection of network %q to %s: want an IP network with its version", network, addr)
	}
	var failed error
	err := rc.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, mark) })
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("mark a connection to %s as the agent's own: %w", addr, err)
	}
	return nil
}

// Offsets in the headers of the network layer, as classic BPF names them. What it
// sees by plain offsets begins after the TCP header.
const (
	netOff   = -0x100000 // SKF_NET_OFF
	ip4TOS   = netOff + 1
	ip4From  = netOff + 12
	ip4To    = netOff + 16
	ip6From  = netOff + 8
	ip6To    = netOff + 24
	ip6Words = 4
)

// place is the program that names the place of who gets a new connection: node
// for the agent's own, to for all others.
func place(to, node uint32) []unix.SockFilter {
	var prog []unix.SockFilter
	// These jump to the last two instructions, which are filled in at the end.
	const here, other, own = 0, 0xfe, 0xfd
	load := func(size uint16, at int64) {
		prog = append(prog, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_ABS | size, K: uint32(at & math.MaxUint32)})
	}
	and := func(k uint32) {
		prog = append(prog, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k})
	}
	equal := func(k uint32, yes, no uint8) {
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no})
	}
	same := func(a, b int64, yes uint8) {
		load(unix.BPF_W, a)
		prog = append(prog, unix.SockFilter{Code: unix.BPF_MISC | unix.BPF_TAX})
		load(unix.BPF_W, b)
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_X, Jt: yes, Jf: other})
	}
	// A socket of both families gets either header.
	load(unix.BPF_B, netOff)
	and(0xf0)
	const len4 = 7
	equal(0x40, here, len4)
	load(unix.BPF_B, ip4TOS)
	and(markMask)
	equal(mark, here, other)
	same(ip4From, ip4To, own)

	load(unix.BPF_W, netOff)
	and(markMask << 20)
	equal(mark<<20, here, other)
	for i := range int64(ip6Words) {
		last := uint8(here)
		if i == ip6Words-1 {
			last = own
		}
		same(ip6From+4*i, ip6To+4*i, last)
	}
	end := len(prog)
	for i := range prog {
		p := &prog[i]
		for _, j := range []*uint8{&p.Jt, &p.Jf} {
			switch *j {
			case other:
				*j = uint8(end - i - 1)
			case own:
				*j = uint8(end - i)
			}
		}
	}
	ret := func(k uint32) { prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}) }
	ret(to)
	ret(node)
	return prog
}

// direct makes the group of a socket give new connections to one place in it, and
// the agent's own to the node's.
func direct(fd int, to, node uint32) error {
	filter := place(to, node)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog); err != nil {
		return fmt.Errorf("say which socket gets new connections (SO_ATTACH_REUSEPORT_CBPF): %w", permission(err))
	}
	return nil
}
