package simlayer

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"moult/store/bundle"
)

// Who does not have the credentials of the node's software calls nowhere by its proxy, by
// any of the ways in which that is done.
func TestEgressSecret(t *testing.T) {
	reached := make(chan http.Header, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- r.Header
		fmt.Fprint(w, "there")
	})}
	peer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(peer) }()
	defer server.Close()
	const secret = "GR33NF1NCH"
	node := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress, c.EgressSecret, c.Resolve = "127.0.0.1:0", secret, (&peers{}).resolve
	})
	apply(t, node, Routing{Native: 1, Down: true})
	if got, want := node.EgressURL().User.String(), "moult:"+secret; got != want {
		t.Fatalf("the software is told %q, want %q", got, want)
	}
	for name, value := range node.EgressEnvironment() {
		if !strings.Contains(value, "://moult:"+secret+"@") {
			t.Errorf("%s=%s", name, value)
		}
	}
	host := node.EgressURL().Host
	for _, scheme := range []string{"http", "socks5"} {
		for _, c := range []struct {
			what string
			user *url.Userinfo
			in   bool
		}{
			{"the software's own", url.UserPassword("moult", secret), true},
			{"none", nil, false},
			{"another password", url.UserPassword("moult", "CH4FF1NCH0"), false},
			{"its beginning", url.UserPassword("moult", secret[:5]), false},
			{"more than it", url.UserPassword("moult", secret+"A"), false},
			{"another user", url.UserPassword("root", secret), false},
			{"the user alone", url.User("moult"), false},
			{"the password as user", url.UserPassword(secret, secret), false},
		} {
			client := newClient(t)
			client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme, User: c.user, Host: host})
			r, err := do(client, "GET", "http://"+peer.Addr().String(), "")
			in := err == nil && r.status == 200 && r.body == "there"
			if in != c.in || !in && err == nil && (r.status != 407 || r.header.Get("Proxy-Authenticate") == "" || !strings.Contains(r.body, "HTTP_PROXY")) {
				t.Errorf("%s, with %s: %d %s, %v", scheme, c.what, r.status, r.body, err)
			}
			select {
			case h := <-reached:
				if !c.in || h.Get("Proxy-Authorization") != "" {
					t.Errorf("%s, with %s: reached the peer, with %v", scheme, c.what, h)
				}
			default:
				if c.in {
					t.Errorf("%s, with %s: did not reach the peer", scheme, c.what)
				}
			}
			client.CloseIdleConnections()
		}
	}
	// Raw bytes that no client sends.
	connect := "CONNECT " + peer.Addr().String() + " HTTP/1.1\r\nHost: x\r\n"
	for what, c := range map[string]struct{ in, out string }{
		"CONNECT":                      {connect + "\r\n", "HTTP/1.1 407 "},
		"another scheme":               {connect + "Proxy-Authorization: Bearer " + secret + "\r\n\r\n", "HTTP/1.1 407 "},
		"for the server":               {connect + "Authorization: Basic bW91bHQ6R1IzM05GMU5DSA==\r\n\r\n", "HTTP/1.1 407 "},
		"two, of which one is right":   {connect + "Proxy-Authorization: Basic eDp5\r\nProxy-Authorization: Basic bW91bHQ6R1IzM05GMU5DSA==\r\n\r\n", "HTTP/1.1 407 "},
		"SOCKS5 as if none were asked": {hello + socksIP(t, peer.Addr().String()), "\x05\xff"},
		"SOCKS5, another version":      {"\x05\x01\x02\x05\x05moult\x0a" + secret, "\x05\x02"},
		"SOCKS5, half of them":         {"\x05\x01\x02\x01\x05moult\x0aGR33N", "\x05\x02"},
	} {
		conn := dialLayer(t, host)
		fmt.Fprint(conn, c.in)
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(out), c.out) || c.out[0] == 5 && string(out) != c.out {
			t.Errorf("%s: %q, %v, want %q", what, out, err, c.out)
		}
		conn.Close()
	}
	// A tunnel is counted when it has ended.
	eventually(t, "no connection counts", func() bool { return node.conns.Open() == 0 })
	if s := node.Stats().Egress; s.Calls != 2 {
		t.Errorf("%d calls count, want those of the software", s.Calls)
	}
}
