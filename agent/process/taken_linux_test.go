package process

import (
	"io"
	"net"
	"testing"
)

// A connection is taken when it has been accepted, and stays so when it was closed then.
func TestTaken(t *testing.T) {
	for name, at := range map[string]struct{ listen, dial string }{
		"IPv4":                {"127.0.0.1:0", "127.0.0.1"},
		"IPv6":                {"[::1]:0", "::1"},
		"IPv4, taken by both": {"[::]:0", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", at.listen)
			if err != nil {
				t.Skip(err)
			}
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c, err := net.Dial("tcp", net.JoinHostPort(at.dial, port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want := func(what string, want bool) {
				t.Helper()
				if ok, err := taken(c); ok != want || err != nil {
					t.Errorf("%s: taken %v, %v; want %v", what, ok, err, want)
				}
			}
			want("made", false)
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			want("accepted", true)
			peer.Close()
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Fatal(err)
			}
			want("closed", true)
		})
	}
}
