//go:build !unix

package simlayer

import "net"

// reader reads from a connection. It is for one goroutine. On this system it
// holds a buffer while it waits.
type reader struct {
	pool *buffers
	conn net.Conn
}

func (r *reader) reads(conn net.Conn, pool *buffers) error {
	r.pool, r.conn = pool, conn
	return nil
}

// read reads some bytes behind the first have of buf, which must have room. With
// buf nil it takes one from the pool, which is then the caller's. On an error buf
// comes back as it was.
func (r *reader) read(buf *[]byte, have int) (*[]byte, int, error) {
	got := buf
	if got == nil {
		got = r.pool.get()
	}
	n, err := r.conn.Read((*got)[have:])
	if n > 0 {
		return got, n, nil
	}
	if buf == nil {
		r.pool.put(got)
		got = nil
	}
	return got, 0, err
}
