package simlayer

import (
	"errors"
	"io"
	"net"
	"sync"
)

// buffers are what relayed connections read into while something passes.
type buffers struct {
	pool  sync.Pool
	leans leans
}

func (b *buffers) get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, relayBuffer)
	return &buf
}

// put takes a buffer back; nil, and one that was made longer, are let go.
func (b *buffers) put(buf *[]byte) {
	if buf != nil && len(*buf) == relayBuffer {
		b.pool.Put(buf)
	}
}

// moves reports whether the kernel can move bytes to this connection.
func moves(dst net.Conn) bool {
	_, ok := dst.(*net.TCPConn)
	return ok
}

// moveN moves n bytes in the kernel. Where src ends before, that is io.EOF.
func moveN(dst, src net.Conn, n int64) (int64, error) {
	moved, err := io.Copy(dst, io.LimitReader(src, n))
	if err == nil && moved < n {
		err = io.EOF
	}
	return moved, err
}

// pump copies from src, which in reads, to dst until src ends: small pieces as
// they are, a flow of large ones in the kernel.
func pump(dst, src net.Conn, in *reader) error {
	for large := 0; ; {
		buf, n, err := in.read(nil, 0)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		_, err = dst.Write((*buf)[:n])
		in.pool.put(buf)
		if err != nil {
			return err
		}
		if large++; n < relayBuffer {
			large = 0
		}
		if large < pumpLarge || !moves(dst) {
			continue
		}
		switch _, err := moveN(dst, src, spliceMost); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
