package simlayer

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// sock is one connection of a front. While it is in a lane Go's poller does not
// know it: of its methods only Close and SetLinger may be called then, by anybody,
// and they take effect as soon as the lane has given it back.
type sock struct {
	net.Conn // changed with mu held, while neither run nor down uses it

	mu     sync.Mutex
	away   bool // from Go's poller
	fd     int  // the descriptor meanwhile
	closed bool // meanwhile
	hard   bool // meanwhile: closing is to reset it
}

// polled returns the connection that Go's own functions know how to treat.
func polled(c net.Conn) net.Conn {
	if s, ok := c.(*sock); ok {
		return s.Conn
	}
	return c
}

// unpoll takes s away from Go's poller, and returns its descriptor. false: it was
// closed before, or there are no descriptors left, and nothing has changed.
func (s *sock) unpoll() (fd int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd, ok = dupOf(s.Conn); !ok {
		return 0, false
	}
	s.away = true
	s.Conn.Close() // the descriptor goes on
	return s.fd, true
}

// poll undoes unpoll. A connection that could not be had again, or that was closed
// meanwhile, is closed.
func (s *sock) poll() {
	var conn net.Conn
	err := error(syscall.EMFILE)
	f := os.NewFile(uintptr(s.fd), "")
	for pause := minPause; err != nil && pause < cutGrace; pause *= 2 {
		if conn, err = net.FileConn(f); !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
			break
		}
		time.Sleep(pause) // some connection may end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Close()
	s.away = false
	if err != nil {
		return // the one that unpoll has closed stays
	}
	s.Conn = conn
	if s.hard {
		setLinger(conn)
	}
	if s.closed {
		conn.Close()
	}
	s.closed, s.hard = false, false
}

// Close implements net.Conn.
func (s *sock) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.away {
		return s.Conn.Close()
	}
	s.closed = true
	return stopReading(s.fd) // so the lane notices
}

// SetLinger makes the next Close a reset, where there is such a thing; sec is 0.
func (s *sock) SetLinger(int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		s.hard = true
	} else {
		setLinger(s.Conn)
	}
	return nil
}

// CloseWrite says that no more is sent.
func (s *sock) CloseWrite() error {
	closeWrite(s.Conn)
	return nil
}

func setLinger(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}
