//go:build !unix

package stream

import "net"

// Reader reads from a connection. It is for one goroutine. On this system it
// holds a buffer while it waits.
type Reader struct {
	pool *Buffers
	conn net.Conn
}

// Start makes r read from conn.
func (r *Reader) Start(conn net.Conn, pool *Buffers) error {
	r.pool, r.conn = pool, conn
	return nil
}

// Read reads some bytes behind the first have of buf, which must have room. With
// buf nil it takes one from the pool, which is then the caller's. On an error buf
// comes back as it was.
func (r *Reader) Read(buf *[]byte, have int) (*[]byte, int, error) {
	got := buf
	if got == nil {
		got = r.pool.Get()
	}
	n, err := r.conn.Read((*got)[have:])
	if n > 0 {
		return got, n, nil
	}
	if buf == nil {
		r.pool.Put(got)
		got = nil
	}
	return got, 0, err
}

// Alive reports whether a connection can be used; here it is found out by using
// it.
func (r *Reader) Alive() bool { return true }
