package simlayer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// hello is the greeting of a caller without authentication, and the beginning of
// a request for CONNECT.
const hello = "\x05\x01\x00\x05\x01\x00"

func socksName(host string, port int) string {
	return string(append(append([]byte{3, byte(len(host))}, host...), byte(port>>8), byte(port)))
}

func socksIP(t testing.TB, addr string) string {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	kind := "\x01"
	if a.Addr().Is6() {
		kind = "\x04"
	}
	return kind + string(a.Addr().AsSlice()) + string([]byte{byte(a.Port() >> 8), byte(a.Port())})
}

// overSOCKS returns a client that calls by the node's proxy.
func overSOCKS(t testing.TB, node *Layer) *http.Client {
	c := newClient(t)
	c.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "socks5h", User: node.EgressURL().User, Host: node.EgressURL().Host})
	return c
}

// What a call by SOCKS5 reaches is what one by HTTP reaches, with the same label.
func TestSOCKS(t *testing.T) {
	node, peer, _ := egressPair(t)
	c, second := overSOCKS(t, node), overSOCKS(t, node)
	if r := mustDo(t, c, "GET", publicURL(peer)+"/v1/keys/k", ""); strings.TrimSpace(r.body) != `{"f1":"v"}` {
		t.Errorf("as version 1: %d %s", r.status, r.body)
	}
	apply(t, node, Routing{Native: 2, Down: true})
	if r := mustDo(t, second, "GET", publicURL(peer)+"/v2/keys/k", ""); strings.TrimSpace(r.body) != `{"f2":"v"}` {
		t.Errorf("as version 2: %d %s", r.status, r.body)
	}
	if s := peer.Stats().Services["api"]; s[1].Calls != 1 || s[2].Calls != 1 {
		t.Errorf("the peer counted %+v", s)
	}
	apply(t, node, Routing{Native: 3, Down: true})
	if _, err := do(overSOCKS(t, node), "GET", publicURL(peer)+"/v3/keys/k", ""); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("as version 3: %v", err)
	}
	if _, err := do(c, "GET", "http://"+kit.ClosedPort(t), ""); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := do(c, "GET", node.EgressURL().String(), ""); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("the proxy by itself: %v", err)
	}
	c.CloseIdleConnections()
	second.CloseIdleConnections()
	eventually(t, "all are counted", func() bool { s := node.Stats().Egress; return s.Calls == 5 && s.Errors == 3 })
}

// The three forms of an address, with bytes that follow at once.
func TestSOCKSAddresses(t *testing.T) {
	node := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress = "127.0.0.1:0"
		c.Resolve = (&peers{}).resolve
	})
	apply(t, node, Routing{Native: 1, Down: true})
	echo := func(c net.Conn) { _, _ = io.Copy(c, c); c.Close() }
	four := tcpNode(t, echo)
	forms := map[string]string{
		"IPv4": socksIP(t, four.Addr().String()),
		"name": socksName("localhost", four.Addr().(*net.TCPAddr).Port),
		"IPv4 as IPv6": socksIP(t, netip.AddrPortFrom(netip.AddrFrom16(netip.MustParseAddr("127.0.0.1").As16()),
			uint16(four.Addr().(*net.TCPAddr).Port)).String()),
	}
	if six, err := net.Listen("tcp", "[::1]:0"); err == nil {
		go func() {
			if c, err := six.Accept(); err == nil {
				echo(c)
			}
		}()
		defer six.Close()
		forms["IPv6"] = socksIP(t, six.Addr().String())
	} else {
		t.Logf("no IPv6 here: %v", err)
	}
	for what, form := range forms {
		conn := dialLayer(t, node.EgressURL().Host)
		fmt.Fprint(conn, hello, form, "early ")
		fmt.Fprint(conn, "late")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(conn)
		if err != nil || !bytes.HasPrefix(data, []byte("\x05\x00\x05\x00\x00")) || !bytes.HasSuffix(data, []byte("early late")) {
			t.Errorf("%s: %q, %v", what, data, err)
		}
	}
}

// Bad input gets the reply that fits, or none where none fits, and an end.
func TestSOCKSBadInput(t *testing.T) {
	node, _, _ := egressPair(t)
	port := kit.ClosedPort(t)
	for _, c := range []struct{ what, in, out string }{
		{"no method that is here", "\x05\x02\x01\x02", "\x05\xff"},
		{"no method at all", "\x05\x00", "\x05\xff"},
		{"BIND", "\x05\x01\x00\x05\x02\x00" + socksIP(t, port), "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"UDP ASSOCIATE", "\x05\x01\x00\x05\x03\x00" + socksIP(t, port), "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"address type", hello + "\x02", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"request of version 4", "\x05\x01\x00\x04\x01\x00\x01", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"empty name", hello + socksName("", 80), "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"name with a zero byte", hello + socksName("a\x00b", 80), "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"half a greeting", "\x05\x03\x00", ""},
		{"half a request", hello + "\x01\x7f", "\x05\x00"},
		{"half a name", hello + "\x03\xffabc", "\x05\x00"},
	} {
		conn := dialLayer(t, node.EgressURL().Host)
		fmt.Fprint(conn, c.in)
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(conn); string(out) != c.out || err != nil {
			t.Errorf("%s: %q, %v, want %q", c.what, out, err, c.out)
		}
		conn.Close()
	}
	eventually(t, "no connection counts", func() bool { return node.conns.Open() == 0 })
}

// A peer that is briefly away is waited for; a caller that gives up ends its wait.
func TestSOCKSWaitsForPeer(t *testing.T) {
	var at sync.Map
	at.Store("addr", kit.ClosedPort(t))
	node := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress = "127.0.0.1:0"
		c.Resolve = func(string, bundle.Version) (string, bool, error) {
			a, _ := at.Load("addr")
			return a.(string), true, nil
		}
	})
	apply(t, node, Routing{Native: 1, Down: true})
	request := hello + socksName("peer", 7000)
	patient, other := dialLayer(t, node.EgressURL().Host), dialLayer(t, node.EgressURL().Host)
	fmt.Fprint(patient, request, "hi")
	fmt.Fprint(other, request)
	eventually(t, "both wait", func() bool { return node.out.Waiting() == 2 })
	other.Close()
	eventually(t, "one has given up", func() bool { return node.out.Waiting() == 1 && node.Stats().Egress.Canceled == 1 })
	peer := tcpNode(t, func(c net.Conn) { _, _ = io.CopyN(c, c, 2); c.Close() })
	at.Store("addr", peer.Addr().String())
	data, err := io.ReadAll(patient)
	if err != nil || !bytes.HasSuffix(data, []byte("hi")) {
		t.Errorf("%q, %v", data, err)
	}
	at.Store("addr", kit.ClosedPort(t))
	apply(t, node, Routing{Native: 1, Down: true, HoldTimeout: time.Millisecond})
	conn := dialLayer(t, node.EgressURL().Host)
	fmt.Fprint(conn, request)
	if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if reply, err := io.ReadAll(conn); err != nil || len(reply) != 10 || reply[1] != 5 /* connection refused */ {
		t.Errorf("a peer that stays away: %q, %v", reply, err)
	}
}

// The end of a layer ends calls by SOCKS5, whatever they are at.
func TestCloseEndsSOCKS(t *testing.T) {
	node, peer, _ := egressPair(t)
	var conns []net.Conn
	for _, sent := range []string{"", "\x05", hello, hello + socksIP(t, peer.Addresses()["api"].Public)} {
		conn := dialLayer(t, node.EgressURL().Host)
		fmt.Fprint(conn, sent)
		conns = append(conns, conn)
	}
	if _, err := io.ReadFull(conns[3], make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	node.Close()
	for i, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d lives", i)
		}
	}
	if n := node.conns.Open(); n != 0 {
		t.Errorf("%d connections still count", n)
	}
}

// Every connection counts from its beginning to its end, whatever it speaks, and
// past the bound there are none.
func TestEgressConnsBound(t *testing.T) {
	const bound = 4
	var node *Layer
	peer := tcpNode(t, func(c net.Conn) { _, _ = io.Copy(c, c); c.Close() })
	node = startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress, c.Resolve = "127.0.0.1:0", (&peers{}).resolve
		c.Limits = DefaultLimits()
		c.Limits.Conns = bound
	})
	apply(t, node, Routing{Native: 1, Down: true})
	dest := peer.Addr().String()
	var conns []net.Conn
	for i, sent := range []string{"", "\x05", hello + socksIP(t, dest), "CONNECT " + dest + " HTTP/1.1\r\nHost: x\r\n\r\n"} {
		conn := dialLayer(t, node.EgressURL().Host)
		fmt.Fprint(conn, sent)
		conns = append(conns, conn)
		eventually(t, "it counts", func() bool { return node.conns.Open() == int64(i+1) })
	}
	if resp, err := http.ReadResponse(bufio.NewReader(conns[3]), &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if n := node.conns.Open(); n != bound {
		t.Errorf("%d connections count, want %d: the tunnel is one", n, bound)
	}
	wantReset(t, node.EgressURL().Host, "one too many")
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "none counts", func() bool { return node.conns.Open() == 0 })
	c := overSOCKS(t, node)
	c.Transport.(*http.Transport).Proxy = http.ProxyURL(node.EgressURL())
	if r := mustDo(t, c, "GET", node.EgressURL().String(), ""); r.status != http.StatusLoopDetected {
		t.Errorf("afterwards: %+v", r)
	}
}
