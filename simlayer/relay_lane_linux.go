package simlayer

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lanes are those of one layer. The zero value has none yet.
type lanes struct {
	mu  sync.Mutex
	all []*lane // nil where one has ended
	at  int
}

// hasLanes: a lane keeps a processor of Go's while it waits for a moment, so others
// have to be there.
func hasLanes() bool { return runtime.GOMAXPROCS(0) > 1 }

// serve has a lane serve r, and returns when r is out of it again.
func (l *lanes) serve(r *rest) {
	for {
		switch added, err := l.pick().add(r); {
		case err != nil:
			return // all goes on without lanes
		case added:
			<-r.over
			return
		}
	}
}

// pick returns one lane after the other.
func (l *lanes) pick() *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make([]*lane, max(1, min(runtime.GOMAXPROCS(0)/2, maxLanes)))
	}
	l.at = (l.at + 1) % len(l.all)
	if one := l.all[l.at]; one == nil || one.hasEnded() {
		l.all[l.at] = &lane{}
	}
	return l.all[l.at]
}

// lane relays for many connections. It begins with the first and ends with the
// last of them.
type lane struct {
	mu    sync.Mutex
	fd    int // of its poller; fixed once it has begun
	seats []seat
	free  []int32
	begun bool
	ended bool

	workers []*worker // that have nothing to do; run's
	// writing are those whose calls have something to write; run's. Whoever is
	// woken by the first of many finds the others too, and sleeps less often.
	writing []*rest
}

// seat is the place of a connection in a lane. What is polled refers to it by
// number and turn: events of who had it before are to be known.
type seat struct {
	rest *rest
	turn int32
}

const noSeat = -1

func (l *lane) hasEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// add gives r a seat; false: the lane has ended.
func (l *lane) add(r *rest) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false, nil
	}
	if !l.begun {
		return l.begin(r)
	}
	return true, l.sit(r)
}

// begin starts the lane for r. mu is held.
func (l *lane) begin(r *rest) (ok bool, err error) {
	layer := r.front.layer
	if !layer.tasks.begin() {
		return false, ErrClosed
	}
	if l.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		if err = l.sit(r); err != nil {
			unix.Close(l.fd)
		}
	}
	if err != nil {
		layer.tasks.end()
		return false, err
	}
	l.begun = true
	go func() {
		defer layer.tasks.end()
		l.run(&layer.buffers)
	}()
	return true, nil
}

// sit gives r a seat. mu is held.
func (l *lane) sit(r *rest) error {
	if len(l.free) == 0 {
		l.free = append(l.free, int32(len(l.seats)))
		l.seats = append(l.seats, seat{})
	}
	at := l.free[len(l.free)-1]
	s := &l.seats[at]
	for i, fd := range []int{r.caller, r.node} {
		// Not edge-triggered, which would tell of an end that comes with the last
		// bytes only once; and nobody has to know when more can be written, which
		// a unix socket tells each time that its other side has read.
		e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: at<<1 | int32(i), Pad: s.turn}
		if err := unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
			if i > 0 {
				_ = unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, r.caller, nil) // it was added
			}
			return err
		}
	}
	l.free = l.free[:len(l.free)-1]
	s.rest, r.seat = r, at
	return nil
}

// of returns whom an event is for, or nil.
func (l *lane) of(e *unix.EpollEvent) *rest {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.seats[e.Fd>>1]
	if s.turn != e.Pad {
		return nil
	}
	return s.rest
}

// remove gives r back. It reports whether the lane has ended.
func (l *lane) remove(r *rest) bool {
	for _, fd := range []int{r.caller, r.node} {
		_ = unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, fd, nil) // both are there
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := r.seat
	s := &l.seats[at]
	s.rest, r.seat = nil, noSeat
	s.turn++
	l.free = append(l.free, at)
	l.ended = l.ended || len(l.free) == len(l.seats)
	close(r.over)
	return l.ended
}

// removeAll gives everybody back.
func (l *lane) removeAll() {
	l.mu.Lock()
	l.ended = true // nobody comes any more
	all := slices.Clone(l.seats)
	l.mu.Unlock()
	for _, s := range all {
		if s.rest != nil {
			l.remove(s.rest)
		}
	}
}

// run serves those who have seats until none has.
func (l *lane) run(pool *buffers) {
	defer unix.Close(l.fd)
	defer l.dismiss()
	events := make([]unix.EpollEvent, laneEvents)
	buf := make([]byte, relayBuffer)
	for {
		n, err := unix.EpollWait(l.fd, events, -1)
		if err != nil && err != unix.EINTR {
			l.removeAll()
			return
		}
		for i := range max(n, 0) {
			e := &events[i]
			r := l.of(e)
			if r != nil && !l.turn(r, e, buf, pool) && l.remove(r) {
				return
			}
			if len(l.writing) >= laneWrites && l.write() {
				return
			}
		}
		if l.write() {
			return
		}
	}
}

// turn does what an event asks for; false: r goes back to run and down.
func (l *lane) turn(r *rest, e *unix.EpollEvent, buf []byte, pool *buffers) bool {
	fromNode := e.Fd&1 == 1
	if e.Events != unix.EPOLLIN || fromNode != r.calling {
		return false
	}
	if r.work != nil {
		return l.goOn(r)
	}
	src, dst, take := r.caller, r.node, r.fromCaller
	if fromNode {
		src, dst, take = r.node, r.caller, r.fromNode
	}
	n, err := transfer(unix.SYS_READ, src, buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return true
	case err != nil || n == 0:
		return false // down or run will read the same
	}
	p := buf[:n]
	if !take(p) {
		r.heard, r.have = pool.get(), n
		copy(*r.heard, p)
		return false
	}
	if r.up.lean {
		return l.simulate(r)
	}
	if n = writeNow(dst, p); n == len(p) {
		return true
	}
	left := append([]byte(nil), p[n:]...)
	if fromNode {
		r.front.mu.Lock()
		r.front.answering = true // still
		r.front.mu.Unlock()
		r.toCaller = left
	} else {
		r.toNode = left
	}
	return false
}

// dupOf returns another descriptor for a connection.
func dupOf(c net.Conn) (fd int, ok bool) {
	sys, ok := c.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return 0, false
	}
	if over := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); over != nil || err != nil {
		return 0, false
	}
	return fd, true
}

// stopReading makes whoever polls fd find its end.
func stopReading(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) }

// transfer is read or write. Since neither waits here Go's scheduler is not told of
// them, which would cost half a microsecond a call. p is not empty.
func transfer(call uintptr, fd int, p []byte) (n int, err error) {
	done, _, no := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	if no != 0 {
		return 0, no
	}
	return int(done), nil
}
