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

	"moult/simlayer/calls"
	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

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
	stream.CloseWrite(c)
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

// The end of a connection that comes together with the last bytes is not lost,
// neither the caller's nor the node's.
func TestEnds(t *testing.T) {
	ways := map[string]func(testing.TB, string) *Layer{
		"relayed":   relayTo,
		"simulated": func(t testing.TB, addr string) *Layer { return simulated(t, addr, nil) },
	}
	for name, to := range ways {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				ended := make(chan struct{}, 256)
				l := to(t, lastNode(t, network, ended))
				for range 50 {
					callerEnds(t, l)
					comes(t, "the end at the node", ended)
					nodeEnds(t, l)
					comes(t, "the end at the node", ended)
				}
			})
		}
	}
}

// calledOnce makes a connection by which one call was made.
func calledOnce(t testing.TB, l *Layer) *rawCaller {
	c := rawTo(t, l.Addresses()["api"].Public)
	_ = c.SetDeadline(time.Now().Add(hang))
	c.say(getOf("/"))
	c.hear()
	return c
}

func callerEnds(t *testing.T, l *Layer) {
	c := calledOnce(t, l)
	sayLast(t, c.TCPConn, getOf("/"))
	if _, body := c.hear(); body != "ok" {
		t.Fatalf("%q", body)
	}
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Fatalf("after the last answer: %v, want the end", err)
	}
	eventually(t, "no connection", func() bool { return l.conns.Open() == 0 })
}

func nodeEnds(t *testing.T, l *Layer) {
	c := calledOnce(t, l)
	c.say(getOf("/last"))
	if _, body := c.hear(); body != "ok" {
		t.Fatalf("%q", body)
	}
	f := l.listeners()[0].Callers()[0]
	eventually(t, "the end known", func() bool { return !f.Linked() })
	c.say(strings.Replace(getOf("/"), "GET", "POST", 1))
	if _, body := c.hear(); body != "ok" {
		t.Fatalf("%q", body)
	}
	c.Close()
	eventually(t, "no connection", func() bool { return l.conns.Open() == 0 })
}

// An answer that the caller takes slowly arrives whole, though the address that it
// has called is given up meanwhile.
func TestRetireWhileAnswering(t *testing.T) {
	body := strings.Repeat("x", 15_000)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	routing := Routing{Native: 2, Backends: backends(rawNode(t, "unix", func(c net.Conn, _ *http.Request) bool {
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
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
	var f calls.Caller
	eventually(t, "the connection", func() bool {
		all := l.services["api"].versioned[1].Callers()
		if len(all) == 1 {
			f = all[0]
		}
		return len(all) == 1
	})
	if err := f.Conn().(*net.TCPConn).SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	c.say(getOf("/"))
	eventually(t, "an answer that cannot be written", func() bool {
		return f.Phase() == relay.Writing
	})
	routing.Objects = nil
	apply(t, l, routing)
	if _, got := c.hear(); got != body {
		t.Errorf("%d bytes of %d arrived", len(got), len(body))
	}
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Errorf("after it: %v, want the connection's end", err)
	}
}
