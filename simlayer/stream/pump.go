package stream

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Buffers are what relayed connections read into while something passes. The zero
// Buffers are ready; they are safe for concurrent use.
type Buffers struct{ pool sync.Pool }

// Get returns a buffer of BufferSize.
func (b *Buffers) Get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, BufferSize)
	return &buf
}

// Put takes a buffer back; nil, and one that was made longer, are let go.
func (b *Buffers) Put(buf *[]byte) {
	if buf != nil && len(*buf) == BufferSize {
		b.pool.Put(buf)
	}
}

// Moves reports whether the kernel can move bytes to this connection.
func Moves(dst net.Conn) bool {
	_, ok := dst.(*net.TCPConn)
	return ok
}

// Move moves n bytes in the kernel. Where src ends before, that is io.EOF.
func Move(dst, src net.Conn, n int64) (int64, error) {
	moved, err := io.Copy(dst, io.LimitReader(src, n))
	if err == nil && moved < n {
		err = io.EOF
	}
	return moved, err
}

// Pump copies from src, which in reads, to dst until src ends: small pieces as
// they are, a flow of large ones in the kernel.
func Pump(dst, src net.Conn, in *Reader) error {
	for large := 0; ; {
		buf, n, err := in.Read(nil, 0)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		_, err = dst.Write((*buf)[:n])
		in.pool.Put(buf)
		if err != nil {
			return err
		}
		if large++; n < BufferSize {
			large = 0
		}
		if large < pumpLarge || !Moves(dst) {
			continue
		}
		switch _, err := Move(dst, src, spliceMost); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// SpliceIdle is Splice for connections that may be idle for long.
func SpliceIdle(a, b net.Conn, pool *Buffers) bool {
	var ra, rb Reader
	if ra.Start(a, pool) != nil || rb.Start(b, pool) != nil {
		return Splice(a, b)
	}
	return Both(a, b,
		func() error { return Pump(b, a, &ra) },
		func() error { return Pump(a, b, &rb) })
}
