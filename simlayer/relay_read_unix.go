//go:build unix

package simlayer

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// reader reads from a connection, and holds no buffer while it waits. It is for
// one goroutine.
type reader struct {
	pool *buffers
	raw  syscall.RawConn
	try  func(fd uintptr) bool

	// The read that goes on.
	buf  *[]byte
	have int
	n    int
	err  error
}

// reads makes r read from conn.
func (r *reader) reads(conn net.Conn, pool *buffers) error {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("not a connection of the system")
	}
	raw, err := sys.SyscallConn()
	r.pool, r.raw, r.try = pool, raw, r.tryRead
	return err
}

// read reads some bytes behind the first have of buf, which must have room. With
// buf nil it takes one from the pool, which is then the caller's. On an error buf
// comes back as it was.
func (r *reader) read(buf *[]byte, have int) (*[]byte, int, error) {
	r.buf, r.have, r.n, r.err = buf, have, 0, nil
	err := r.raw.Read(r.try)
	got := r.buf
	r.buf = nil
	switch {
	case err != nil:
	case r.err != nil:
		err = os.NewSyscallError("read", r.err)
	case r.n == 0:
		err = io.EOF
	default:
		return got, r.n, nil
	}
	if buf == nil {
		r.pool.put(got)
		got = nil
	}
	return got, 0, err
}

func (r *reader) tryRead(fd uintptr) bool {
	buf := r.buf
	if buf == nil {
		buf = r.pool.get()
	}
	for {
		n, err := syscall.Read(int(fd), (*buf)[r.have:])
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if r.buf == nil {
				r.pool.put(buf)
			}
			return false
		}
		r.buf, r.n, r.err = buf, n, err
		return true
	}
}
