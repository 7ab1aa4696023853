package gossip

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func mustAddrPort(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return ap
}

// Whoever opens many connections sheds its own; who opens one loses it only where nobody
// has more.
func TestShares(t *testing.T) {
	s := newShares(6, 3)
	open := map[string]bool{}
	leave := map[string]func(){}
	enter := func(source, name string) {
		open[name] = true
		leave[name] = s.enter(sourceOf(source), func() { delete(open, name) })
	}
	want := func(when string, names ...string) {
		t.Helper()
		if len(open) != len(names) || len(s.open) != len(names) {
			t.Errorf("%s: open %v, want %v", when, open, names)
		}
		for _, name := range names {
			if !open[name] {
				t.Errorf("%s: %s was shed", when, name)
			}
		}
	}
	for i := range 4 {
		enter("10.0.0.1:1", fmt.Sprint("a", i))
	}
	want("one source has too many", "a1", "a2", "a3")
	enter("[2001:db8::1]:1", "b0") // one host: it has all of the network
	enter("[2001:db8::2]:1", "b1")
	enter("10.0.0.3:1", "c0")
	enter("10.0.0.4:1", "d0")
	want("all places are taken", "a2", "a3", "b0", "b1", "c0", "d0")
	enter("10.0.0.5:1", "e0")
	want("two sources have most, the oldest goes", "a3", "b0", "b1", "c0", "d0", "e0")
	leave["b0"]()
	leave["b0"]()
	delete(open, "b0")
	enter("10.0.0.6:1", "f0")
	enter("10.0.0.7:1", "g0")
	want("nobody has more than one but who comes", "b1", "c0", "d0", "e0", "f0", "g0")
	enter("10.0.0.7:2", "g1")
	want("who comes has the most", "b1", "c0", "d0", "e0", "f0", "g1")
	for name := range open {
		leave[name]()
	}
	if len(s.of)+len(s.open) != 0 {
		t.Errorf("all have left, and %v, %v stay", s.of, s.open)
	}
}

// Connections that say nothing keep no peer out, not even one of the same address.
func TestSilentConnections(t *testing.T) {
	a := startAgent(t, testConfig(t, "n1"))
	for range 2 * maxHandshakes {
		c, err := net.Dial("tcp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	_, peer := rawPeer(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), handshakeTimeout/2)
	defer cancel()
	s, err := peer.open(ctx, a.Addr(), alpnPeer, a.Self())
	if err != nil {
		t.Fatalf("beside silent connections: %v", err)
	}
	s.Close()
}

// Identities cost nothing, so their streams are bounded together: those of one address
// shed the oldest of it, and the newest is served.
func TestStreamsOfManyIdentities(t *testing.T) {
	a := startAgent(t, testConfig(t, "n1"))
	inbound := func() int {
		a.transport.streams.mu.Lock()
		defer a.transport.streams.mu.Unlock()
		return len(a.transport.streams.open)
	}
	var first, last *stream
	for range streamsPerSource/maxStreamsPerPeer + 1 {
		_, greedy := rawPeer(t, nil)
		for range maxStreamsPerPeer {
			s, err := greedy.open(t.Context(), a.Addr(), alpnPeer, a.Self())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if last = s; first == nil {
				first = s
			}
		}
	}
	for _, s := range []*stream{first, last} {
		_ = s.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = fmt.Fprint(s, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := io.ReadFull(s, make([]byte, 12)); (err == nil) != (s == last) {
			t.Errorf("the newest stream: %v, error %v", s == last, err)
		}
	}
	if n := inbound(); n > streamsPerSource {
		t.Errorf("%d streams of one address: want at most %d", n, streamsPerSource)
	}
}

// A flood of packets that are no packets of the ring is a line in the log now and then,
// which counts the others.
func TestBadPacketsFillNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNetwork(1, 0)
		cfg := testConfig(t, "n1")
		cfg.Bind, cfg.Network = "10.0.0.1:7946", network.at("10.0.0.1")
		var logged bytes.Buffer
		cfg.Log = slog.New(slog.NewTextHandler(&logged, nil))
		a := startAgent(t, cfg)
		_, bad, err := network.at("10.6.6.6").Listen(t.Context(), "10.6.6.6:7946")
		if err != nil {
			t.Fatal(err)
		}
		defer bad.Close()
		to := net.UDPAddrFromAddrPort(mustAddrPort(t, a.Addr()))
		flood := func() {
			for i := range 200 {
				if _, err := bad.WriteTo(bytes.Repeat([]byte{byte(i)}, 1+i), to); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond) // virtual; it is there by then
			}
			time.Sleep(time.Second)
		}
		flood()
		time.Sleep(logInterval)
		flood()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		lines := strings.Count(logged.String(), "from=10.6.6.6")
		if lines < 2 || lines > 3 || !strings.Contains(logged.String(), "suppressed=1") {
			t.Errorf("%d lines of 400 bad packets:\n%.2000s", lines, logged.String())
		}
		time.Sleep(5 * time.Minute) // memberlist's timers outlive its end
	})
}
