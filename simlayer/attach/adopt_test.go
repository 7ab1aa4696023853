//go:build linux

package attach

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inherited is software in this process: it has what the agent gave it.
type inherited struct {
	node, hold *os.File
	ln         net.Listener
}

func giveTo(t *testing.T, p *Pair) *inherited {
	t.Helper()
	var s inherited
	var err error
	if s.node, err = p.Node(); err == nil {
		s.hold, err = p.Hold()
	}
	if err == nil {
		s.ln, err = net.FileListener(s.node)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.closeNode(); s.hold.Close() })
	go serve(s.ln, "node")
	return &s
}

func (s *inherited) closeNode() {
	s.ln.Close()
	s.node.Close()
}

func membersOf(t *testing.T, p *Pair) Members {
	t.Helper()
	m, err := p.Members()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAgentGone ends an agent while its software has both sockets, pointed either
// way, twice in a row and in both orders of the sockets. The planted bug is
// software that does not hold the agent's: callers then reach what must not have
// them.
func TestAgentGone(t *testing.T) {
	for name, nodeFirst := range map[string]bool{"agent first": false, "node first": true} {
		for _, to := range []string{"node", "agent"} {
			t.Run(name+", "+to, func(t *testing.T) { agentGone(t, nodeFirst, to) })
		}
	}
	t.Run("planted", func(t *testing.T) {
		p := newPair(t, "127.0.0.1:0")
		s := giveTo(t, p)
		s.hold.Close()
		p.Close()
		wantWho(t, p.Addr().String(), "node")
	})
}

func agentGone(t *testing.T, nodeFirst bool, to string) {
	p := newPair(t, "127.0.0.1:0")
	addr := p.Addr().String()
	if nodeFirst {
		p = adoptNode(t, p)
		go serve(p.Agent(), "agent")
	}
	s := giveTo(t, p)
	if err := p.Point(to == "node"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m := membersOf(t, p)
		if m.NodeFirst != nodeFirst || m.Node == m.Agent {
			t.Fatalf("%+v", m)
		}
		p.Close()
		waiting, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer waiting.Close()
		if to == "node" {
			wantWho(t, addr, "node")
		}
		if p, err = AdoptPair(t.Context(), addr, m, s.node, s.hold); err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		go serve(p.Agent(), "agent")
		if got, err := askConn(waiting); got != to {
			t.Fatalf("who waited is answered by %q, %v; want %s", got, err, to)
		}
		wantWho(t, addr, to)
		wantWhoOwn(t, addr, "", "node")
	}
	for _, next := range []string{"node", "agent"} {
		if err := p.Point(next == "node"); err != nil {
			t.Fatal(err)
		}
		wantWho(t, addr, next)
		wantWhoOwn(t, addr, "", "node")
	}
}

// adoptNode makes the node's socket the first: its agent has gone and come back,
// and nobody held the agent's.
func adoptNode(t *testing.T, p *Pair) *Pair {
	t.Helper()
	m := membersOf(t, p)
	node, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	p.Close()
	p, err = AdoptPair(t.Context(), p.Addr().String(), m, node, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestSoftwareEnding adopts from software that has closed the node's socket, as it
// does when it was told to end: its next one gets another.
func TestSoftwareEnding(t *testing.T) {
	for _, nodeFirst := range []bool{false, true} {
		p := newPair(t, "127.0.0.1:0")
		addr := p.Addr().String()
		if nodeFirst {
			p = adoptNode(t, p)
		}
		s := giveTo(t, p)
		if err := p.Point(true); err != nil {
			t.Fatal(err)
		}
		m := membersOf(t, p)
		p.Close()
		s.closeNode()
		waiting, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer waiting.Close()
		p, err = AdoptPair(t.Context(), addr, m, nil, s.hold)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		s.hold.Close()
		go serve(p.Agent(), "agent")
		if got, err := askConn(waiting); got != "agent" {
			t.Fatalf("who waited is answered by %q, %v", got, err)
		}
		wantWho(t, addr, "agent")
		giveTo(t, p)
		wantWho(t, addr, "agent")
		wantWhoOwn(t, addr, "", "node")
		if err := p.Point(true); err != nil {
			t.Fatal(err)
		}
		wantWho(t, addr, "node")
	}
}

// TestOwnConnections dials as the agent does, and as others might. The planted bug
// is a mark alone, and an address alone, that would let callers in.
func TestOwnConnections(t *testing.T) {
	for _, c := range []struct{ listen, dial, from, want string }{
		{"127.0.0.1:0", "127.0.0.1", "", "node"},
		{"127.0.0.1:0", "127.0.0.1", "127.0.0.2", "agent"},
		{"0.0.0.0:0", "127.0.0.3", "127.0.0.3", "node"},
		{"0.0.0.0:0", "127.0.0.3", "127.0.0.1", "agent"},
		{"[::1]:0", "::1", "", "node"},
		{"[::1]:0", "::1", otherV6, "agent"},
		{"[::]:0", "::1", "", "node"},
		{"[::]:0", otherV6, otherV6, "node"},
		{"[::]:0", otherV6, "::1", "agent"},
		{"[::]:0", "127.0.0.1", "", "node"},
		{"[::]:0", "127.0.0.1", "127.0.0.2", "agent"},
	} {
		t.Run(c.listen+" "+c.dial+" from "+c.from, func(t *testing.T) {
			if c.from == otherV6 || c.dial == otherV6 {
				needBox(t)
			}
			p := newPair(t, c.listen)
			giveTo(t, p)
			addr := netip.AddrPortFrom(netip.MustParseAddr(c.dial), p.Addr().Port()).String()
			for _, to := range []bool{false, true, false} {
				if err := p.Point(to); err != nil {
					t.Fatal(err)
				}
				want, unmarked := c.want, "agent"
				if to {
					want, unmarked = "node", "node"
				}
				wantWhoOwn(t, addr, c.from, want)
				if got, err := whoFrom(addr, c.from, nil); got != unmarked {
					t.Errorf("without a mark %q answers, %v; want %s", got, err, unmarked)
				}
			}
			// Another code point, and the bits that are the network's.
			if got, err := whoFrom(addr, c.from, tos(mark^4)); got != "agent" {
				t.Errorf("with another mark %q answers, %v", got, err)
			}
		})
	}
}

// tos is a net.Dialer's Control that sets a type of service.
func tos(v int) func(network, _ string, rc syscall.RawConn) error {
	return func(network, _ string, rc syscall.RawConn) error {
		var failed error
		err := rc.Control(func(fd uintptr) {
			if network == "tcp6" {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, v)
			} else {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, v)
			}
		})
		if err == nil {
			err = failed
		}
		return err
	}
}

func whoFrom(addr, from string, control func(string, string, syscall.RawConn) error) (string, error) {
	return whoBy(net.Dialer{Control: control}, addr, from)
}

func whoBy(d net.Dialer, addr, from string) (string, error) {
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return askConn(c)
}

// wantWhoOwn is wantWho for the agent's own connections.
func wantWhoOwn(t *testing.T, addr, from, want string) {
	t.Helper()
	for range 4 {
		if got, err := whoBy(net.Dialer{ControlContext: DialControl}, addr, from); got != want {
			t.Fatalf("to the agent's own connection %q answers at %s, %v; want %s", got, addr, err, want)
		}
	}
}

func TestDialControlNetworks(t *testing.T) {
	if err := DialControl(t.Context(), "unix", "/x", nil); err != nil {
		t.Error(err)
	}
	if err := DialControl(t.Context(), "other", "x", nil); err == nil {
		t.Error("an unknown network was taken")
	}
}

// TestHoldStaysNonBlocking passes the agent's socket to a process: its mode is the
// agent's too, whose accept must not block.
func TestHoldStaysNonBlocking(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	f, err := p.Hold()
	if err != nil {
		t.Fatal(err)
	}
	start(t, "node", nil, f)
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0) // Fd itself is what could change it
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: blocking", flags, err)
	}
	f.Close()
	wantWho(t, p.Addr().String(), "agent")
}

// TestTakeCookies finds sockets in a process by their numbers, wherever it keeps
// them, and tells them apart though they have one address.
func TestTakeCookies(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	m := membersOf(t, p)
	node, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	hold, err := p.Hold()
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, "node", nil, node, hold)
	c.ask("inherit") // it closes descriptor 3 and serves another
	c.ask("serve")
	node.Close()
	hold.Close()
	addr := p.Addr().String()
	p.Close()
	got, err := TakeCookies([]int{c.pid()}, m.Agent, 1<<63, m.Node)
	if err != nil || len(got) != 3 || got[0] == nil || got[1] != nil || got[2] == nil {
		t.Fatalf("%v, %v", got, err)
	}
	again, err := AdoptPair(t.Context(), addr, m, got[2], got[0])
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got[0].Close()
	got[2].Close()
	if now := membersOf(t, again); now != m {
		t.Errorf("%+v, were %+v", now, m)
	}
	go serve(again.Agent(), "agent again")
	wantWho(t, addr, "agent again")
	if err := again.Point(true); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr, "node")
	c.kill()
	if got, err := TakeCookies([]int{c.pid()}, m.Node); err != nil || got[0] != nil {
		t.Errorf("of a process that has ended: %v, %v", got, err)
	}
}
