package stream

import (
	"net"
	"sync"
	"sync/atomic"
)

// Quota bounds how many connections are open at once. It is safe for concurrent
// use, and does not change but by Enter and Leave.
type Quota struct {
	most int64
	n    atomic.Int64
}

// NewQuota returns one for at most that many.
func NewQuota(most int) *Quota { return &Quota{most: int64(most)} }

// Enter counts one more, and reports whether there is room for it. Leave must
// follow in either case.
func (q *Quota) Enter() bool { return q.n.Add(1) <= q.most }

// Leave ends what Enter has begun.
func (q *Quota) Leave() { q.n.Add(-1) }

// Open is how many have entered and not left.
func (q *Quota) Open() int64 { return q.n.Load() }

// Set has connections that are to end with it. The zero Set is empty and open. It
// is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Add reports false, and closes c, if the set is closed.
func (s *Set) Add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	if s.conns == nil {
		s.conns = map[net.Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	return true
}

// Release takes c out and leaves it open.
func (s *Set) Release(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Remove takes c out and closes it.
func (s *Set) Remove(c net.Conn) {
	s.Release(c)
	c.Close()
}

// Close closes all that are in the set, or come later.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}
