package process

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// What the kernel is asked by sock_diag(7), and answers: inet_diag_req_v2 and
// inet_diag_msg of linux/inet_diag.h, behind a header of netlink.
const (
	diagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	diagRequest  = unix.SizeofNlMsghdr + 56
	diagAnswer   = unix.SizeofNlMsghdr + 72
	diagState    = unix.SizeofNlMsghdr + 1
	diagInode    = unix.SizeofNlMsghdr + 68

	tcpEstablished = 1
	tcpSynReceived = 3
)

// taken reports whether a process has accepted the other end of a connection within this
// machine. The kernel makes connections at a listening socket whether or not anybody
// accepts them; until then no file stands for them, so they have no inode. Where the
// kernel does not tell, as in some sandboxes, it is taken for accepted.
func taken(c net.Conn) (bool, error) {
	near, err1 := netip.ParseAddrPort(c.LocalAddr().String())
	far, err2 := netip.ParseAddrPort(c.RemoteAddr().String())
	if err1 != nil || err2 != nil {
		return false, fmt.Errorf("is a connection from %s to %s accepted: want addresses of TCP", c.LocalAddr(), c.RemoteAddr())
	}
	state, inode, known, err := lookUp(far, near)
	waits := state == tcpEstablished && inode == 0 || state == tcpSynReceived
	return !known || !waits, err
}

// lookUp finds the socket that has a connection from one address to another.
func lookUp(from, to netip.AddrPort) (state uint8, inode uint32, known bool, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, 0, false, nil
	}
	defer unix.Close(fd)
	q := make([]byte, diagRequest)
	binary.NativeEndian.PutUint32(q[0:], diagRequest)
	binary.NativeEndian.PutUint16(q[4:], diagByFamily)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST)
	r := q[unix.SizeofNlMsghdr:]
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	if from.Addr().Is6() && !from.Addr().Is4In6() {
		r[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(r[8:], from.Port())
	binary.BigEndian.PutUint16(r[10:], to.Port())
	copy(r[12:28], from.Addr().Unmap().AsSlice())
	copy(r[28:44], to.Addr().Unmap().AsSlice())
	binary.NativeEndian.PutUint64(r[48:], ^uint64(0)) // whatever its cookie
	if err := unix.Sendto(fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, 0, false, nil
	}
	a := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, a, 0)
	switch {
	case err != nil:
		return 0, 0, false, fmt.Errorf("ask the kernel for the connection from %s to %s: %w", to, from, err)
	case n < diagAnswer || binary.NativeEndian.Uint16(a[4:]) != diagByFamily:
		return 0, 0, false, nil // it has ended, or the kernel does not tell
	}
	return a[diagState], binary.NativeEndian.Uint32(a[diagInode:]), true, nil
}
