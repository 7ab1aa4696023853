package gossip

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// A peer without the gossip key gets in nowhere by what peers that have it sent it: not
// within a session that it passes on, nor with a proof of an earlier one, nor with a proof
// sent back to whom it comes from.
func TestProofsAreOfOneSession(t *testing.T) {
	cfg := testConfig(t, "n1")
	member := func() *gate {
		_, proofs, err := keysOf(cfg)
		if err != nil {
			t.Fatal(err)
		}
		g, err := newGate(testKey(t), cfg.Cluster, proofs)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	stranger, err := newGate(testKey(t), cfg.Cluster, nil) // its own proofs are worth nothing
	if err != nil {
		t.Fatal(err)
	}
	// dialled is a session with a member that dials; its proof comes first. accepted is one
	// with a member that accepts. result is what the member made of it.
	dialled := func() (session *tls.Conn, result chan error) {
		near, far := tcpPair(t)
		result = make(chan error, 1)
		go func() {
			_, _, err := member().dial(near, alpnPeer)
			result <- err
		}()
		return tls.Server(far, stranger.tlsConfig(alpnRing, alpnPeer)), result
	}
	accepted := func() (session *tls.Conn, result chan error) {
		near, far := tcpPair(t)
		result = make(chan error, 1)
		go func() {
			_, _, err := member().accept(near)
			result <- err
		}()
		return tls.Client(far, stranger.tlsConfig(alpnPeer)), result
	}
	read := func(c *tls.Conn) []byte {
		proof := make([]byte, proofSize)
		if _, err := io.ReadFull(c, proof); err != nil {
			t.Fatalf("reading a proof: %v", err)
		}
		return proof
	}
	write := func(c *tls.Conn, proof []byte) {
		if _, err := c.Write(proof); err != nil {
			t.Fatalf("sending a proof: %v", err)
		}
	}
	refused := func(what string, result chan error) {
		t.Helper()
		if err := <-result; !errors.Is(err, ErrForeign) {
			t.Errorf("%s: the member says %v, want ErrForeign", what, err)
		}
	}

	a, fromA := dialled()
	proof := read(a)
	for _, what := range []string{"passed on", "an earlier session's"} {
		b, toB := accepted()
		write(b, proof)
		refused(what, toB)
		if answer := read(b); !isZero(answer) {
			t.Errorf("%s: it was answered by a proof", what)
		}
	}
	write(a, proof)
	refused("sent back", fromA)

	// The whole of a session with a member that the stranger sits in the middle of.
	a, fromA = dialled()
	b, toB := accepted()
	write(b, read(a))
	refused("the dialer's, passed on", toB)
	write(a, read(b))
	refused("the answer to it, passed back", fromA)

	// What a member that accepts answers goes to nobody who has not proved itself; one that
	// was seen by a peer with the key is no proof elsewhere.
	near, far := tcpPair(t)
	done := make(chan error, 1)
	go func() {
		_, _, err := member().accept(near)
		done <- err
	}()
	insider := member()
	c := tls.Client(far, insider.tlsConfig(alpnPeer))
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	prove, _, err := insider.session(c)
	if err != nil {
		t.Fatal(err)
	}
	write(c, prove(insider.proofKeys[0], roleDialer))
	answer := read(c)
	if err := <-done; err != nil || isZero(answer) {
		t.Fatalf("a member was refused: %v", err)
	}
	a, fromA = dialled()
	read(a)
	write(a, answer)
	refused("another's answer", fromA)
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// tcpPair is one connection of the loopback interface.
func tcpPair(t *testing.T) (dialer, listener net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if dialer, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if listener, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{dialer, listener} {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return dialer, listener
}
