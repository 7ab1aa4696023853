package simlayer

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// simulate begins r's call, and has it go on until it waits; false: r goes back to
// run, and the call with it, if it is not over.
func (l *lane) simulate(r *rest) bool {
	if n := len(l.workers); n > 0 {
		r.work, l.workers = l.workers[n-1], l.workers[:n-1]
	} else {
		r.work = newWorker()
	}
	r.work.call, r.work.req = r.call, r.req
	r.call = nil
	return l.goOn(r)
}

// goOn has r's call go on until it waits; false as with simulate.
func (l *lane) goOn(r *rest) bool {
	switch r.work.resume() {
	case pauseLeave:
		return false
	case pauseWrite:
		l.writing = append(l.writing, r)
	case pauseOver:
		w := r.work
		r.work, r.calling = nil, false
		if len(l.workers) < laneEvents {
			l.workers = append(l.workers, w)
		} else {
			w.stop()
		}
	}
	return true
}

// write has those go on that have something to write. It reports whether the lane
// has ended.
func (l *lane) write() bool {
	for i := 0; i < len(l.writing); i++ { // it may grow
		// One that has written before just looks for its node.
		if r := l.writing[i]; r.seat != noSeat && r.work != nil && !l.goOn(r) && l.remove(r) {
			return true
		}
	}
	clear(l.writing)
	l.writing = l.writing[:0]
	return false
}

// dismiss ends the coroutines.
func (l *lane) dismiss() {
	for _, w := range l.workers {
		w.stop()
	}
	l.workers = nil
}

// laneRead is read in a lane. Nothing, and no error: the call is in none any more.
func (c *lean) laneRead(buf *[]byte, have int) (*[]byte, int, error) {
	for {
		if c.pause(pauseNode); c.lane == nil {
			return nil, 0, nil
		}
		into := buf
		if into == nil {
			into = c.front.layer.buffers.get()
		}
		n, err := transfer(unix.SYS_READ, c.lane.node, (*into)[have:])
		if n > 0 {
			return into, n, nil
		}
		if buf == nil {
			c.front.layer.buffers.put(into)
		}
		switch err {
		case unix.EAGAIN, unix.EINTR:
			continue
		case nil:
			err = io.EOF
		default:
			err = os.NewSyscallError("read", err)
		}
		c.ground()
		return nil, 0, err
	}
}

// tell writes c.out to the node.
func (c *lean) tell(u *upstream) (n int, err error) {
	if c.lane != nil {
		c.pause(pauseWrite)
	}
	if c.lane != nil {
		if n = writeNow(c.lane.node, c.out); n == len(c.out) {
			return n, nil
		}
		c.watch() // the node may take its time to take it
	}
	more, err := u.conn.Write(c.out[n:])
	return n + more, err
}

// say writes to the caller.
func (c *lean) say(text []byte) error {
	if c.lane != nil {
		c.pause(pauseWrite)
	}
	if c.lane != nil {
		n := writeNow(c.lane.caller, text)
		if n == len(text) {
			return nil
		}
		c.ground()
		text = text[n:]
	}
	_, err := c.front.conn.Write(text)
	return err
}

// alive is reader.alive.
func (c *lean) alive(u *upstream) bool {
	if c.lane == nil {
		return u.in.alive()
	}
	_, err := transfer(unix.SYS_READ, c.lane.node, make([]byte, 1))
	return err == unix.EAGAIN
}

// writeNow writes what can be written now, and returns how much that was.
func writeNow(fd int, p []byte) int {
	if len(p) == 0 {
		return 0
	}
	n, err := transfer(unix.SYS_WRITE, fd, p)
	for err == unix.EINTR {
		n, err = transfer(unix.SYS_WRITE, fd, p)
	}
	return n
}
