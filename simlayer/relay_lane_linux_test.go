package simlayer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// taken is how many connections are in lanes.
func (l *lanes) taken() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.all {
		if one != nil {
			one.mu.Lock()
			n += len(one.seats) - len(one.free)
			one.mu.Unlock()
		}
	}
	return n
}

// sayLast sends text together with the end.
func sayLast(t testing.TB, c net.Conn, text string) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Write(func(fd uintptr) bool {
		if err := unix.Sendto(int(fd), []byte(text), unix.MSG_MORE|unix.MSG_NOSIGNAL, nil); err != nil {
			t.Error(err)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	closeWrite(c)
}

// listenNode listens for a node, and returns how a layer reaches it.
func listenNode(t testing.TB, network string) (ln net.Listener, backend string) {
	addr, prefix := "127.0.0.1:0", ""
	if network == "unix" {
		addr, prefix = filepath.Join(t.TempDir(), "node.sock"), "unix:"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, prefix + ln.Addr().String()
}

// hang is how long something may take whose failure is that it never comes.
const hang = 10 * time.Second

// comes waits for a value.
func comes(t testing.TB, what string, from <-chan struct{}) {
	t.Helper()
	end := time.NewTimer(hang)
	defer end.Stop()
	select {
	case <-from:
	case <-end.C:
		t.Fatalf("never came: %s", what)
	}
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// lastNode answers each call; "/last" with the end of the connection, of which the
// answer says nothing. It gives ended a value whenever a caller has ended.
func lastNode(t testing.TB, network string, ended chan<- struct{}) (backend string) {
	return rawNode(t, network, func(c net.Conn, r *http.Request) bool {
		if r.URL.Path == "/last" {
			sayLast(t, c, okAnswer)
			return false
		}
		_, err := io.WriteString(c, okAnswer)
		return err == nil
	}, func() { ended <- struct{}{} })
}

// rawNode has answer answer its calls, until that says false, and calls ended when
// a caller has ended.
func rawNode(t testing.TB, network string, answer func(net.Conn, *http.Request) bool, ended func()) (backend string) {
	ln, backend := listenNode(t, network)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	serve := func(c net.Conn) {
		defer c.Close()
		for br := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(br)
			if err != nil {
				ended()
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil || !answer(c, r) {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close() }) // before wg.Wait
	return backend
}

// inLane makes a connection that is in a lane, and alone there.
func inLane(t testing.TB, l *Layer) *rawCaller {
	c := rawTo(t, l.Addresses()["api"].Public)
	_ = c.SetDeadline(time.Now().Add(hang))
	for range 2 {
		c.say(getOf("/"))
		c.hear()
	}
	eventually(t, "a connection in a lane", func() bool {
		if l.lanes.taken() == 1 {
			return true
		}
		c.say(getOf("/"))
		c.hear()
		return false
	})
	return c
}

// inBothLanes runs a test with calls that are relayed, and that are simulated.
func inBothLanes(t *testing.T, test func(t *testing.T, to func(testing.TB, string) *Layer)) {
	if !hasLanes() {
		t.Skip("there are no lanes with one processor")
	}
	t.Run("relayed", func(t *testing.T) { test(t, relayTo) })
	t.Run("simulated", func(t *testing.T) { test(t, simulatedTo) })
}

func simulatedTo(t testing.TB, addr string) *Layer { return simulated(t, addr, nil) }

// The end of a connection that comes together with the last bytes is not lost,
// neither the caller's nor the node's.
func TestLaneEnds(t *testing.T) {
	inBothLanes(t, laneEnds)
}

func laneEnds(t *testing.T, to func(testing.TB, string) *Layer) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ended := make(chan struct{}, 256)
			l := to(t, lastNode(t, network, ended))
			for range 50 {
				c := inLane(t, l)
				sayLast(t, c.TCPConn, getOf("/"))
				if _, body := c.hear(); body != "ok" {
					t.Fatalf("%q", body)
				}
				if _, err := c.br.ReadByte(); err != io.EOF {
					t.Fatalf("after the last answer: %v, want the end", err)
				}
				comes(t, "the end at the node", ended)
				eventually(t, "no connection", func() bool { return l.conns.Load() == 0 })
			}
			for range 50 {
				c := inLane(t, l)
				c.say(getOf("/last"))
				if _, body := c.hear(); body != "ok" {
					t.Fatalf("%q", body)
				}
				b := l.gate.current().backends["api"]
				eventually(t, "no connection to the node", func() bool {
					// A simulated call finds out that it has ended.
					return len(b.relaying()) == 0 || l.gate.current().native == 2 && l.lanes.taken() == 0
				})
				c.say(strings.Replace(getOf("/"), "GET", "POST", 1))
				if _, body := c.hear(); body != "ok" {
					t.Fatalf("%q", body)
				}
				c.Close()
				comes(t, "the end at the node", ended)
				eventually(t, "no connection", func() bool { return l.conns.Load() == 0 })
			}
		})
	}
}

// A caller that does not read its answers gets all of them once it does.
func TestLaneSlowCaller(t *testing.T) {
	inBothLanes(t, laneSlowCaller)
}

func laneSlowCaller(t *testing.T, to func(testing.TB, string) *Layer) {
	body := func(path string) string { return strings.Repeat(path, 15_000/len(path)) }
	answered := make(chan struct{}, 1)
	l := to(t, rawNode(t, "unix", func(c net.Conn, r *http.Request) bool {
		text := body(r.URL.Path)
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		if r.URL.Path != "/" {
			answered <- struct{}{}
		}
		return err == nil
	}, func() {}))
	c := inLane(t, l)
	// Each call is made when the one before is counted, so the connection is still
	// in its lane, unless that one's answer did not get through: then this one's
	// may not come.
	sent := 0
	for left := false; !left; sent++ {
		if sent == 4000 {
			t.Fatal("the caller's connection takes everything")
		}
		before := l.Stats().Services["api"][1].Calls
		c.say(getOf(fmt.Sprintf("/%d", sent)))
		made := false
		eventually(t, "an answer, or none any more", func() bool {
			select {
			case <-answered:
				made = true
			default:
			}
			left = l.lanes.taken() == 0
			return left || made && l.Stats().Services["api"][1].Calls > before
		})
	}
	for i := range sent {
		if _, got := c.hear(); got != body(fmt.Sprintf("/%d", i)) {
			t.Fatalf("answer %d is wrong: %.40q", i, got)
		}
	}
	c.say(getOf("/x"))
	comes(t, "an answer", answered)
	if _, got := c.hear(); got != body("/x") {
		t.Errorf("%.40q", got)
	}
}

// A node that does not read its requests, and answers them all the same, gets all
// of them once it does.
func TestLaneSlowNode(t *testing.T) {
	if !hasLanes() {
		t.Skip("there are no lanes with one processor")
	}
	ln, backend := listenNode(t, "unix")
	l := relayTo(t, backend)
	c := rawTo(t, l.Addresses()["api"].Public)
	post := func(i int) string {
		body := strings.Repeat(fmt.Sprint(i), 14_000/len(fmt.Sprint(i)))
		return fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body)
	}
	c.say(post(0))
	node, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	_ = node.SetDeadline(time.Now().Add(hang))
	var want strings.Builder
	was := false
	for i := 0; ; i++ {
		if i == 1000 {
			t.Fatal("the node's connection takes everything, or was in no lane: ", was)
		}
		if i > 0 {
			c.say(post(i))
		}
		want.WriteString(post(i))
		eventually(t, "a call at the node", func() bool { return l.Stats().InFlight == 1 })
		_, _ = io.WriteString(node, okAnswer)
		if _, body := c.hear(); body != "ok" {
			t.Fatalf("%q", body)
		}
		in := l.lanes.taken() == 1
		if was && !in {
			break
		}
		was = in
	}
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(node, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Error("the node got something else than was sent")
	}
}

// A connection that others close while it is in a lane is closed.
func TestLaneIsClosed(t *testing.T) {
	inBothLanes(t, laneIsClosed)
}

func laneIsClosed(t *testing.T, to func(testing.TB, string) *Layer) {
	ended := make(chan struct{}, 256)
	backend := lastNode(t, "unix", ended)
	l := to(t, backend)
	c := inLane(t, l)
	l.leaveBackends()
	comes(t, "the end at the node", ended)
	eventually(t, "nothing in a lane", func() bool { return l.lanes.taken() == 0 })
	apply(t, l, Routing{Native: 2, Backends: backends(backend), Objects: passAll(t), External: 1})
	c.say(getOf("/"))
	if _, body := c.hear(); body != "ok" {
		t.Errorf("%q", body)
	}
	c.Close()
	eventually(t, "no connection", func() bool { return l.conns.Load() == 0 })
	comes(t, "the end at the node", ended)
	c = inLane(t, l)
	l.Close()
	comes(t, "the end at the node", ended)
	if _, err := c.br.ReadByte(); err == nil {
		t.Error("the caller is still served")
	}
}

// An answer that the caller takes slowly arrives whole, though the address that it
// has called is given up meanwhile. The last bytes of it are written by down, the
// second time as what a lane could not write.
func TestRetireWhileAnswering(t *testing.T) {
	for _, before := range []int{0, 2} {
		t.Run(fmt.Sprintf("after %d calls", before), func(t *testing.T) {
			if before > 0 && !hasLanes() {
				t.Skip("there are no lanes with one processor")
			}
			body := strings.Repeat("x", 15_000)
			l := startLayer(t, bundle.ProtocolHTTP, nil)
			routing := Routing{Native: 2, Backends: backends(rawNode(t, "unix", func(c net.Conn, r *http.Request) bool {
				text := body
				if r.URL.Path == "/short" {
					text = ""
				}
				_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
				return err == nil
			}, func() {})), Objects: InProcess(map[bundle.Version]so.Object{1: so.Compatible()})}
			apply(t, l, routing)
			d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
			}}
			conn, err := d.DialContext(t.Context(), "tcp", l.versioned(1))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(hang))
			c := &rawCaller{conn.(*net.TCPConn), t, bufio.NewReader(conn)}
			var f *front
			eventually(t, "the connection", func() bool {
				all := l.services["api"].versioned[1].allFronts(false)
				if len(all) == 1 {
					f = all[0]
				}
				return len(all) == 1
			})
			if err := polled(f.conn).(*net.TCPConn).SetWriteBuffer(4096); err != nil {
				t.Fatal(err)
			}
			for range before {
				c.say(getOf("/short"))
				c.hear()
			}
			if before > 0 {
				eventually(t, "a connection in a lane", func() bool { return l.lanes.taken() == 1 })
			}
			c.say(getOf("/long"))
			eventually(t, "an answer that cannot be written", func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return f.answering && l.lanes.taken() == 0
			})
			routing.Objects = nil
			apply(t, l, routing)
			if _, got := c.hear(); got != body {
				t.Errorf("%d bytes of %d arrived", len(got), len(body))
			}
			if _, err := c.br.ReadByte(); err != io.EOF {
				t.Errorf("after it: %v, want the connection's end", err)
			}
		})
	}
}
