package stream

import (
	"io"
	"net"
	"sync"
)

// Splice copies both ways until both have ended, in the kernel between sockets. It
// passes on each end, a failure as a reset, and closes both. It reports whether both
// ended without an error.
func Splice(a, b net.Conn) bool {
	return Both(a, b,
		func() error { _, err := io.Copy(b, a); return err },
		func() error { _, err := io.Copy(a, b); return err })
}

// Both is Splice by other means: there copies from a to b, and back from b to a.
func Both(a, b net.Conn, there, back func() error) bool {
	var wg sync.WaitGroup
	var backErr error
	wg.Go(func() { backErr = half(a, b, back) })
	err := half(b, a, there)
	wg.Wait()
	a.Close()
	b.Close()
	return err == nil && backErr == nil
}

// half copies from src to dst and passes on how that ended.
func half(dst, src net.Conn, cp func() error) error {
	err := cp()
	if err == nil {
		CloseWrite(dst)
		return nil
	}
	Reset(dst)
	Reset(src)
	return err
}

// CloseWrite tells the other side that nothing more is said, where the connection can.
func CloseWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		// Where it fails, the other direction ends with the same error.
		_ = half.CloseWrite()
	}
}

// CloseRead has a connection end where what has come from the other side does: that is
// still read. Where it cannot, the connection is closed.
func CloseRead(c net.Conn) {
	if half, ok := c.(interface{ CloseRead() error }); !ok || half.CloseRead() != nil {
		c.Close()
	}
}

// Reset closes a connection so that the other side sees that it broke.
func Reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
