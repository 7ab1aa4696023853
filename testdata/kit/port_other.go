//go:build !unix

package kit

import (
	"net"
	"testing"
)

// ClosedPort returns an address on which nobody listens. Nothing keeps others from it here.
func ClosedPort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
