package packets

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/simlayer/packets/packetstest"
	"moult/simlayer/tally"
	"moult/testdata/kit"
)

// switched is a way that a test changes, as the gate does, and counts what comes of
// each datagram.
type switched struct {
	endings
	mu      sync.Mutex
	now     Way
	changed chan struct{}
	relay   *Relay
	careful bool // it was always asked as Target says
}

func (s *switched) Way() Way {
	if s.relay.mu.TryLock() {
		s.relay.mu.Unlock()
		s.mu.Lock()
		s.careful = false
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *switched) set(addr string, hold time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
	s.now = Way{Addr: addr, Hold: hold, Changed: s.changed}
}

// endings counts what has become of datagrams.
type endings struct {
	mu sync.Mutex
	by map[tally.Outcome]int
}

func (e *endings) Count(_ Way, o tally.Outcome, _ time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.by == nil {
		e.by = map[tally.Outcome]int{}
	}
	e.by[o]++
}

func (e *endings) of(o tally.Outcome) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.by[o]
}

func startUDP(t testing.TB, addr string, change func(*Limits)) (*Relay, *switched, *endings) {
	t.Helper()
	limits := DefaultLimits()
	if change != nil {
		change(&limits)
	}
	to := &switched{careful: true}
	r, err := Open(t.Context(), addr, Config{Target: to, Limits: limits, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	to.relay = r
	r.Serve()
	t.Cleanup(func() {
		r.Close()
		r.Close()
		if !to.careful {
			t.Error("the way was asked for with the relay unlocked: it may be another by the time that it is gone")
		}
	})
	return r, to, &to.endings
}

// Every caller gets the answers to what it has sent, whatever their size.
func TestUDPManyCallers(t *testing.T) {
	r, to, ends := startUDP(t, "127.0.0.1:0", nil)
	at, _ := packetstest.Node(t, "", "127.0.0.1:0")
	to.set(at, 0)
	const callers, rounds = 100, 20
	var wg sync.WaitGroup
	for i := range callers {
		c := packetstest.Dial(t, r.Addr().String())
		wg.Go(func() {
			for j := range rounds {
				said := fmt.Sprint("caller ", i, " datagram ", j)
				packetstest.Send(t, c, said)
				packetstest.Want(t, c, said)
			}
		})
	}
	wg.Wait()
	// Callers hear an answer before it is counted.
	kit.Until(t, "all answers counted as passed back", func() bool { return r.Stats().ToCaller == callers*rounds })
	s := r.Stats()
	if s.Sessions != callers || s.ToNode != callers*rounds || s.Overflow+s.Expired+s.NoTarget+s.Unreachable != 0 {
		t.Errorf("%+v", s)
	}
	big := packetstest.Dial(t, r.Addr().String())
	for _, n := range []int{0, 1, 1500, 65507} {
		said := strings.Repeat("x", n)
		packetstest.Send(t, big, said)
		packetstest.Want(t, big, said)
	}
	// They are counted after they have been sent on.
	kit.Until(t, "all datagrams counted as passed on", func() bool { return ends.of(tally.Answered) == callers*rounds+4 })
}

// An answer that is passed back late does not stand for what was asked after it.
func TestUDPOwed(t *testing.T) {
	r, to, _ := startUDP(t, "127.0.0.1:0", nil)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	to.set(silent.LocalAddr().String(), 0)
	before := time.Now()
	packetstest.Send(t, packetstest.Dial(t, r.Addr().String()), "hi")
	kit.Until(t, "it is passed on", func() bool { return r.Stats().ToNode == 1 })
	r.mu.Lock()
	var s *session
	for _, s = range r.sessions {
	}
	r.mu.Unlock()
	r.answered(s, before, nil)
	if r.owed(time.Hour) <= 0 {
		t.Error("an answer of before counts as the answer")
	}
	r.answered(s, time.Now(), nil)
	if r.owed(time.Hour) > 0 {
		t.Error("an answer does not count")
	}
}

// A restart of the node, at another address, loses nothing and changes no order.
func TestUDPRestart(t *testing.T) {
	if lost := udpRestart(t, time.Minute); lost != 0 {
		t.Errorf("%d datagrams were lost", lost)
	}
}

// The test above catches a relay that does not hold.
func TestUDPRestartCatches(t *testing.T) {
	if lost := udpRestart(t, 0); lost == 0 {
		t.Error("nothing was held, and nothing was lost")
	}
}

func udpRestart(t *testing.T, hold time.Duration) (lost int) {
	r, to, _ := startUDP(t, "127.0.0.1:0", nil)
	at, stop := packetstest.Node(t, "one ", "127.0.0.1:0")
	to.set(at, 0)
	const callers, each = 20, 6
	conns := make([]*net.UDPConn, callers)
	for i := range conns {
		conns[i] = packetstest.Dial(t, r.Addr().String())
		packetstest.Send(t, conns[i], "before")
		packetstest.Want(t, conns[i], "one before")
	}
	to.set("", hold)
	stop()
	newcomer := packetstest.Dial(t, r.Addr().String())
	for j := range each {
		for _, c := range append(conns, newcomer) {
			packetstest.Send(t, c, strconv.Itoa(j))
		}
	}
	kit.Until(t, "all are there", func() bool {
		s := r.Stats()
		return s.Held+int(s.NoTarget) == (callers+1)*each
	})
	lost = int(r.Stats().NoTarget)
	at, _ = packetstest.Node(t, "two ", "127.0.0.1:0")
	to.set(at, 0)
	if lost > 0 {
		return lost
	}
	for _, c := range append(conns, newcomer) {
		for j := range each {
			packetstest.Want(t, c, "two "+strconv.Itoa(j))
		}
	}
	if s := r.Stats(); s.Held != 0 || s.Sessions != callers+1 || s.Overflow+s.Expired+s.NoTarget != 0 {
		t.Errorf("%+v", s)
	}
	return 0
}

// What is held is bounded: for each caller, in all, and in time.
func TestUDPBounds(t *testing.T) {
	r, to, ends := startUDP(t, "127.0.0.1:0", func(l *Limits) { l.Sessions, l.PerSession, l.Total = 3, 4, 700 })
	to.set("", time.Hour)
	one, two, three, four := packetstest.Dial(t, r.Addr().String()), packetstest.Dial(t, r.Addr().String()), packetstest.Dial(t, r.Addr().String()), packetstest.Dial(t, r.Addr().String())
	overflow := func(n int64) func() bool {
		return func() bool { return r.Stats().Overflow == n }
	}
	for i := range 6 {
		packetstest.Send(t, one, strconv.Itoa(i))
	}
	kit.Until(t, "the fifth and sixth of one caller are dropped", overflow(2))
	packetstest.Send(t, two, strings.Repeat("y", 600))
	packetstest.Send(t, two, strings.Repeat("z", 100))
	kit.Until(t, "what is over the bytes of all is dropped", overflow(3))
	packetstest.Send(t, three, strings.Repeat("z", 100))
	kit.Until(t, "and leaves no session", func() bool { s := r.Stats(); return s.Overflow == 4 && s.Sessions == 2 && s.Held == 5 })
	packetstest.Send(t, three, "a")
	packetstest.Send(t, four, "b")
	kit.Until(t, "a caller too many is dropped", func() bool { s := r.Stats(); return s.Overflow == 5 && s.Sessions == 3 && s.Held == 6 })
	at, _ := packetstest.Node(t, "", "127.0.0.1:0")
	to.set(at, 0)
	for i := range 4 {
		packetstest.Want(t, one, strconv.Itoa(i))
	}
	packetstest.Want(t, two, strings.Repeat("y", 600))
	packetstest.Want(t, three, "a")

	to.set("", time.Nanosecond)
	packetstest.Send(t, one, "late")
	kit.Until(t, "what waits too long is dropped", func() bool { s := r.Stats(); return s.Expired == 1 && s.Held == 0 && s.Sessions == 3 })
	r.mu.Lock()
	queued, queue := r.queued, r.queue
	r.mu.Unlock()
	if queued != 0 || queue != nil {
		t.Errorf("%d bytes are kept of nothing", queued)
	}
	to.set("", 0)
	packetstest.Send(t, one, "nowhere")
	kit.Until(t, "what goes nowhere is dropped", func() bool { return r.Stats().NoTarget == 1 })
	to.set("", time.Hour)
	packetstest.Send(t, one, "waits")
	kit.Until(t, "it waits", func() bool { return r.Stats().Held == 1 })
	to.set("", 0)
	kit.Until(t, "what waited and goes nowhere is dropped", func() bool { return r.Stats().NoTarget == 2 })
	if n := ends.of(tally.Failed); n != 8 {
		t.Errorf("%d datagrams count as failed, want 8", n)
	}
}

// A session in which nothing happens ends, and its caller may begin another. The
// node says nothing: an answer might come after the end on a busy machine.
func TestUDPIdle(t *testing.T) {
	r, to, ends := startUDP(t, "127.0.0.1:0", func(l *Limits) { l.Idle = 20 * time.Millisecond })
	node, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	to.set(node.LocalAddr().String(), 0)
	c := packetstest.Dial(t, r.Addr().String())
	for i := range 2 {
		packetstest.Send(t, c, strconv.Itoa(i))
		packetstest.Want(t, node.(*net.UDPConn), strconv.Itoa(i))
		kit.Until(t, "it has ended", func() bool { return r.Stats().Sessions == 0 && ends.of(tally.Answered) == i+1 })
	}
	to.set("", 40*time.Millisecond)
	packetstest.Send(t, c, "never")
	kit.Until(t, "one without an answer too", func() bool { return r.Stats().Sessions == 0 && ends.of(tally.Failed) == 1 })
}

// Answers come from the address that was called, also where the relay listens on
// all of them.
func TestUDPCalledAddress(t *testing.T) {
	for listen, calls := range map[string][]string{
		"0.0.0.0:0": {"127.0.0.1", "127.0.0.2"},
		":0":        {"127.0.0.1", "127.0.0.2", "::1"},
		"[::1]:0":   {"::1"},
	} {
		if l, err := net.ListenPacket("udp", listen); err != nil {
			t.Logf("%s: %v", listen, err)
			continue
		} else {
			l.Close()
		}
		r, to, _ := startUDP(t, listen, nil)
		at, _ := packetstest.Node(t, "", "127.0.0.1:0")
		to.set(at, 0)
		for _, ip := range calls {
			// A connected socket takes answers from where it called only.
			c := packetstest.Dial(t, netip.AddrPortFrom(netip.MustParseAddr(ip), r.Addr().Port()).String())
			packetstest.Send(t, c, "hi "+ip)
			packetstest.Want(t, c, "hi "+ip)
		}
		// One caller that calls two addresses has two sessions.
		if listen != "[::1]:0" {
			both, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer both.Close()
			before := r.Stats().Sessions
			for _, ip := range calls[:2] {
				to := &net.UDPAddr{IP: net.ParseIP(ip), Port: int(r.Addr().Port())}
				if _, err := both.WriteTo([]byte(ip), to); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				_ = both.SetReadDeadline(time.Now().Add(10 * time.Second))
				if n, from, err := both.ReadFrom(buf); err != nil || string(buf[:n]) != ip || from.String() != to.String() {
					t.Errorf("%s at %s: %q from %v, %v", ip, listen, buf[:n], from, err)
				}
			}
			if n := r.Stats().Sessions - before; n != 2 {
				t.Errorf("%d sessions, want 2", n)
			}
		}
	}
}

// Software that ends by itself and comes back at the same address goes on with the
// same callers.
func TestUDPNodeCrashes(t *testing.T) {
	r, to, _ := startUDP(t, "127.0.0.1:0", nil)
	at, stop := packetstest.Node(t, "one ", "127.0.0.1:0")
	to.set(at, 0)
	c := packetstest.Dial(t, r.Addr().String())
	packetstest.Send(t, c, "a")
	packetstest.Want(t, c, "one a")
	stop()
	packetstest.Send(t, c, "lost")
	kit.Until(t, "nobody is there", func() bool { return r.Stats().Unreachable > 0 })
	_, _ = packetstest.Node(t, "two ", at)
	packetstest.Send(t, c, "b")
	packetstest.Want(t, c, "two b")
	to.set("nobody.invalid:1", 0)
	packetstest.Send(t, c, "c")
	before := r.Stats().Unreachable
	kit.Until(t, "an address that there is not", func() bool { return r.Stats().Unreachable > before || before > 1 })
}

func TestUDPClose(t *testing.T) {
	r, to, _ := startUDP(t, "127.0.0.1:0", nil)
	at, _ := packetstest.Node(t, "", "127.0.0.1:0")
	to.set(at, 0)
	c, d := packetstest.Dial(t, r.Addr().String()), packetstest.Dial(t, r.Addr().String())
	packetstest.Send(t, c, "hi")
	packetstest.Want(t, c, "hi")
	to.set("", time.Hour)
	packetstest.Send(t, d, "waits")
	kit.Until(t, "it waits", func() bool { return r.Stats().Held == 1 })
	r.Close()
	if n := r.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	// The address is free again.
	again, err := Open(t.Context(), r.Addr().String(), Config{Target: to, Limits: DefaultLimits(), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.Addr().String(), Config{Target: to, Limits: DefaultLimits(), Log: testLog(t)}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address twice: %v", err)
	}
	again.Close()
	if _, err := Open(t.Context(), "192.0.2.1:1", Config{Target: to, Limits: DefaultLimits(), Log: testLog(t)}); err == nil || !strings.Contains(err.Error(), "no address of this machine") {
		t.Errorf("a foreign address: %v", err)
	}
}

// BenchmarkUDP sends datagrams there and back, direct and by the relay in turns.
func BenchmarkUDP(b *testing.B) {
	r, to, _ := startUDP(b, "127.0.0.1:0", nil)
	at, _ := packetstest.Node(b, "", "127.0.0.1:0")
	to.set(at, 0)
	direct, relayed := packetstest.Dial(b, at), packetstest.Dial(b, r.Addr().String())
	said := bytes.Repeat([]byte("x"), 128)
	buf := make([]byte, packetstest.Max)
	var took [2]time.Duration
	n := 0
	for b.Loop() {
		n++
		for i, c := range []*net.UDPConn{direct, relayed} {
			began := time.Now()
			for range 100 {
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := c.Write(said); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
					b.Fatal(err)
				}
			}
			took[i] += time.Since(began)
		}
	}
	b.ReportMetric(float64(took[0].Microseconds())/float64(100*n), "direct-µs")
	b.ReportMetric(float64(took[1].Microseconds())/float64(100*n), "relay-µs")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}
