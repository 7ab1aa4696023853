//go:build linux

package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
)

func openedSteer(t testing.TB, dir string) *Steer {
	t.Helper()
	s, err := OpenSteer(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// public listens on an address as the agent and returns it.
func public(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	needV6(t, addr)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go serve(ln, "agent")
	return netip.MustParseAddrPort(ln.Addr().String())
}

// ownNode starts software that opens its own socket.
func ownNode(t testing.TB, addr string) (*child, netip.AddrPort) {
	t.Helper()
	c := start(t, "node", nil)
	at := netip.MustParseAddrPort(c.ask("listen " + addr))
	c.ask("serve")
	return c, at
}

// pointAt takes the socket of a process and steers an address to it.
func pointAt(t testing.TB, s *Steer, network string, addr netip.AddrPort, node *child, at netip.AddrPort) error {
	t.Helper()
	sock, err := Take([]int{node.pid()}, network, at)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	return s.Point(network, addr, sock)
}

func mustPoint(t testing.TB, s *Steer, network string, addr netip.AddrPort, node *child, at netip.AddrPort) {
	t.Helper()
	if err := pointAt(t, s, network, addr, node, at); err != nil {
		t.Fatal(err)
	}
}

func TestSteer(t *testing.T) {
	for _, c := range []struct{ public, node string }{
		{"127.0.0.1:0", "127.0.0.1:0"},
		{"127.0.0.1:0", "[::]:0"},
		{"127.0.0.1:0", "127.0.0.9:0"},
		{"[::1]:0", "[::1]:0"},
		{"[::]:0", "[::]:0"},
		{"0.0.0.0:0", "127.0.0.1:0"},
	} {
		t.Run(c.public+" "+c.node, func(t *testing.T) {
			s := openedSteer(t, pinFolder(t))
			addr := public(t, c.public)
			dial := addr
			if addr.Addr().IsUnspecified() {
				dial = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
			}
			wantWho(t, dial.String(), "agent")
			node, at := ownNode(t, c.node)
			for range 3 {
				mustPoint(t, s, "tcp", addr, node, at)
				wantWho(t, dial.String(), "node")
				if err := s.Clear("tcp", addr); err != nil {
					t.Fatal(err)
				}
				wantWho(t, dial.String(), "agent")
			}
			mustPoint(t, s, "tcp", addr, node, at)
			wantWho(t, dial.String(), "node")
			node.kill() // the entry goes with the socket
			wantWho(t, dial.String(), "agent")
			if got, err := s.Pointed(); err != nil || len(got) != 0 {
				t.Errorf("pointed after the node's end: %v, %v", got, err)
			}
		})
	}
}

// TestSteerWildcard shows [::] with software of one family, and that an exact
// entry goes before a wildcard.
func TestSteerWildcard(t *testing.T) {
	s := openedSteer(t, pinFolder(t))
	addr := public(t, "[::]:0")
	v4 := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
	v6 := netip.AddrPortFrom(netip.MustParseAddr("::1"), addr.Port())
	both, bothAt := ownNode(t, "[::]:0")
	mustPoint(t, s, "tcp", addr, both, bothAt)
	wantWho(t, v4.String(), "node")
	wantWho(t, v6.String(), "node")
	four, fourAt := ownNode(t, "127.0.0.1:0")
	mustPoint(t, s, "tcp", addr, four, fourAt)
	wantWho(t, v4.String(), "node")
	wantWho(t, v6.String(), "agent") // nothing of the earlier socket is left
	got, err := s.Pointed()
	if err != nil || len(got) != 1 || !got[0].Addr.Addr().Is4() {
		t.Errorf("pointed: %v, %v", got, err)
	}
	exact := start(t, "exact", nil)
	exactAt := netip.MustParseAddrPort(exact.ask("listen 127.0.0.1:0"))
	exact.ask("serve")
	mustPoint(t, s, "tcp", v4, exact, exactAt)
	wantWho(t, v4.String(), "exact")
	wantWho(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), addr.Port()).String(), "node")
	if err := s.Clear("tcp", addr); err != nil {
		t.Fatal(err)
	}
	wantWho(t, v4.String(), "exact")
}

func TestSteerUDP(t *testing.T) {
	for _, c := range []struct{ public, node string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"127.0.0.1:0", "0.0.0.0"},
		{"127.0.0.1:0", "127.0.0.9"},
		{"[::1]:0", "::1"},
	} {
		t.Run(c.public+" "+c.node, func(t *testing.T) {
			needV6(t, c.public)
			s := openedSteer(t, pinFolder(t))
			own, err := listenPacket(c.public)
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			go answerPackets(own, "agent")
			addr := netip.MustParseAddrPort(own.LocalAddr().String())
			node := start(t, "node", nil)
			at := netip.MustParseAddrPort(node.ask("udp " + netip.AddrPortFrom(netip.MustParseAddr(c.node), addr.Port()).String()))
			sock, err := Take([]int{node.pid()}, "udp", at)
			if err != nil {
				t.Fatal(err)
			}
			elsewhere := c.node == "127.0.0.9"
			point := s.Point
			if elsewhere {
				if err := s.Point("udp", addr, sock); !errors.Is(err, ErrSocket) {
					t.Errorf("answers from elsewhere: %v", err)
				}
				point = s.PointOneWay
			}
			for range 3 {
				if err := point("udp", addr, sock); err != nil {
					t.Fatal(err)
				}
				wantPacket(t, addr, "node", elsewhere)
				if err := s.Clear("udp", addr); err != nil {
					t.Fatal(err)
				}
				// Where both have the address, the kernel alone decides.
				if at != addr {
					wantPacket(t, addr, "agent", false)
				}
			}
			if err := point("udp", addr, sock); err != nil {
				t.Fatal(err)
			}
			sock.Close()
			wantPacket(t, addr, "node", elsewhere)
			node.kill()
			wantPacket(t, addr, "agent", false)
		})
	}
}

// wantPacket asks over UDP. The caller is not connected, so that it sees an
// answer from elsewhere, too.
func wantPacket(t *testing.T, addr netip.AddrPort, want string, elsewhere bool) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr.Addr(), 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteToUDPAddrPort([]byte("who"), addr); err != nil {
		t.Fatal(err)
	}
	var b [64]byte
	n, from, err := c.ReadFromUDPAddrPort(b[:])
	if err != nil || string(b[:n]) != want {
		t.Fatalf("%q answered (%v), want %s", b[:n], err, want)
	}
	if (from != addr) != elsewhere {
		t.Errorf("the answer came from %s, asked at %s", from, addr)
	}
}

func TestPointRefuses(t *testing.T) {
	dir := pinFolder(t)
	s := openedSteer(t, dir)
	addr := public(t, "127.0.0.1:0")
	six := netip.AddrPortFrom(netip.MustParseAddr("::1"), addr.Port())
	tcp, tcpAt := ownNode(t, "127.0.0.1:0")
	udp := start(t, "node", nil)
	udpAt := netip.MustParseAddrPort(udp.ask("udp 127.0.0.1:0"))
	if err := pointAt(t, s, "tcp", six, tcp, tcpAt); !errors.Is(err, ErrSocket) {
		t.Errorf("another family: %v", err)
	}
	if err := pointAt(t, s, "udp", six, udp, udpAt); !errors.Is(err, ErrSocket) {
		t.Errorf("another family, UDP: %v", err)
	}
	sock, err := Take([]int{udp.pid()}, "udp", udpAt)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if err := s.Point("tcp", addr, sock); !errors.Is(err, ErrSocket) {
		t.Errorf("another protocol: %v", err)
	}
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Point("tcp", addr, f); !errors.Is(err, ErrSocket) {
		t.Errorf("a connection: %v", err)
	}
	if err := s.Point("tcp", addr, os.Stdin); err == nil {
		t.Error("no socket at all")
	}
	for _, bad := range []netip.AddrPort{{}, netip.AddrPortFrom(addr.Addr(), 0), netip.MustParseAddrPort("[fe80::1%lo]:80")} {
		if err := pointAt(t, s, "tcp", bad, tcp, tcpAt); err == nil {
			t.Errorf("%s was steered", bad)
		}
	}
	wantWho(t, addr.String(), "agent")
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if err := s.Point("tcp", addr, sock); err == nil {
		t.Error("pointed after Remove")
	}
}

func TestPointMultipath(t *testing.T) {
	s := openedSteer(t, pinFolder(t))
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if k, err := inspectFile(f); err != nil || k.protocol != 262 {
		t.Skip("this kernel has no multipath TCP")
	}
	err = s.Point("tcp", netip.MustParseAddrPort("127.0.0.1:9"), f)
	if !errors.Is(err, ErrSocket) || !strings.Contains(err.Error(), "GODEBUG=multipathtcp=0") {
		t.Errorf("%v", err)
	}
}

func TestSteerFull(t *testing.T) {
	s, err := OpenSteer(pinFolder(t), Options{Entries: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	node, at := ownNode(t, "127.0.0.1:0")
	for port := uint16(1); port < 4; port++ {
		err := pointAt(t, s, "tcp", netip.AddrPortFrom(at.Addr(), port), node, at)
		if full := port == 3; full != (err != nil) || full && !strings.Contains(err.Error(), "full") {
			t.Errorf("address %d: %v", port, err)
		}
	}
	if got, err := s.Pointed(); err != nil || len(got) != 2 || got[0].Cookie == 0 || got[0].Cookie != got[1].Cookie {
		t.Errorf("pointed: %v, %v", got, err)
	}
}

func TestOpenSteerRefuses(t *testing.T) {
	dir := pinFolder(t)
	for _, bad := range []string{"relative", t.TempDir(), dir + "/a.b", "/"} {
		if s, err := OpenSteer(bad, Options{}); err == nil {
			s.Remove()
			t.Errorf("%s: was opened", bad)
		}
	}
	if _, err := OpenSteer(dir, Options{Entries: MaxEntries + 1}); err == nil {
		t.Error("too many entries")
	}
}

// TestSteerAgents runs two agents in one namespace. That each has its own
// addresses is the rule; where they overlap, the later one wins.
func TestSteerAgents(t *testing.T) {
	dir := pinFolder(t)
	a, b := openedSteer(t, dir+"/a"), openedSteer(t, dir+"/b")
	first, second := public(t, "127.0.0.1:0"), public(t, "127.0.0.1:0")
	nodeA, atA := ownNode(t, "127.0.0.1:0")
	nodeB := start(t, "other", nil)
	atB := netip.MustParseAddrPort(nodeB.ask("listen 127.0.0.1:0"))
	nodeB.ask("serve")
	mustPoint(t, a, "tcp", first, nodeA, atA)
	mustPoint(t, b, "tcp", second, nodeB, atB)
	wantWho(t, first.String(), "node")
	wantWho(t, second.String(), "other")
	mustPoint(t, b, "tcp", first, nodeB, atB)
	wantWho(t, first.String(), "other")
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
	wantWho(t, first.String(), "node")
	wantWho(t, second.String(), "agent")
}

// TestSteerAdopts shows that what is pinned goes on without its agent, and is
// found again; the planted bug is an agent that does not pin.
func TestSteerAdopts(t *testing.T) {
	for _, planted := range []bool{false, true} {
		t.Run(fmt.Sprint("planted ", planted), func(t *testing.T) {
			dir := pinFolder(t)
			addr := public(t, "127.0.0.1:0")
			node, at := ownNode(t, "127.0.0.1:0")
			agent := start(t, "agent", nil)
			if got := agent.ask("opensteer " + dir); got != "adopted false" {
				t.Fatal(got)
			}
			agent.ask(fmt.Sprintf("steer tcp %s %d %s", addr, node.pid(), at))
			wantWho(t, addr.String(), "node")
			if planted {
				if err := os.Remove(filepath.Join(dir, pinPrefix+"1", pinLink)); err != nil {
					t.Fatal(err)
				}
				agent.kill()
				untilWho(t, addr.String(), "agent")
				// And what is half there is replaced.
				s := openedSteer(t, dir)
				if s.Adopted() {
					t.Error("half a pin was adopted")
				}
				mustPoint(t, s, "tcp", addr, node, at)
				wantWho(t, addr.String(), "node")
				return
			}
			l := newTraffic(t, addr.String())
			l.await(50)
			agent.kill()
			l.await(50)
			s := openedSteer(t, dir)
			if !s.Adopted() {
				t.Error("not adopted")
			}
			if got, err := s.Pointed(); err != nil || len(got) != 1 || got[0].Addr != addr || got[0].Network != "tcp" {
				t.Errorf("pointed: %v, %v", got, err)
			}
			l.await(50)
			if n := l.by("agent"); n != 0 {
				t.Errorf("%d calls reached the agent", n)
			}
			if err := s.Clear("tcp", addr); err != nil {
				t.Fatal(err)
			}
			wantWho(t, addr.String(), "agent")
			mustPoint(t, s, "tcp", addr, node, at)
			wantWho(t, addr.String(), "node")
			l.stop()
			l.wantNone(t)
		})
	}
}

// untilWho dials until an answer changes: what is dropped rather than detached,
// the kernel gives up some time later.
func untilWho(t *testing.T, addr, want string) {
	t.Helper()
	got := ""
	for limit := time.Now().Add(10 * time.Second); got != want; {
		var err error
		if got, err = who(addr); err != nil {
			t.Fatal(err)
		}
		if got != want && time.Now().After(limit) {
			t.Fatalf("%s answers, want %s: a planted bug was not caught", got, want)
		}
	}
}

// TestSteerSchemas lets a moult of another schema take over: the earlier pins
// stay in force until they are replaced.
func TestSteerSchemas(t *testing.T) {
	dir := pinFolder(t)
	addr := public(t, "127.0.0.1:0")
	node, at := ownNode(t, "127.0.0.1:0")
	old, err := openSteer(dir, pinPrefix+"0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustPoint(t, old, "tcp", addr, node, at)
	old.Close()
	s := openedSteer(t, dir)
	if s.Adopted() {
		t.Error("another schema was adopted")
	}
	wantWho(t, addr.String(), "node")
	other := start(t, "other", nil)
	otherAt := netip.MustParseAddrPort(other.ask("listen 127.0.0.1:0"))
	other.ask("serve")
	mustPoint(t, s, "tcp", addr, other, otherAt)
	wantWho(t, addr.String(), "other")
	if err := s.Settle(); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr.String(), "other")
	names, err := readNames(dir, maxPinned)
	if err != nil || len(names) != 1 {
		t.Errorf("pinned: %v, %v", names, err)
	}
	if err := s.Clear("tcp", addr); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr.String(), "agent")
}

// TestSteerOutdated finds a link that is attached to nothing any more, as after
// the end of its network namespace.
func TestSteerOutdated(t *testing.T) {
	dir := pinFolder(t)
	s, err := OpenSteer(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.link.(*link.NetNsLink).Detach(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	again := openedSteer(t, dir)
	if again.Adopted() {
		t.Error("a detached link was adopted")
	}
	addr := public(t, "127.0.0.1:0")
	node, at := ownNode(t, "127.0.0.1:0")
	mustPoint(t, again, "tcp", addr, node, at)
	wantWho(t, addr.String(), "node")
}

// TestSteerUnderLoad flips, crashes and restarts while callers dial. The agent
// keeps the socket that it took, so that what is queued is not reset.
func TestSteerUnderLoad(t *testing.T) {
	s := openedSteer(t, pinFolder(t))
	addr := public(t, "127.0.0.1:0")
	l := newTraffic(t, addr.String())
	const rounds = 4
	for range rounds {
		node, at := ownNode(t, "127.0.0.1:0")
		sock, err := Take([]int{node.pid()}, "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer sock.Close()
		for range 5 {
			if err := s.Point("tcp", addr, sock); err != nil {
				t.Fatal(err)
			}
			l.await(4)
			if err := s.Clear("tcp", addr); err != nil {
				t.Fatal(err)
			}
			l.await(4)
		}
		if err := s.Point("tcp", addr, sock); err != nil {
			t.Fatal(err)
		}
		l.await(8)
		l.pause()
		node.freeze()
		l.resume()
		l.queue(callers)
		node.kill()
		if err := s.Clear("tcp", addr); err != nil {
			t.Fatal(err)
		}
		strays, err := Strays(sock)
		if err != nil {
			t.Fatal(err)
		}
		defer strays.Close() // at the end: every stray has been answered then
		go serve(strays, "stray")
		l.await(8)
	}
	l.stop()
	l.wantNone(t)
	if l.by("stray") == 0 || l.by("node") == 0 || l.by("agent") == 0 {
		t.Errorf("answers: %v, want some of the node, the agent and of strays", l.answers())
	}
}

func TestFindBPFFS(t *testing.T) {
	pinFolder(t) // the machine may have others
	at, err := FindBPFFS()
	if err != nil || !onBPFFS(at) {
		t.Fatalf("found %q, %v", at, err)
	}
	if err := MountBPFFS(at); err != nil {
		t.Errorf("mounted already: %v", err)
	}
}

func TestProbeSteer(t *testing.T) {
	pinFolder(t)
	if err := Probe(KindSteer); err != nil {
		t.Error(err)
	}
}
