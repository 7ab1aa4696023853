package calls

import (
	"errors"
	"io"
	"os"
	"time"

	"moult/simlayer/relay"
	"moult/simlayer/stream"
	"moult/simlayer/wire"
)

// run takes one request after the other from the caller.
func (f *front) run() {
	for f.turn() {
	}
	f.mu.Lock()
	hand := f.core.Phase() == relay.Handing
	f.mu.Unlock()
	if hand {
		f.handOver()
		return
	}
	f.end()
}

// end closes everything, and returns when all has ended.
func (f *front) end() {
	f.mu.Lock()
	u, cancel := f.up, f.cancel
	f.up = nil
	f.mu.Unlock()
	if cancel != nil {
		cancel(errGone)
	}
	f.conn.Close()
	if u != nil {
		u.Close()
	}
	f.wg.Wait()
	f.mu.Lock()
	f.do(f.core.Finish())
	f.calls.buffers.Put(f.buf)
	f.port.remove(f)
	f.calls.Conns.Leave()
}

// turn takes one request on its way; false: none follows.
func (f *front) turn() bool {
	if f.n == 0 && !f.await() {
		return false
	}
	switch f.settle() {
	case relay.Pass:
		f.passOn()
		return false
	case relay.Discard:
		f.discard()
		return false
	case relay.Hand:
		return false
	}
	req, size, how := f.collect()
	switch how {
	case relay.More:
		return false
	case relay.HTTP2:
		return f.frames()
	case relay.Foreign, relay.TooLong:
		f.stay = how == relay.TooLong // so will the next ones be
		f.setHand()
		return false
	}
	return f.begin(req, size, how)
}

// await waits for the next bytes of the caller; false: none come.
func (f *front) await() bool {
	for {
		buf, n, err := f.in.Read(nil, 0)
		if err == nil {
			f.buf, f.n = buf, n
			return true
		}
		if !f.callerStops(err) {
			return false
		}
	}
}

// callerStops deals with a read from the caller that failed; true: go on.
func (f *front) callerStops(err error) bool {
	parting := f.parting()
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if late && !parting {
		open := f.calls.Gate.IsOpen()
		f.mu.Lock()
		d := f.core.Late(open)
		f.do(d)
		return d.Next != relay.Stop
	}
	f.mu.Lock()
	f.do(f.core.CallerEnded(!late && !errors.Is(err, io.EOF)))
	if f.settle() == relay.Pass {
		f.wg.Wait() // the node has not said all
	}
	if parting {
		f.part()
	}
	return false
}

// parting reports whether nothing more is heard of the caller: what is just bytes gives
// way to the next software.
func (f *front) parting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.core.Parting()
}

// part ends such a connection, once the node has said its last.
func (f *front) part() {
	f.mu.Lock()
	f.do(f.core.Finish())
	f.discard()
}

// settle waits until the caller's next bytes need not wait.
func (f *front) settle() relay.Turn {
	for {
		f.mu.Lock()
		turn, d := f.core.Ready()
		var settled chan struct{}
		if turn == relay.Wait {
			if f.settled == nil {
				f.settled = make(chan struct{})
			}
			settled = f.settled
		}
		f.do(d)
		if settled == nil {
			return turn
		}
		<-settled
	}
}

// discard waits for the caller to close a connection that was ended towards it.
func (f *front) discard() {
	stream.CloseWrite(f.conn)
	f.discardRest()
}

// discardRest is discard where the caller has been told already.
func (f *front) discardRest() {
	_ = f.conn.SetReadDeadline(time.Now().Add(linger))
	buf := f.buf
	if buf == nil {
		buf = f.calls.buffers.Get()
	}
	f.buf, f.n = nil, 0
	for {
		if _, _, err := f.in.Read(buf, 0); err != nil {
			f.calls.buffers.Put(buf)
			return
		}
	}
}

func (f *front) setHand() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.core.HandOver()
}

// collect reads the next request: its head, and a short body. size is how many of the
// bytes that are here belong to it. More: the caller gave up.
func (f *front) collect() (req wire.Request, size int, how relay.How) {
	timed := false
	defer func() {
		if timed {
			_ = f.conn.SetReadDeadline(time.Time{})
		}
	}()
	for {
		f.mu.Lock()
		req, size, how = f.core.Request((*f.buf)[:f.n], len(*f.buf), f.calls.Replay)
		f.mu.Unlock()
		if how != relay.More {
			return req, size, how
		}
		if size == 0 && !timed {
			timed = true
			t, _ := deadline(relay.Head)
			_ = f.conn.SetReadDeadline(t)
		}
		if size > len(*f.buf) {
			long := make([]byte, size)
			copy(long, (*f.buf)[:f.n])
			f.calls.buffers.Put(f.buf)
			f.buf = &long
		}
		_, n, err := f.in.Read(f.buf, f.n)
		f.n += n
		switch {
		case err == nil || size > 0 && f.spurious(err):
		case size > 0 || errors.Is(err, io.EOF):
			return req, 0, relay.Foreign
		default:
			return req, 0, relay.More
		}
	}
}

// spurious reports whether a read failed for a deadline that was not meant for
// it.
func (f *front) spurious(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || f.calls.Ctx.Err() != nil {
		return false
	}
	return f.conn.SetReadDeadline(time.Time{}) == nil
}

// passOn passes on all that the caller says, and waits until the node has said
// all too.
func (f *front) passOn() {
	u := f.upNow()
	if u == nil {
		return
	}
	err := error(nil)
	if f.n > 0 {
		_, err = u.conn.Write((*f.buf)[:f.n])
		f.consume(f.n)
	}
	if err == nil {
		err = stream.Pump(u.conn, f.conn, &f.in)
	}
	parting := f.parting()
	if parting && errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	if err != nil {
		stream.Reset(u.conn)
		stream.Reset(f.conn)
	} else {
		stream.CloseWrite(u.conn)
	}
	f.wg.Wait()
	if parting {
		f.part()
		return
	}
	f.mu.Lock()
	f.do(f.core.Finish())
}

// handOver gives the connection to the callProxy, with what has not passed on,
// and ends the front.
func (f *front) handOver() {
	f.mu.Lock()
	u, cancel := f.up, f.cancel
	f.up, f.cancel = nil, nil
	f.mu.Unlock()
	var before []byte
	if f.call.late {
		before = f.call.request
	}
	if u != nil {
		u.Close()
	}
	f.wg.Wait()
	if cancel != nil {
		cancel(nil)
	}
	_ = f.conn.SetReadDeadline(time.Time{})
	// The memory of before was the front's, which is no more.
	if f.n > 0 {
		before = append(before, (*f.buf)[:f.n]...)
		f.consume(f.n)
	}
	f.calls.Conns.Leave() // the server counts it
	c := &handed{Conn: f.conn, before: before, stay: f.stay}
	if f.call.patience.Spent() > 0 {
		waited := f.call.patience
		c.waited.Store(&waited)
	}
	f.port.count(&f.port.handed, 1)
	if !f.port.hand.give(c) {
		f.port.count(&f.port.handed, -1)
	}
	f.port.remove(f)
}
