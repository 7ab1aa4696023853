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
