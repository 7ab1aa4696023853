package simlayer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// tcpNode accepts connections and hands each to serve, which need not close it.
func tcpNode(t testing.TB, serve func(net.Conn)) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln
}

// sum answers, once its caller has said all, with how much that was.
func sum(c net.Conn) {
	n, err := io.Copy(io.Discard, c)
	if err == nil {
		fmt.Fprintf(c, "%d bytes", n)
	}
}

func dialLayer(t testing.TB, addr string) *net.TCPConn {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// wantReset wants a connection to be reset, which may be before Dial knows of it.
func wantReset(t testing.TB, addr, what string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", what, err)
	}
}

func TestRelayHalfClose(t *testing.T) {
	l := startLayer(t, bundle.ProtocolTCP, nil)
	node := tcpNode(t, sum)
	apply(t, l, Routing{Native: 1, Backends: backends(node.Addr().String()), Objects: InProcess(map[bundle.Version]so.Object{2: so.Compatible(), 3: so.Refuse("r")})})
	for _, addr := range []string{l.Addresses()["api"].Public, l.Addresses()["api"].Versions[2]} {
		c := dialLayer(t, addr)
		if _, err := c.Write(make([]byte, 1_000_000)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(c); string(data) != "1000000 bytes" {
			t.Errorf("%q, %v", data, err)
		}
	}
	// What is not compatible cannot be simulated by bytes.
	wantReset(t, l.Addresses()["api"].Versions[3], "a refused connection")
	eventually(t, "the counts", func() bool {
		s := l.Stats().Services["api"]
		return s[1].Calls == 1 && s[2].Calls == 1 && s[3].Denied == 1
	})
}

// A connection that breaks on one side breaks on the other.
func TestRelayReset(t *testing.T) {
	l := startLayer(t, bundle.ProtocolTCP, nil)
	node := tcpNode(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		stream.Reset(c)
	})
	apply(t, l, Routing{Native: 1, Backends: backends(node.Addr().String())})
	c := dialLayer(t, l.Addresses()["api"].Public)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the node's reset came as %v", err)
	}
}

// Connections are held while the node is down, and let in when it is up. What
// they say meanwhile is kept.
func TestRelayHolds(t *testing.T) {
	l := startLayer(t, bundle.ProtocolTCP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(tcpNode(t, sum).Addr().String())})
	first := dialLayer(t, l.Addresses()["api"].Public)
	eventually(t, "the first connection", func() bool { return l.Stats().InFlight == 1 })
	drained := make(chan error)
	go func() {
		_, err := l.Drain(t.Context())
		drained <- err
	}()
	eventually(t, "the gate closed", func() bool { return !l.gate.IsOpen() })
	second := dialLayer(t, l.Addresses()["api"].Public)
	fmt.Fprint(second, "hello")
	_ = second.CloseWrite()
	eventually(t, "the second connection held", func() bool { return l.Stats().Held == 1 })
	_ = first.CloseWrite()
	if data, _ := io.ReadAll(first); string(data) != "0 bytes" {
		t.Errorf("drained: %q", data)
	}
	first.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	apply(t, l, Routing{Native: 2, Backends: backends(tcpNode(t, sum).Addr().String())})
	if data, err := io.ReadAll(second); string(data) != "5 bytes" {
		t.Errorf("held: %q, %v", data, err)
	}

	// What is left when a drain runs out of time is the software's to end.
	eventually(t, "the second connection gone", func() bool { return l.Stats().InFlight == 0 })
	third := dialLayer(t, l.Addresses()["api"].Public)
	eventually(t, "the third connection", func() bool { return l.Stats().InFlight == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := l.Drain(ctx); n != 0 || err != nil {
		t.Errorf("%d cut, %v", n, err)
	}
	fmt.Fprint(third, "still here")
	_ = third.CloseWrite()
	if data, err := io.ReadAll(third); string(data) != "10 bytes" {
		t.Errorf("left over: %q, %v", data, err)
	}

	apply(t, l, Routing{Native: 2, Down: true, HoldTimeout: time.Millisecond})
	wantReset(t, l.Addresses()["api"].Public, "past the hold timeout")
	apply(t, l, Routing{Native: 2, Backends: backends(kit.ClosedPort(t)), HoldTimeout: time.Millisecond})
	wantReset(t, l.Addresses()["api"].Public, "software that does not listen")
}

// Swaps under connections that come and go: none is lost.
func TestRelaySwapUnderLoad(t *testing.T) {
	echo := func(c net.Conn) {
		for s := bufio.NewScanner(c); s.Scan(); {
			fmt.Fprintln(c, strings.ToUpper(s.Text()))
		}
	}
	l := startLayer(t, bundle.ProtocolTCP, nil)
	node := tcpNode(t, echo)
	apply(t, l, Routing{Native: 1, Backends: backends(node.Addr().String())})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var count atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := net.Dial("tcp", l.Addresses()["api"].Public)
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Fprintln(c, "hello")
				_ = c.(*net.TCPConn).CloseWrite()
				if data, err := io.ReadAll(c); string(data) != "HELLO\n" {
					t.Errorf("%q, %v", data, err)
				}
				c.Close()
				count.Add(1)
			}
		})
	}
	for n := range 15 {
		seen := count.Load()
		eventually(t, "connections", func() bool { return count.Load() > seen+8 || t.Failed() })
		if _, err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		node.Close()
		node = tcpNode(t, echo)
		apply(t, l, Routing{Native: bundle.Version(n + 2), Backends: backends(node.Addr().String())})
	}
	stop()
	wg.Wait()
}
