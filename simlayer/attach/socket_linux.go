package attach

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is what the kernel says of one.
type socket struct {
	family, kind, protocol int
	local                  netip.AddrPort
	listening, connected   bool
	v6only, reuseport      bool
}

// inspect asks for what Take, AdoptPair and Point need to know. It fails with
// ErrSocket for what is no IP socket.
func inspect(fd int) (socket, error) {
	var s socket
	var err error
	get := func(level, option int) int {
		v, e := unix.GetsockoptInt(fd, level, option)
		if e != nil && err == nil {
			err = e
		}
		return v
	}
	s.family = get(unix.SOL_SOCKET, unix.SO_DOMAIN)
	s.kind = get(unix.SOL_SOCKET, unix.SO_TYPE)
	s.protocol = get(unix.SOL_SOCKET, unix.SO_PROTOCOL)
	s.listening = get(unix.SOL_SOCKET, unix.SO_ACCEPTCONN) != 0
	if err != nil {
		return s, fmt.Errorf("ask for a socket's kind: %w", err)
	}
	if s.family != unix.AF_INET && s.family != unix.AF_INET6 {
		return s, fmt.Errorf("%w: its address family is %d, want an IPv4 or IPv6 socket", ErrSocket, s.family)
	}
	s.reuseport = get(unix.SOL_SOCKET, unix.SO_REUSEPORT) != 0
	if s.family == unix.AF_INET6 {
		s.v6only = get(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) != 0
	}
	if err != nil {
		return s, fmt.Errorf("ask for a socket's options: %w", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return s, fmt.Errorf("ask for a socket's address: %w", err)
	}
	s.local = addrPort(sa)
	_, err = unix.Getpeername(fd)
	s.connected = err == nil
	return s, nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(zoneName(int(a.ZoneId)))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// zoneName gives the name of an interface, so that a link-local address equals
// one that was written with it.
func zoneName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return strconv.Itoa(index)
}

// dual says whether the socket takes IPv4 and IPv6.
func (s socket) dual() bool {
	return s.family == unix.AF_INET6 && !s.v6only && s.local.Addr().IsUnspecified()
}

// network is what package net calls the socket's kind of address.
func (s socket) network() string {
	name := "tcp"
	if s.kind == unix.SOCK_DGRAM {
		name = "udp"
	}
	switch {
	case s.family == unix.AF_INET:
		return name + "4"
	case s.dual():
		return name
	}
	return name + "6"
}

// exactFit is how well a socket's own address fits it.
const exactFit = 2

// serves says how well the socket's address fits: exactly, 1 as a wildcard, 0 not at
// all.
func (s socket) serves(addr netip.AddrPort) int {
	ip := addr.Addr().Unmap()
	switch {
	case s.local.Port() != addr.Port():
		return 0
	case s.local.Addr().Unmap() == ip:
		return exactFit
	case !s.local.Addr().IsUnspecified(), ip.Is6() && s.family == unix.AF_INET, ip.Is4() && s.family == unix.AF_INET6 && s.v6only:
		return 0
	}
	return 1
}

// cookie is the kernel's number of a socket, which no other has until the machine
// starts anew.
func cookie(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// control calls f with the descriptor of a file, which stays open meanwhile.
func control(file syscall.Conn, f func(fd int) error) error {
	rc, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

func inspectFile(file syscall.Conn) (socket, error) {
	var s socket
	err := control(file, func(fd int) (err error) {
		s, err = inspect(fd)
		return err
	})
	return s, err
}

// dup returns another descriptor of the same socket.
func dup(file *os.File) (*os.File, error) {
	var copied int
	err := control(file, func(fd int) (err error) {
		copied, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("duplicate a socket: %w", err)
	}
	return os.NewFile(uintptr(copied), file.Name()), nil
}

// States of sockets in /proc/net, as the kernel numbers those of TCP: a socket of
// UDP that is not connected is closed.
const (
	stateListening   = "0A"
	stateUnconnected = "07"
)

// socketsAt counts the sockets of this network namespace that have exactly the
// address of one: of TCP those that listen, of UDP those that are not connected.
func socketsAt(s socket) (int, error) {
	path, state := "/proc/self/net/tcp", stateListening
	if s.kind == unix.SOCK_DGRAM {
		path, state = "/proc/self/net/udp", stateUnconnected
	}
	if s.local.Addr().Is6() {
		path += "6"
	}
	want, n := procAddr(s.local), 0
	err := eachSocket(path, state, func(local string) {
		if local == want {
			n++
		}
	})
	return n, err
}

// Bound says whether an unconnected socket of UDP has a port in this network namespace,
// at any address.
func Bound(port uint16) (bool, error) {
	suffix, bound := fmt.Sprintf(":%04X", port), false
	for _, path := range []string{"/proc/self/net/udp", "/proc/self/net/udp6"} {
		err := eachSocket(path, stateUnconnected, func(local string) { bound = bound || strings.HasSuffix(local, suffix) })
		if err != nil && !errors.Is(err, os.ErrNotExist) { // there may be no IPv6
			return false, fmt.Errorf("is there a socket of UDP at port %d: %w", port, err)
		}
	}
	return bound, nil
}

// eachSocket calls visit with the local address of every socket in a state, as the
// file has it.
func eachSocket(path, state string, visit func(local string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	lines.Scan() // the heading
	for read := 0; lines.Scan(); read++ {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			break
		}
		if fields[3] != state && state == stateListening {
			break // those that listen come first
		}
		if read == maxListeners {
			return fmt.Errorf("%s: more than %d sockets", path, maxListeners)
		}
		if fields[3] == state {
			visit(fields[1])
		}
	}
	return lines.Err()
}

// procAddr writes an address as /proc/net/tcp does: words of the machine's order.
func procAddr(a netip.AddrPort) string {
	ip := a.Addr().AsSlice()
	for i := 0; i+4 <= len(ip); i += 4 {
		binary.BigEndian.PutUint32(ip[i:], binary.NativeEndian.Uint32(ip[i:]))
	}
	return strings.ToUpper(hex.EncodeToString(ip)) + fmt.Sprintf(":%04X", a.Port())
}

// Strays returns a listener that accepts what is queued at the node's socket,
// now and later, for the time in which no software holds it: after its end, and
// before it is given away again. It makes the socket non-blocking, which
// software that holds it would notice ([Pair.Node] undoes it). The caller closes
// it, which leaves the socket open and what is not accepted in its queue.
func Strays(sock *os.File) (net.Listener, error) {
	s, err := inspectFile(sock)
	if err != nil {
		return nil, fmt.Errorf("accept what is left at the node's socket: %w", err)
	}
	if s.kind != unix.SOCK_STREAM || !s.listening {
		return nil, fmt.Errorf("accept what is left at the node's socket: %w: it does not listen", ErrSocket)
	}
	ln, err := net.FileListener(sock)
	if err != nil {
		return nil, fmt.Errorf("accept what is left at the node's socket %s: %w", s.local, err)
	}
	return ln, nil
}

// permission adds ErrNotPermitted or ErrNotSupported to what the kernel said.
func permission(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %w", ErrNotPermitted, err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	return err
}
