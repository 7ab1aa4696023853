package simlayer

import (
	"io"
	"net"
	"strings"
	"testing"

	"moult/store/bundle"
)

// A node learns from its first release that a service is no HTTP: whoever calls
// then reaches the software byte for byte, at the same address.
func TestProtocolChanges(t *testing.T) {
	node, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	go func() {
		for {
			c, err := node.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello, no HTTP here\n") // speaks first
			c.Close()
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	public := free.Addr().String()
	free.Close()
	l, err := Start(Config{Services: map[string]Service{"api": {Public: public, Protocol: bundle.ProtocolHTTP}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := Routing{Native: 1, Backends: map[string]string{"api": node.Addr().String()}}
	if err := l.Apply(r); err != nil {
		t.Fatal(err)
	}
	r.Protocols = map[string]string{"api": "telepathy"}
	if err := l.Apply(r); err == nil || !strings.Contains(err.Error(), "telepathy") {
		t.Fatalf("a protocol that is not known: %v", err)
	}
	r.Protocols = map[string]string{"api": bundle.ProtocolTCP}
	if err := l.Apply(r); err != nil {
		t.Fatal(err)
	}
	a := l.Addresses()["api"]
	if a.Public != public {
		t.Errorf("the public address is %s, was %s", a.Public, public)
	}
	for _, addr := range []string{a.Public, a.Versions[1]} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(c)
		c.Close()
		if err != nil || string(said) != "hello, no HTTP here\n" {
			t.Errorf("%s says %q, %v", addr, said, err)
		}
	}
}
