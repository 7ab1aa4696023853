//go:build linux

package attach

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func newPair(t testing.TB, addr string) *Pair {
	t.Helper()
	needV6(t, addr)
	p, err := ListenPair(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go serve(p.Agent(), "agent")
	return p
}

// startNode starts software that inherits the node's socket and serves it.
func startNode(t testing.TB, p *Pair) *child {
	t.Helper()
	c := queueNode(t, p)
	c.ask("serve")
	return c
}

// queueNode starts software that does not accept.
func queueNode(t testing.TB, p *Pair) *child {
	t.Helper()
	f, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := start(t, "node", nil, f)
	c.ask("inherit")
	return c
}

func TestPairPoints(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0", "[::]:0"} {
		t.Run(addr, func(t *testing.T) {
			p := newPair(t, addr)
			if p.Addr().Port() == 0 {
				t.Fatal("no port")
			}
			wantWho(t, p.Addr().String(), "agent")
			startNode(t, p)
			wantWho(t, p.Addr().String(), "agent")
			for range 3 {
				for _, to := range []string{"node", "agent"} {
					if err := p.Point(to == "node"); err != nil {
						t.Fatal(err)
					}
					wantWho(t, p.Addr().String(), to)
				}
			}
		})
	}
}

// TestPairDual shows that a wildcard takes both families.
func TestPairDual(t *testing.T) {
	needV6(t, "[")
	p := newPair(t, "[::]:0")
	startNode(t, p)
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, to := range []string{"node", "agent"} {
			if err := p.Point(to == "node"); err != nil {
				t.Fatal(err)
			}
			wantWho(t, netip.AddrPortFrom(netip.MustParseAddr(host), p.Addr().Port()).String(), to)
		}
	}
}

func TestPairRefusesStrangers(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	if err := p.Point(true); err != nil {
		t.Fatal(err)
	}
	startNode(t, p)
	_, err := ListenPair(t.Context(), "tcp", p.Addr().String())
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second pair: %v", err)
	}
	node, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	if _, err := AdoptPair(t.Context(), p.Addr().String(), Members{}, node, nil); !errors.Is(err, ErrShared) {
		t.Errorf("adopted from an agent that runs: %v", err)
	}
	wantWho(t, p.Addr().String(), "node") // nothing of that disturbed the group
}

// TestPlacesInTheGroup shows what doc.go says of the kernel's order. It is the
// planted bug of all adoption, too: places not looked at lead to the wrong one.
func TestPlacesInTheGroup(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	startNode(t, p)
	addr := p.Addr().String()
	if err := p.Point(true); err != nil { // place 1
		t.Fatal(err)
	}
	node, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	p.Agent().Close()
	wantWho(t, addr, "node") // alone at 0, and 1 is out of range

	wrong, err := listenMember(t.Context(), "tcp4", addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	go serve(wrong.(net.Listener), "agent")
	wantWho(t, addr, "agent") // the newcomer has 1, and nobody looked
	wrong.Close()

	again, err := AdoptPair(t.Context(), addr, Members{}, node, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	go serve(again.Agent(), "agent")
	wantWho(t, addr, "node")
	if err := again.Point(false); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr, "agent")
	if err := again.Point(true); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr, "node")
}

func TestAdoptRefuses(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	node, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	p.Agent().Close()
	if _, err := AdoptPair(t.Context(), "127.0.0.2:0", Members{}, node, nil); !errors.Is(err, ErrSocket) {
		t.Errorf("another address: %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	own, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := AdoptPair(t.Context(), ln.Addr().String(), Members{}, own, nil); !errors.Is(err, ErrSocket) {
		t.Errorf("a socket of the software's own: %v", err)
	}
	if _, err := AdoptPair(t.Context(), "127.0.0.1:0", Members{}, os.Stdin, nil); err == nil {
		t.Error("no socket at all was adopted")
	}
	if _, err := AdoptPair(t.Context(), "127.0.0.1:0", Members{}, nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
}

func TestPairClosed(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Point(true); !errors.Is(err, ErrClosed) {
		t.Errorf("Point: %v", err)
	}
	if _, err := p.Node(); !errors.Is(err, ErrClosed) {
		t.Errorf("Node: %v", err)
	}
	if _, err := p.Strays(); !errors.Is(err, ErrClosed) {
		t.Errorf("Strays: %v", err)
	}
}

// TestStrays queues connections at software that is then killed. The planted
// bug is an agent that does not keep the socket: they are reset.
func TestStrays(t *testing.T) {
	for _, planted := range []bool{false, true} {
		t.Run(map[bool]string{false: "kept", true: "planted"}[planted], func(t *testing.T) {
			p := newPair(t, "127.0.0.1:0")
			node := queueNode(t, p)
			if err := p.Point(true); err != nil {
				t.Fatal(err)
			}
			var conns [8]net.Conn
			for i := range conns {
				c, err := net.Dial("tcp", p.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				conns[i] = c
			}
			if planted {
				p.node.Close()
			}
			node.kill()
			if !planted {
				if err := p.Point(false); err != nil {
					t.Fatal(err)
				}
				ln, err := p.Strays()
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				go serve(ln, "stray")
			}
			for _, c := range conns {
				got, err := askConn(c)
				if planted && err == nil {
					t.Fatalf("the planted bug was not caught: %s answered", got)
				}
				if !planted && got != "stray" {
					t.Errorf("%q answered: %v", got, err)
				}
			}
		})
	}
}

// TestNodeBlocks shows that software gets its socket as systemd gives it, even
// after others made it non-blocking.
func TestNodeBlocks(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	ln, err := p.Strays()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	f, err := p.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if flags := fileFlags(t, f); flags&syscall.O_NONBLOCK != 0 {
		t.Errorf("flags %#x: non-blocking", flags)
	}
}

func fileFlags(t *testing.T, f *os.File) int {
	t.Helper()
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_GETFL, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return int(flags)
}

// TestAgentKilled kills the agent during load. The node's socket is then alone;
// the test takes it from the software, as the next agent.
func TestAgentKilled(t *testing.T) {
	nodeLife, life, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer life.Close()
	defer nodeLife.Close()
	agent := start(t, "agent", nil, os.Stderr, nodeLife)
	addr := agent.ask("pair 127.0.0.1:0")
	pid := atoi(t, agent.ask("child"))
	defer killNode(t, pid)
	agent.ask("point node")
	wantWho(t, addr, "inheritor")

	l := newTraffic(t, addr)
	l.await(50)
	agent.kill()
	l.await(50)
	pids, err := Family(pid)
	if err != nil {
		t.Fatal(err)
	}
	node, err := Take(pids, "tcp", netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	p, err := AdoptPair(t.Context(), addr, Members{}, node, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	node.Close()
	go serve(p.Agent(), "agent")
	l.await(50)
	if n := l.by("agent"); n != 0 {
		t.Errorf("%d calls reached the agent while the node was pointed at", n)
	}
	if err := p.Point(false); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr, "agent")
	if err := p.Point(true); err != nil {
		t.Fatal(err)
	}
	wantWho(t, addr, "inheritor")
	l.stop()
	l.wantNone(t)
}

// TestPairUnderLoad flips, kills and restarts while callers dial.
func TestPairUnderLoad(t *testing.T) {
	p := newPair(t, "127.0.0.1:0")
	addr := p.Addr().String()
	l := newTraffic(t, addr)
	const rounds = 4
	for round := range rounds {
		node := startNode(t, p)
		for range 5 {
			for _, to := range []bool{true, false} {
				if err := p.Point(to); err != nil {
					t.Fatal(err)
				}
				l.await(4)
			}
		}
		if err := p.Point(true); err != nil {
			t.Fatal(err)
		}
		l.await(8)
		// A crash in a call fails the call; only what is queued is kept. So the
		// software stops to accept, without closing, before it is killed.
		l.pause()
		node.freeze()
		l.resume()
		l.queue(4)
		node.kill()
		if err := p.Point(false); err != nil {
			t.Fatal(err)
		}
		strays, err := p.Strays()
		if err != nil {
			t.Fatal(err)
		}
		go serve(strays, "stray")
		l.await(8)
		// What is left in the queue is for the next software, or for the end.
		defer strays.Close()
		if round < rounds-1 {
			strays.Close()
		}
	}
	l.stop()
	l.wantNone(t)
	if l.by("stray") == 0 || l.by("node") == 0 || l.by("agent") == 0 {
		t.Errorf("answers: %v, want some of the node, the agent and of strays", l.answers())
	}
}

// traffic dials an address again and again, from several callers, and asks who
// answers.
type traffic struct {
	addr string
	wg   sync.WaitGroup
	end  chan struct{}
	gate sync.RWMutex // held for reading in a call

	mu      sync.Mutex
	moved   *sync.Cond
	done    int
	dialled int
	who     map[string]int
	failed  []error
	over    atomic.Bool
}

const callers = 4

func newTraffic(t testing.TB, addr string) *traffic {
	l := &traffic{addr: addr, end: make(chan struct{}), who: map[string]int{}}
	l.moved = sync.NewCond(&l.mu)
	for range callers {
		l.wg.Go(l.call)
	}
	t.Cleanup(l.stop)
	return l
}

func (l *traffic) call() {
	for {
		select {
		case <-l.end:
			return
		default:
		}
		l.gate.RLock()
		name := ""
		c, err := net.Dial("tcp", l.addr)
		if err == nil {
			l.note(func() { l.dialled++ })
			name, err = askConn(c)
			c.Close()
		}
		l.gate.RUnlock()
		l.note(func() {
			l.done++
			if err != nil {
				l.failed = append(l.failed, err)
			} else {
				l.who[name]++
			}
		})
	}
}

func (l *traffic) note(f func()) {
	l.mu.Lock()
	f()
	l.mu.Unlock()
	l.moved.Broadcast()
}

// await waits for n more calls to end.
func (l *traffic) await(n int) { l.until(func() int { return l.done }, n) }

// queue waits until all callers have a connection that nobody accepts.
func (l *traffic) queue(n int) {
	l.mu.Lock()
	for l.dialled-l.done < n {
		l.moved.Wait()
	}
	l.mu.Unlock()
}

func (l *traffic) until(of func() int, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for to := of() + n; of() < to; {
		l.moved.Wait()
	}
}

// pause waits until no call is under way and keeps new ones off.
func (l *traffic) pause()  { l.gate.Lock() }
func (l *traffic) resume() { l.gate.Unlock() }

func (l *traffic) stop() {
	if l.over.CompareAndSwap(false, true) {
		close(l.end)
	}
	l.wg.Wait()
}

func (l *traffic) by(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.who[name]
}

func (l *traffic) answers() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.who
}

func (l *traffic) wantNone(t *testing.T) {
	t.Helper()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d calls failed, first: %v", len(l.failed), l.done, l.failed[0])
	}
	t.Logf("%d calls: %v", l.done, l.who)
}
