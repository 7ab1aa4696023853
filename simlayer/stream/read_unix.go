//go:build unix

package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Reader reads from a connection, and holds no buffer while it waits. It is for
// one goroutine.
type Reader struct {
	pool *Buffers
	raw  syscall.RawConn
	try  func(fd uintptr) bool

	// The read that goes on.
	buf  *[]byte
	have int
	n    int
	err  error
}

// Start makes r read from conn.
func (r *Reader) Start(conn net.Conn, pool *Buffers) error {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("not a connection of the system")
	}
	raw, err := sys.SyscallConn()
	r.pool, r.raw, r.try = pool, raw, r.tryRead
	return err
}

// Read reads some bytes behind the first have of buf, which must have room. With
// buf nil it takes one from the pool, which is then the caller's. On an error buf
// comes back as it was.
func (r *Reader) Read(buf *[]byte, have int) (*[]byte, int, error) {
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
		r.pool.Put(got)
		got = nil
	}
	return got, 0, err
}

func (r *Reader) tryRead(fd uintptr) bool {
	buf := r.buf
	if buf == nil {
		buf = r.pool.Get()
	}
	for {
		n, err := syscall.Read(int(fd), (*buf)[r.have:])
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if r.buf == nil {
				r.pool.Put(buf)
			}
			return false
		}
		r.buf, r.n, r.err = buf, n, err
		return true
	}
}

// Alive reports whether the other end has neither closed its connection nor said
// something unasked. Nobody may read meanwhile.
func (r *Reader) Alive() bool {
	var one [1]byte
	open := false
	err := r.raw.Control(func(fd uintptr) {
		_, err := syscall.Read(int(fd), one[:])
		open = err == syscall.EAGAIN
	})
	return err == nil && open
}
