// Package serve is what the versions of line share and no caller sees: listening,
// and a clean end on SIGTERM.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// drain is how long calls may go on after the context has ended.
const drain = 10 * time.Second

// Inherited returns the listening socket that was handed over for a service, as
// socket activation has it (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES), or nil.
func Inherited(service string, getenv func(string) string) (net.Listener, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	count, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS: %w", err)
	}
	const first = 3
	for i, name := range strings.Split(getenv("LISTEN_FDNAMES"), ":") {
		if name == service && i < count {
			f := os.NewFile(uintptr(first+i), name)
			defer f.Close()
			return net.FileListener(f)
		}
	}
	return nil, nil
}

// Answer answers the next call on a connection. busy is called when the call has
// begun, so that a connection without one can be closed.
type Answer func(busy func()) error

// Serve accepts at ln, and answers with what open returns for each connection,
// until ctx ends: then calls that have begun are answered, and it returns.
func Serve(ctx context.Context, ln net.Listener, open func(net.Conn) Answer) error {
	s := &server{conns: map[*conn]bool{}}
	stopped := context.AfterFunc(ctx, func() {
		ln.Close()
		s.closeIdle()
	})
	defer stopped()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // the caller has gone, or too many files are open
		}
		s.work.Go(func() { s.serve(c, open) })
	}
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drain):
	}
	return nil
}

type server struct {
	work sync.WaitGroup

	mu     sync.Mutex
	ending bool
	conns  map[*conn]bool
}

type conn struct {
	net.Conn
	busy bool
}

func (s *server) serve(nc net.Conn, open func(net.Conn) Answer) {
	c := &conn{Conn: nc}
	defer nc.Close()
	answer := open(nc)
	for s.set(c, false) {
		if err := answer(func() { s.set(c, true) }); err != nil {
			break
		}
	}
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// set says whether c is in a call; false: it shall not begin another.
func (s *server) set(c *conn, busy bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = busy
	s.conns[c] = true
	return busy || !s.ending
}

func (s *server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for c := range s.conns {
		if !c.busy {
			c.Close()
		}
	}
}
