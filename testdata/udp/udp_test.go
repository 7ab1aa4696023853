package udpkv

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// running starts something that serves until the test ends, or stop is called.
func running(t *testing.T, serve func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func startNode(t *testing.T, version int, state string) (addr string, stop func()) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n, err := openNode(version, state)
	if err != nil {
		t.Fatal(err)
	}
	return conn.LocalAddr().String(), running(t, func(ctx context.Context) error { return n.serve(ctx, conn) })
}

func startObject(t *testing.T, next string, from, to int) string {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	o := &object{conn: conn, next: next, from: wordsOf(from), to: wordsOf(to), reason: "no such call", callers: map[netip.AddrPort]net.Conn{}}
	running(t, o.serve)
	return conn.LocalAddr().String()
}

func dial(t *testing.T, version int, addr string) *Client {
	t.Helper()
	c, err := Dial(version, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAllVersions(t *testing.T) {
	state := t.TempDir()
	for version := oldest; version <= newest; version++ {
		addr, stop := startNode(t, version, state)
		for caller := oldest; caller <= newest; caller++ {
			at := addr
			if (caller < 3) != (version < 3) {
				at = startObject(t, addr, caller, version)
			}
			c := dial(t, caller, at)
			if err := c.Set("key", "a b  c "); err != nil {
				t.Error(version, caller, err)
			}
			if got, ok, err := c.Get("key"); got != "a b  c " || !ok || err != nil {
				t.Errorf("version %d, caller of %d: %q, %v, %v", version, caller, got, ok, err)
			}
			if _, ok, err := c.Get("none"); ok || err != nil {
				t.Error(version, caller, ok, err)
			}
			n, err := c.Count()
			if counts := version == 2 && caller != 3; counts && (n != "1" || err != nil) {
				t.Errorf("version %d, caller of %d: count %q, %v", version, caller, n, err)
			} else if !counts && version == 3 && caller != 3 && (err == nil || !strings.Contains(err.Error(), "denied")) {
				t.Errorf("version %d, caller of %d: count %q, %v", version, caller, n, err)
			}
		}
		stop()
	}
}

// A client that hears nothing asks again, and says in the end that it heard nothing.
func TestClientGivesUp(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := dial(t, 1, silent.LocalAddr().String())
	c.Patience = 5 * time.Millisecond
	if _, _, err := c.Get("key"); err == nil || c.Asked != c.Tries {
		t.Errorf("%v, asked %d times", err, c.Asked)
	}
}
