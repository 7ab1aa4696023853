package packetstest

import (
	"net"
	"testing"
	"time"
)

// Max is more than the most that UDP carries, in bytes.
const Max = 1 << 16

// patience is how long an answer may take on a machine that does much else.
const patience = 10 * time.Second

// Node answers every datagram by its name and the datagram, at a host:port, until
// the test ends or stop is called.
func Node(t testing.TB, name, addr string) (at string, stop func()) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, Max)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(name), buf[:n]...), from)
		}
	}()
	stop = func() {
		c.Close()
		<-done
	}
	t.Cleanup(stop)
	return c.LocalAddr().String(), stop
}

// Dial returns a caller of addr, which hears nobody else.
func Dial(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// Send says text.
func Send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// Hear returns what is said next.
func Hear(c net.Conn) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, Max)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// Want marks the test as failed where anything else than want is said next.
func Want(t testing.TB, c net.Conn, want string) {
	t.Helper()
	if got, err := Hear(c); got != want || err != nil {
		t.Errorf("heard %.100q, %v, want %.100q", got, err, want)
	}
}
