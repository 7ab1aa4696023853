package sockets

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestOthersOf(t *testing.T) {
	socket := func(local, remote string, state uint8, inode uint32) *netlink.InetDiagTCPInfoResp {
		at, from := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
		return &netlink.InetDiagTCPInfoResp{InetDiagMsg: &netlink.Socket{State: state, INode: inode, ID: netlink.SocketID{
			Source: at.Addr().AsSlice(), SourcePort: at.Port(), Destination: from.Addr().AsSlice(), DestinationPort: from.Port(),
		}}}
	}
	all := []*netlink.InetDiagTCPInfoResp{
		socket("127.0.0.1:8080", "127.0.0.1:33333", netlink.TCP_ESTABLISHED, 11),
		socket("127.0.0.1:8080", "127.0.0.1:33334", netlink.TCP_CLOSE_WAIT, 12),
		socket("127.0.0.1:8080", "127.0.0.1:33335", netlink.TCP_TIME_WAIT, 0),
		socket("127.0.0.2:8080", "127.0.0.1:33336", netlink.TCP_ESTABLISHED, 14),
		socket("[::1]:8081", "[::1]:1", netlink.TCP_ESTABLISHED, 15),
		socket("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:2", netlink.TCP_SYN_RECV, 0),
		socket("127.0.0.1:33334", "127.0.0.1:8080", netlink.TCP_ESTABLISHED, 16),
	}
	for _, c := range []struct {
		at   string
		own  uint32
		want int
	}{
		{"127.0.0.1:8080", 11, 2}, {"127.0.0.1:8080", 16, 2}, {"127.0.0.1:8080", 1, 3}, {"127.0.0.2:8080", 1, 1}, {"0.0.0.0:8080", 1, 4},
		{"[::1]:8081", 1, 1}, {"[::]:8081", 15, 0}, {"127.0.0.1:8081", 1, 0},
	} {
		if got := othersOf(all, []netip.AddrPort{netip.MustParseAddrPort(c.at)}, map[uint32]bool{c.own: true}); len(got) != c.want {
			t.Errorf("%s without %d: %v, want %d", c.at, c.own, got, c.want)
		}
	}
}

// A call is unanswered from when its bytes have come, read or not, until something has
// been sent.
func TestUnanswered(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	caller, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	software, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer software.Close()
	look := func() bool {
		t.Helper()
		all, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
		conns := othersOf(all, []netip.AddrPort{ln.Addr().(*net.TCPAddr).AddrPort()}, nil)
		if err != nil || len(conns) != 1 {
			t.Fatalf("%v, %v; want one connection", conns, err)
		}
		return conns[0].Unanswered
	}
	pass := func(from, to net.Conn) {
		t.Helper()
		if _, err := from.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if to == nil {
			return
		}
		if _, err := to.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if look() {
		t.Error("no call has come, and one is unanswered")
	}
	pass(caller, nil)
	if !look() {
		t.Error("a call that is not read is answered")
	}
	if _, err := software.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// What comes in the tick of what was sent before is not noticed.
	for !look() {
		pass(caller, software)
	}
	pass(software, caller)
	if look() {
		t.Error("a call that has its answer is unanswered")
	}
}

// Connections that this process has accepted are not past it; those of another are,
// until they end.
func TestOthers(t *testing.T) {
	count := func(ln net.Listener) int {
		t.Helper()
		conns, err := Others([]netip.AddrPort{ln.Addr().(*net.TCPAddr).AddrPort()})
		if err != nil {
			t.Fatal(err)
		}
		return len(conns)
	}
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	conn, err := net.Dial("tcp", own.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := own.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if n := count(own); n != 0 {
		t.Errorf("%d connections past the layer, want none", n)
	}
	// Another process has a connection to such an address, both its ends, as a caller
	// and software have that was steered to. That of which one end is here is none.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := server.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	far, err := client.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	cat := exec.Command("cat")
	cat.ExtraFiles = []*os.File{file, far}
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Skipf("no cat to hold a socket: %v", err)
	}
	file.Close()
	server.Close()
	far.Close()
	if n := count(ln); n != 0 {
		t.Errorf("%d connections of another process, while one end is here", n)
	}
	client.Close()
	if n := count(ln); n != 1 {
		t.Errorf("%d connections of another process, want one", n)
	}
	in.Close()
	if err := cat.Wait(); err != nil {
		t.Error(err)
	}
	if n := count(ln); n != 0 {
		t.Errorf("%d connections after its end", n)
	}
}
