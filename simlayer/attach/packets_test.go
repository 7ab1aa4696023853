//go:build linux

package attach

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// packetPair is an address of UDP at which the agent answers.
func packetPair(t testing.TB, addr string) *Pair {
	t.Helper()
	needV6(t, addr)
	p, err := ListenPair(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go answerPackets(p.Packets(), "agent")
	return p
}

// packetNode is software in this process, with the sockets that it was given. It
// reads nothing before it is told to.
type packetNode struct {
	node, hold *os.File
	pc         net.PacketConn
}

func givePackets(t testing.TB, p *Pair) *packetNode {
	t.Helper()
	var n packetNode
	var err error
	if n.node, err = p.Node(); err == nil {
		n.hold, err = p.Hold()
	}
	if err == nil {
		n.pc, err = net.FilePacketConn(n.node)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.close(); n.hold.Close() })
	return &n
}

func (n *packetNode) close() {
	n.pc.Close()
	n.node.Close()
}

// packetWho sends a datagram from a socket that is connected, so that only an answer
// from the address that it called counts, and returns the name of who answers.
func packetWho(d net.Dialer, addr, from string) (string, error) {
	if from != "" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return askPacket(c)
}

func askPacket(c net.Conn) (string, error) {
	// Only so that a failure is no hang.
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("who")); err != nil {
		return "", err
	}
	var b [512]byte
	n, err := c.Read(b[:])
	return string(b[:n]), err
}

// wantPackets asks from many callers: spreading by hash would show.
func wantPackets(t testing.TB, addr, want string) {
	t.Helper()
	for range 40 {
		got, err := packetWho(net.Dialer{}, addr, "")
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%s answers at %s, want %s", got, addr, want)
		}
	}
}

func TestPacketsPoint(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "localhost:0"} {
		t.Run(addr, func(t *testing.T) {
			p := packetPair(t, addr)
			at := p.Addr().String()
			if p.Agent() != nil || p.Addr().Port() == 0 {
				t.Fatalf("%v, %s", p.Agent(), at)
			}
			wantPackets(t, at, "agent")
			n := givePackets(t, p)
			go answerPackets(n.pc, "node")
			wantPackets(t, at, "agent")
			caller, err := net.Dial("udp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			for range 3 {
				for _, to := range []string{"node", "agent"} {
					if err := p.Point(to == "node"); err != nil {
						t.Fatal(err)
					}
					wantPackets(t, at, to)
					// One caller, by one socket, is answered by the other from now on.
					if got, err := askPacket(caller); got != to {
						t.Fatalf("%q answers, %v; want %s", got, err, to)
					}
				}
			}
		})
	}
}

func TestPacketsRefuse(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		if _, err := ListenPair(t.Context(), "udp", addr); !errors.Is(err, ErrSocket) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	p := packetPair(t, "127.0.0.1:0")
	if _, err := ListenPair(t.Context(), "udp", p.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second pair: %v", err)
	}
	// A service of TCP with the same number is another address, which somebody
	// else may have.
	other, err := ListenPair(t.Context(), "tcp", p.Addr().String())
	for tries := 0; errors.Is(err, syscall.EADDRINUSE) && tries < 10; tries++ {
		p = packetPair(t, "127.0.0.1:0")
		other, err = ListenPair(t.Context(), "tcp", p.Addr().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	m, packets, stream := membersOf(t, p), givePackets(t, p), giveTo(t, other)
	if _, err := AdoptPair(t.Context(), p.Addr().String(), m, packets.node, nil); !errors.Is(err, ErrShared) {
		t.Errorf("adopted from an agent that runs: %v", err)
	}
	if _, err := AdoptPair(t.Context(), p.Addr().String(), m, packets.node, stream.hold); !errors.Is(err, ErrSocket) {
		t.Errorf("adopted a pair of two protocols: %v", err)
	}
}

// TestPacketsAlone closes one socket for good: the other gets everything, wherever
// the address is pointed.
func TestPacketsAlone(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, pointed := range []bool{true, false} {
			p := packetPair(t, addr)
			n := givePackets(t, p)
			if err := p.Point(pointed); err != nil {
				t.Fatal(err)
			}
			n.close()
			p.node.Close()
			wantPackets(t, p.Addr().String(), "agent")

			p = packetPair(t, addr)
			n = givePackets(t, p)
			go answerPackets(n.pc, "node")
			if err := p.Point(pointed); err != nil {
				t.Fatal(err)
			}
			n.hold.Close()
			p.Close()
			wantPackets(t, p.Addr().String(), "node")
		}
	}
}

// TestOwnPackets sends as the agent does, and as others might.
func TestOwnPackets(t *testing.T) {
	for _, c := range []struct{ listen, from, want string }{
		{"127.0.0.1:0", "", "node"},
		{"127.0.0.1:0", "127.0.0.2", "agent"},
		{"[::1]:0", "", "node"},
		{"[::1]:0", otherV6, "agent"},
	} {
		t.Run(c.listen+" from "+c.from, func(t *testing.T) {
			if c.from == otherV6 {
				needBox(t)
			}
			p := packetPair(t, c.listen)
			n := givePackets(t, p)
			go answerPackets(n.pc, "node")
			addr := p.Addr().String()
			for _, to := range []bool{false, true, false} {
				if err := p.Point(to); err != nil {
					t.Fatal(err)
				}
				want, unmarked := c.want, "agent"
				if to {
					want, unmarked = "node", "node"
				}
				if got, err := packetWho(net.Dialer{ControlContext: DialControl}, addr, c.from); got != want {
					t.Errorf("to the agent's own %q answers, %v; want %s", got, err, want)
				}
				if got, err := packetWho(net.Dialer{}, addr, c.from); got != unmarked {
					t.Errorf("without a mark %q answers, %v; want %s", got, err, unmarked)
				}
			}
		})
	}
}

// TestPacketsQueued switches while the software does not read: what has come before
// stays at its socket, past its end too, and what comes later does not.
func TestPacketsQueued(t *testing.T) {
	p := packetPair(t, "127.0.0.1:0")
	n := givePackets(t, p)
	if err := p.Point(true); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const queued = 20
	for i := range queued {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Point(false); err != nil {
		t.Fatal(err)
	}
	if got, err := askPacket(c); got != "agent" {
		t.Fatal(got, err)
	}
	n.close()
	stray, err := p.StrayPackets()
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	var b [10]byte
	for i := range queued {
		size, from, err := stray.ReadFromUDPAddrPort(b[:])
		if err != nil || size != 1 || b[0] != byte(i) || from.String() != c.LocalAddr().String() {
			t.Fatalf("datagram %d: %v from %v, %v", i, b[:size], from, err)
		}
	}
	_ = stray.SetReadDeadline(time.Now())
	if _, _, err := stray.ReadFromUDPAddrPort(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("more than was queued: %v", err)
	}
	if _, err := p.Strays(); !errors.Is(err, ErrSocket) {
		t.Errorf("strays of TCP: %v", err)
	}
}

// TestPacketsAgentGone ends an agent while its software has both sockets, pointed
// either way: callers reach the software, or wait for the next agent. The planted bug
// is software that does not hold the agent's.
func TestPacketsAgentGone(t *testing.T) {
	for _, to := range []string{"node", "agent", "planted"} {
		t.Run(to, func(t *testing.T) {
			p := packetPair(t, "[::1]:0")
			n := givePackets(t, p)
			go answerPackets(n.pc, "node")
			if err := p.Point(to == "node"); err != nil {
				t.Fatal(err)
			}
			m, addr := membersOf(t, p), p.Addr().String()
			if to == "planted" {
				n.hold.Close()
			}
			p.Close()
			c, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("waits")); err != nil {
				t.Fatal(err)
			}
			want := to
			if to == "planted" {
				want = "node"
			} else {
				p, err := AdoptPair(t.Context(), addr, m, n.node, n.hold)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				go answerPackets(p.Packets(), "agent")
				defer wantPackets(t, addr, to)
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			var b [10]byte
			size, err := c.Read(b[:])
			if got := string(b[:size]); got != want {
				t.Errorf("who waited is answered by %q, %v; want %s", got, err, want)
			}
		})
	}
}

// TestPacketsUnderLoad switches to and fro under callers that number what they say:
// each datagram is answered once, by whoever it is, from the address that was called.
func TestPacketsUnderLoad(t *testing.T) {
	p := packetPair(t, "127.0.0.1:0")
	n := givePackets(t, p)
	go answerPackets(n.pc, "node")
	var end atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	by := map[string]int{}
	done := make(chan struct{}, 1)
	for range 16 {
		c, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			for i := 0; !end.Load(); i++ {
				name, err := askFrom(c, p.Addr())
				mu.Lock()
				if err != nil {
					t.Errorf("datagram %d: %v", i, err)
					end.Store(true)
				}
				by[name]++
				mu.Unlock()
				select {
				case done <- struct{}{}:
				default:
				}
			}
		})
	}
	for i := range 400 {
		if err := p.Point(i%2 == 0); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	end.Store(true)
	wg.Wait()
	if by["node"] == 0 || by["agent"] == 0 || len(by) != 2 {
		t.Errorf("answers: %v", by)
	}
	t.Logf("%v", by)
}

// askFrom asks by a socket that is not connected.
func askFrom(c *net.UDPConn, to netip.AddrPort) (string, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.WriteToUDPAddrPort([]byte("who"), to); err != nil {
		return "", err
	}
	var b [512]byte
	n, from, err := c.ReadFromUDPAddrPort(b[:])
	if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); err == nil && from != to {
		err = fmt.Errorf("%s was called, and %s answers", to, from)
	}
	return string(bytes.TrimSpace(b[:n])), err
}

// openNode is software in this process that opens the node's socket by itself.
func openNode(t *testing.T, p *Pair) member {
	t.Helper()
	m, err := listenMember(t.Context(), p.network, p.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	go answerPackets(m.(net.PacketConn), "node")
	return m
}

// TestPacketsOpen leads callers to a socket that software opens by itself, and all of
// them to the agent as soon as it closes it; twice, wherever the address is pointed.
func TestPacketsOpen(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			needV6(t, addr)
			p, err := ListenOpen(t.Context(), "udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			go answerPackets(p.Packets(), "agent")
			at := p.Addr().String()
			if _, err := p.Node(); !p.Open() || !errors.Is(err, ErrSocket) {
				t.Error(err)
			}
			for _, to := range []string{"agent", "node", "agent"} {
				if err := p.Point(to == "node"); err != nil {
					t.Fatal(err)
				}
				if joined, err := p.Joined(); joined || err != nil {
					t.Fatal(joined, err)
				}
				wantPackets(t, at, "agent")
				wantOwnPackets(t, at, "agent")
				n := openNode(t, p)
				if joined, err := p.Joined(); !joined || err != nil {
					t.Fatal(joined, err)
				}
				wantPackets(t, at, to)
				wantOwnPackets(t, at, "node")
				for _, next := range []string{"agent", "node"} {
					if err := p.Point(next == "node"); err != nil {
						t.Fatal(err)
					}
					wantPackets(t, at, next)
					wantOwnPackets(t, at, "node")
				}
				n.Close()
			}
			wantPackets(t, at, "agent")
		})
	}
}

func wantOwnPackets(t *testing.T, addr, want string) {
	t.Helper()
	if got, err := packetWho(net.Dialer{ControlContext: DialControl}, addr, ""); got != want {
		t.Fatalf("to the agent's own %q answers at %s, %v; want %s", got, addr, err, want)
	}
}

// TestPacketsOpenAgentGone ends an agent while software has a socket that it opened by
// itself, and holds the agent's or not.
func TestPacketsOpenAgentGone(t *testing.T) {
	p, err := ListenOpen(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	addr := p.Addr().String()
	openNode(t, p)
	for _, to := range []string{"agent", "node"} {
		if err := p.Point(to == "node"); err != nil {
			t.Fatal(err)
		}
		hold, err := p.Hold()
		if err != nil {
			t.Fatal(err)
		}
		m := membersOf(t, p)
		other, err := TakeOther([]int{os.Getpid()}, "udp", p.Addr(), m.Agent)
		if err != nil || m.Node != 0 {
			t.Fatal(m, err)
		}
		other.Close()
		p.Close()
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("waits")); err != nil {
			t.Fatal(err)
		}
		if p, err = AdoptOpen(t.Context(), addr, hold); err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		hold.Close()
		go answerPackets(p.Packets(), "agent")
		var b [10]byte
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		size, err := c.Read(b[:])
		if got := string(b[:size]); got != to {
			t.Fatalf("who waited is answered by %q, %v; want %s", got, err, to)
		}
		wantPackets(t, addr, to)
		wantOwnPackets(t, addr, "node")
	}
	// Software that does not hold it has the first place then.
	m := membersOf(t, p)
	p.Close()
	wantPackets(t, addr, "node")
	other, err := TakeOther([]int{os.Getpid()}, "udp", p.Addr(), m.Agent)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	again, err := AdoptPair(t.Context(), addr, Members{}, other, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	go answerPackets(again.Packets(), "agent")
	wantPackets(t, addr, "node")
	if err := again.Point(false); err != nil {
		t.Fatal(err)
	}
	wantPackets(t, addr, "agent")
}
