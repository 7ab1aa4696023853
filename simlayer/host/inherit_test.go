//go:build linux

package host

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"moult/simlayer/attach"
	"moult/store/bundle"
)

// TestBridgeReachesNode goes on to an address whose callers the agent holds, as it
// does while calls that are on end: it must reach the node. The planted bug is a
// connection like any caller's.
func TestBridgeReachesNode(t *testing.T) {
	if err := attach.Probe(attach.KindInherit); err != nil {
		t.Skip("sockets cannot be inherited here: ", err)
	}
	pair, err := attach.ListenPair(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	go says(pair.Agent(), "agent")
	f, err := pair.Node()
	if err != nil {
		t.Fatal(err)
	}
	node, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	go says(node, "node")
	b, err := newBridge(Service{Name: "api", Protocol: bundle.ProtocolTCP}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.lead(pair.Addr().String(), time.Minute)
	for addr, want := range map[string]string{b.addr: "node", pair.Addr().String(): "agent"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if err != nil && err != io.EOF || line != want+"\n" {
			t.Errorf("%s: %q, %v; want %s", addr, line, err, want)
		}
	}
}

// TestPacketBridgeReachesNode is TestBridgeReachesNode for UDP.
func TestPacketBridgeReachesNode(t *testing.T) {
	if err := attach.Probe(attach.KindInherit); err != nil {
		t.Skip("sockets cannot be inherited here: ", err)
	}
	pair, err := attach.ListenPair(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	go answers(pair.Packets(), "agent")
	f, err := pair.Node()
	if err != nil {
		t.Fatal(err)
	}
	node, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	go answers(node, "node")
	b, err := newBridge(Service{Name: "api", Protocol: bundle.ProtocolUDP}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.set(pair.Addr().String())
	for addr, want := range map[string]string{b.addr: "node", pair.Addr().String(): "agent"} {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 10)
		if n, err := c.Read(buf); string(buf[:n]) != want {
			t.Errorf("%s: %q, %v; want %s", addr, buf[:n], err, want)
		}
	}
}

// answers tells every caller by UDP a name, until the socket is closed.
func answers(pc net.PacketConn, name string) {
	buf := make([]byte, 10)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo([]byte(name), from)
	}
}

// says tells every caller a name, until the listener is closed.
func says(ln net.Listener, name string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, name)
		c.Close()
	}
}
