package simlayer

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

	"moult/store/bundle"
)

// switched is a way that a test changes, as the gate does, and counts what comes of
// each datagram.
type switched struct {
	endings
	mu      sync.Mutex
	now     udpWay
	changed chan struct{}
	relay   *udpRelay
	careful bool // it was always asked as udpTarget says
}

func (s *switched) way() udpWay {
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
	s.now = udpWay{addr: addr, hold: hold, changed: s.changed}
}

// udpNode answers every datagram by its name and the datagram.
func udpNode(t testing.TB, name, addr string) (at string, stop func()) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(name), buf[:n]...), from)
		}
	}()
	stop = func() {
		c.Close()
		<-done
	}
	t.Cleanup(stop)
	return c.LocalAddr().String(), stop
}

// endings counts what has become of datagrams.
type endings struct {
	mu sync.Mutex
	by map[outcome]int
}

func (e *endings) count(_ bundle.Version, o outcome, _ time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.by == nil {
		e.by = map[outcome]int{}
	}
	e.by[o]++
}

func (e *endings) of(o outcome) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.by[o]
}

func startUDP(t testing.TB, addr string, change func(*udpLimits)) (*udpRelay, *switched, *endings) {
	t.Helper()
	limits := defaultUDPLimits()
	if change != nil {
		change(&limits)
	}
	to := &switched{careful: true}
	r, err := bindUDP(t.Context(), addr, to, limits, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	to.relay = r
	r.serve()
	t.Cleanup(func() {
		r.close()
		r.close()
		if !to.careful {
			t.Error("the way was asked for with the relay unlocked: it may be another by the time that it is gone")
		}
	})
	return r, to, &to.endings
}

func dialUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

func sendUDP(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hearUDP(c net.Conn) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, maxDatagram)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func wantUDP(t testing.TB, c net.Conn, want string) {
	t.Helper()
	if got, err := hearUDP(c); got != want || err != nil {
		t.Errorf("heard %.100q, %v, want %.100q", got, err, want)
	}
}

// Every caller gets the answers to what it has sent, whatever their size.
func TestUDPManyCallers(t *testing.T) {
	r, to, ends := startUDP(t, "127.0.0.1:0", nil)
	at, _ := udpNode(t, "", "127.0.0.1:0")
	to.set(at, 0)
	const callers, rounds = 100, 20
	var wg sync.WaitGroup
	for i := range callers {
		c := dialUDP(t, r.local().String())
		wg.Go(func() {
			for j := range rounds {
				said := fmt.Sprint("caller ", i, " datagram ", j)
				sendUDP(t, c, said)
				wantUDP(t, c, said)
			}
		})
	}
	wg.Wait()
	// Callers hear an answer before it is counted.
	eventually(t, "all answers counted as passed back", func() bool { return r.statistics().toCaller == callers*rounds })
	s := r.statistics()
	if s.sessions != callers || s.toNode != callers*rounds || s.overflow+s.expired+s.noTarget+s.unreachable != 0 {
		t.Errorf("%+v", s)
	}
	big := dialUDP(t, r.local().String())
	for _, n := range []int{0, 1, 1500, 65507} {
		said := strings.Repeat("x", n)
		sendUDP(t, big, said)
		wantUDP(t, big, said)
	}
	// They are counted after they have been sent on.
	eventually(t, "all datagrams counted as passed on", func() bool { return ends.of(answered) == callers*rounds+4 })
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
	sendUDP(t, dialUDP(t, r.local().String()), "hi")
	eventually(t, "it is passed on", func() bool { return r.statistics().toNode == 1 })
	r.mu.Lock()
	var s *udpSession
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
	at, stop := udpNode(t, "one ", "127.0.0.1:0")
	to.set(at, 0)
	const callers, each = 20, 6
	conns := make([]*net.UDPConn, callers)
	for i := range conns {
		conns[i] = dialUDP(t, r.local().String())
		sendUDP(t, conns[i], "before")
		wantUDP(t, conns[i], "one before")
	}
	to.set("", hold)
	stop()
	newcomer := dialUDP(t, r.local().String())
	for j := range each {
		for _, c := range append(conns, newcomer) {
			sendUDP(t, c, strconv.Itoa(j))
		}
	}
	eventually(t, "all are there", func() bool {
		s := r.statistics()
		return s.held+int(s.noTarget) == (callers+1)*each
	})
	lost = int(r.statistics().noTarget)
	at, _ = udpNode(t, "two ", "127.0.0.1:0")
	to.set(at, 0)
	if lost > 0 {
		return lost
	}
	for _, c := range append(conns, newcomer) {
		for j := range each {
			wantUDP(t, c, "two "+strconv.Itoa(j))
		}
	}
	if s := r.statistics(); s.held != 0 || s.sessions != callers+1 || s.overflow+s.expired+s.noTarget != 0 {
		t.Errorf("%+v", s)
	}
	return 0
}

// What is held is bounded: for each caller, in all, and in time.
func TestUDPBounds(t *testing.T) {
	r, to, ends := startUDP(t, "127.0.0.1:0", func(l *udpLimits) { l.sessions, l.perSession, l.total = 3, 4, 700 })
	to.set("", time.Hour)
	one, two, three, four := dialUDP(t, r.local().String()), dialUDP(t, r.local().String()), dialUDP(t, r.local().String()), dialUDP(t, r.local().String())
	overflow := func(n int64) func() bool {
		return func() bool { return r.statistics().overflow == n }
	}
	for i := range 6 {
		sendUDP(t, one, strconv.Itoa(i))
	}
	eventually(t, "the fifth and sixth of one caller are dropped", overflow(2))
	sendUDP(t, two, strings.Repeat("y", 600))
	sendUDP(t, two, strings.Repeat("z", 100))
	eventually(t, "what is over the bytes of all is dropped", overflow(3))
	sendUDP(t, three, strings.Repeat("z", 100))
	eventually(t, "and leaves no session", func() bool { s := r.statistics(); return s.overflow == 4 && s.sessions == 2 && s.held == 5 })
	sendUDP(t, three, "a")
	sendUDP(t, four, "b")
	eventually(t, "a caller too many is dropped", func() bool { s := r.statistics(); return s.overflow == 5 && s.sessions == 3 && s.held == 6 })
	at, _ := udpNode(t, "", "127.0.0.1:0")
	to.set(at, 0)
	for i := range 4 {
		wantUDP(t, one, strconv.Itoa(i))
	}
	wantUDP(t, two, strings.Repeat("y", 600))
	wantUDP(t, three, "a")

	to.set("", time.Nanosecond)
	sendUDP(t, one, "late")
	eventually(t, "what waits too long is dropped", func() bool { s := r.statistics(); return s.expired == 1 && s.held == 0 && s.sessions == 3 })
	r.mu.Lock()
	queued, queue := r.queued, r.queue
	r.mu.Unlock()
	if queued != 0 || queue != nil {
		t.Errorf("%d bytes are kept of nothing", queued)
	}
	to.set("", 0)
	sendUDP(t, one, "nowhere")
	eventually(t, "what goes nowhere is dropped", func() bool { return r.statistics().noTarget == 1 })
	to.set("", time.Hour)
	sendUDP(t, one, "waits")
	eventually(t, "it waits", func() bool { return r.statistics().held == 1 })
	to.set("", 0)
	eventually(t, "what waited and goes nowhere is dropped", func() bool { return r.statistics().noTarget == 2 })
	if n := ends.of(failed); n != 8 {
		t.Errorf("%d datagrams count as failed, want 8", n)
	}
}

// A session in which nothing happens ends, and its caller may begin another. The
// node says nothing: an answer might come after the end on a busy machine.
func TestUDPIdle(t *testing.T) {
	r, to, ends := startUDP(t, "127.0.0.1:0", func(l *udpLimits) { l.idle = 20 * time.Millisecond })
	node, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	to.set(node.LocalAddr().String(), 0)
	c := dialUDP(t, r.local().String())
	for i := range 2 {
		sendUDP(t, c, strconv.Itoa(i))
		wantUDP(t, node.(*net.UDPConn), strconv.Itoa(i))
		eventually(t, "it has ended", func() bool { return r.statistics().sessions == 0 && ends.of(answered) == i+1 })
	}
	to.set("", 40*time.Millisecond)
	sendUDP(t, c, "never")
	eventually(t, "one without an answer too", func() bool { return r.statistics().sessions == 0 && ends.of(failed) == 1 })
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
		at, _ := udpNode(t, "", "127.0.0.1:0")
		to.set(at, 0)
		for _, ip := range calls {
			// A connected socket takes answers from where it called only.
			c := dialUDP(t, netip.AddrPortFrom(netip.MustParseAddr(ip), r.local().Port()).String())
			sendUDP(t, c, "hi "+ip)
			wantUDP(t, c, "hi "+ip)
		}
		// One caller that calls two addresses has two sessions.
		if listen != "[::1]:0" {
			both, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer both.Close()
			before := r.statistics().sessions
			for _, ip := range calls[:2] {
				to := &net.UDPAddr{IP: net.ParseIP(ip), Port: int(r.local().Port())}
				if _, err := both.WriteTo([]byte(ip), to); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				_ = both.SetReadDeadline(time.Now().Add(10 * time.Second))
				if n, from, err := both.ReadFrom(buf); err != nil || string(buf[:n]) != ip || from.String() != to.String() {
					t.Errorf("%s at %s: %q from %v, %v", ip, listen, buf[:n], from, err)
				}
			}
			if n := r.statistics().sessions - before; n != 2 {
				t.Errorf("%d sessions, want 2", n)
			}
		}
	}
}

// Software that ends by itself and comes back at the same address goes on with the
// same callers.
func TestUDPNodeCrashes(t *testing.T) {
	r, to, _ := startUDP(t, "127.0.0.1:0", nil)
	at, stop := udpNode(t, "one ", "127.0.0.1:0")
	to.set(at, 0)
	c := dialUDP(t, r.local().String())
	sendUDP(t, c, "a")
	wantUDP(t, c, "one a")
	stop()
	sendUDP(t, c, "lost")
	eventually(t, "nobody is there", func() bool { return r.statistics().unreachable > 0 })
	_, _ = udpNode(t, "two ", at)
	sendUDP(t, c, "b")
	wantUDP(t, c, "two b")
	to.set("nobody.invalid:1", 0)
	sendUDP(t, c, "c")
	before := r.statistics().unreachable
	eventually(t, "an address that there is not", func() bool { return r.statistics().unreachable > before || before > 1 })
}

func TestUDPClose(t *testing.T) {
	r, to, _ := startUDP(t, "127.0.0.1:0", nil)
	at, _ := udpNode(t, "", "127.0.0.1:0")
	to.set(at, 0)
	c, d := dialUDP(t, r.local().String()), dialUDP(t, r.local().String())
	sendUDP(t, c, "hi")
	wantUDP(t, c, "hi")
	to.set("", time.Hour)
	sendUDP(t, d, "waits")
	eventually(t, "it waits", func() bool { return r.statistics().held == 1 })
	r.close()
	if n := r.statistics().sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	// The address is free again.
	again, err := bindUDP(t.Context(), r.local().String(), to, defaultUDPLimits(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bindUDP(t.Context(), r.local().String(), to, defaultUDPLimits(), testLog(t)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address twice: %v", err)
	}
	again.close()
	if _, err := bindUDP(t.Context(), "192.0.2.1:1", to, defaultUDPLimits(), testLog(t)); err == nil || !strings.Contains(err.Error(), "no address of this machine") {
		t.Errorf("a foreign address: %v", err)
	}
}

// BenchmarkUDP sends datagrams there and back, direct and by the relay in turns.
func BenchmarkUDP(b *testing.B) {
	r, to, _ := startUDP(b, "127.0.0.1:0", nil)
	at, _ := udpNode(b, "", "127.0.0.1:0")
	to.set(at, 0)
	direct, relayed := dialUDP(b, at), dialUDP(b, r.local().String())
	said := bytes.Repeat([]byte("x"), 128)
	buf := make([]byte, maxDatagram)
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
