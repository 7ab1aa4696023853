package simlayer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// errCaller marks an error of writing to the caller.
var errCaller = errors.New("the caller takes no more")

// refusalHeader is so.RefusalHeader, for the parser.
const refusalHeader = so.RefusalHeader

// down takes the answers of one connection after the other.
func (f *front) down(u *upstream) {
	for u != nil {
		u = f.upEnded(u, f.answers(u))
	}
}

// answer is where the answers of a connection stand.
type answer struct {
	head   *[]byte // part of a head
	have   int
	inBody bool
	body   wire.Body
	opaque bool
}

// answers passes on what u says until it ends.
func (f *front) answers(u *upstream) error {
	var a answer
	for {
		buf, n, err := u.in.read(a.head, a.have)
		if err != nil {
			f.layer.buffers.put(a.head)
			return err
		}
		n += a.have
		a.head, a.have = nil, 0
		err = f.answer(u, &a, buf, n)
		if a.head == nil {
			f.layer.buffers.put(buf)
		}
		if err != nil {
			return err
		}
		if a.opaque {
			return f.pumpDown(u)
		}
		if left := a.body.Left(); a.inBody && left >= spliceFrom && moves(f.conn) {
			if err := f.move(u, &a, left); err != nil {
				return err
			}
		}
	}
}

func (f *front) isOpaque() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ex.on && f.ex.opaque
}

// pumpDown passes on all that the node still says, whatever it is.
func (f *front) pumpDown(u *upstream) error {
	f.mu.Lock()
	f.ex.begun = true
	f.mu.Unlock()
	if err := pump(f.conn, u.conn, &u.in); err != nil {
		return err
	}
	return io.EOF
}

// answer passes on n bytes of the node. Where they end within a head it keeps
// buf for what follows.
func (f *front) answer(u *upstream, a *answer, buf *[]byte, n int) error {
	p := (*buf)[:n]
	f.mu.Lock()
	on, opaque, method, via := f.ex.on && f.ex.up == u, f.ex.opaque, f.ex.method, f.ex.via
	a.opaque = on && opaque
	if !on {
		u.last = true // nobody asked: it is about to close, perhaps
	}
	f.mu.Unlock()
	for len(p) > 0 {
		if !on || opaque {
			return f.write(p)
		}
		if !a.inBody {
			end := wire.HeadEnd(p, 0)
			if end < 0 && len(p) < len(*buf) {
				copy(*buf, p)
				a.head, a.have = buf, len(p)
				return nil
			}
			var marked []byte
			if via != 0 {
				marked = []byte(refusalHeader)
			}
			r, ok := wire.ParseResponse(p[:max(end, 0)], method, marked)
			switch {
			case !ok || r.Switched():
				return f.opaqueFrom(a, p)
			case r.Interim():
				if err := f.write(p[:end]); err != nil {
					return err
				}
				p = p[end:]
				continue
			}
			return f.firstPart(u, a, p, end, r)
		}
		return f.nextPart(a, p)
	}
	return nil
}

// opaqueFrom passes on what is no answer that can be followed: from here on there
// are just bytes.
func (f *front) opaqueFrom(a *answer, p []byte) error {
	a.inBody, a.opaque = false, true
	f.turnOpaque()
	return f.write(p)
}

// firstPart passes on the head of an answer, and what follows it.
func (f *front) firstPart(u *upstream, a *answer, p []byte, end int, r wire.Response) error {
	a.body, a.inBody = wire.NewBody(r.Body, r.Length), true
	n, ok := a.body.Feed(p[end:])
	if !ok || end+n < len(p) {
		return f.opaqueFrom(a, p)
	}
	var insert string
	f.mu.Lock()
	ex := &f.ex
	if r.Refusal != nil {
		ex.outcome = refusedBy(string(r.Refusal))
	}
	ex.toEnd = r.Body == wire.UntilClose
	switch {
	case r.Close:
		u.last = true
	case f.layer.gate.leaving.Load() || f.listener.leads():
		insert = "Connection: close\r\n"
		ex.closeAfter, u.last = true, true
	}
	f.mu.Unlock()
	parts := [][]byte{p}
	if insert != "" {
		parts = [][]byte{p[:end-2], []byte(insert), p[end-2:]}
	}
	return f.pass(a, parts...)
}

// nextPart passes on more of an answer's body.
func (f *front) nextPart(a *answer, p []byte) error {
	n, ok := a.body.Feed(p)
	if !ok || n < len(p) {
		return f.opaqueFrom(a, p)
	}
	return f.pass(a, p)
}

// pass writes parts of an answer. The exchange ends just before its last ones are
// written, so that nobody can know the answer and still find the call at the
// node: all of it has been read.
func (f *front) pass(a *answer, parts ...[]byte) error {
	if !a.body.Done() {
		return f.write(parts...)
	}
	a.inBody = false
	f.wmu.Lock()
	f.mu.Lock()
	f.ex.begun, f.ex.respDone = true, true
	both, o := f.ex.reqDone, f.ex.outcome
	f.answering = both
	f.mu.Unlock()
	if both {
		f.finish(o)
	}
	err := f.writeLocked(parts)
	closing := both && f.wrote()
	f.wmu.Unlock()
	if closing && err == nil {
		f.shut()
	}
	return err
}

// wrote notes that the last of an answer has been written, for which closeIdle does
// not wait. It reports whether the connection ends.
func (f *front) wrote() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answering = false
	if f.listener.retired.Load() && !f.ex.on && !f.taken {
		f.closing = true
	}
	return f.closing
}

// write writes to the caller.
func (f *front) write(parts ...[]byte) error {
	f.mu.Lock()
	f.ex.begun = true
	f.mu.Unlock()
	f.wmu.Lock()
	defer f.wmu.Unlock()
	return f.writeLocked(parts)
}

func (f *front) writeLocked(parts [][]byte) error {
	var err error
	switch len(parts) {
	case 0:
	case 1:
		_, err = f.conn.Write(parts[0])
	default:
		_, err = (*net.Buffers)(&parts).WriteTo(f.conn)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errCaller, err)
	}
	return nil
}

// move lets the kernel pass on the next left bytes of a body.
func (f *front) move(u *upstream, a *answer, left int64) error {
	if f.exToEnd() {
		return nil // of no known length
	}
	f.wmu.Lock()
	moved, err := moveN(f.conn, u.conn, left)
	f.wmu.Unlock()
	a.body.Skip(moved)
	switch {
	case errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %w", errCaller, err)
	case err != nil:
		return err
	case a.body.Done():
		return f.pass(a)
	}
	return nil
}

func (f *front) exToEnd() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ex.toEnd
}

// upEnded deals with the end of u, for err. It returns the connection by which
// the exchange is tried again, or nil.
func (f *front) upEnded(u *upstream, err error) *upstream {
	f.mu.Lock()
	ex := &f.ex
	current := f.up == u
	on := ex.on && ex.up == u
	opaque, cut, begun := on && ex.opaque, ex.cut, ex.begun
	whole := ex.request != nil && proxy.Safe(ex.method) && ex.tries+1 < maxTries
	unsafe := !proxy.Safe(ex.method)
	if current && !opaque {
		f.up = nil
	}
	gone, eof := f.gone, f.eof
	f.mu.Unlock()
	if opaque {
		f.opaqueEnded(u, err)
		return nil
	}
	u.close()
	switch {
	case !current && !on:
	case errors.Is(err, errCaller) && !on:
		f.breakOff()
	case errors.Is(err, errCaller):
		f.lose(tally.Canceled)
	case !on:
		f.idleEnded(u)
	case cut && begun:
		f.lose(tally.Failed)
	case cut:
		f.refuse(errCut)
	case gone || eof && !begun:
		f.lose(tally.Canceled)
	case begun:
		f.answerEnded(err)
	case whole:
		return f.again(err)
	default:
		f.refuse(explain(unsafe, err))
	}
	return nil
}

// lose ends the exchange, and the caller's connection so that it sees that it
// broke.
func (f *front) lose(o tally.Outcome) {
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	f.finish(o)
	stream.Reset(f.conn)
}

// breakOff ends the caller's connection after an exchange; run finds out.
func (f *front) breakOff() {
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	stream.Reset(f.conn)
}

// again tries the exchange once more.
func (f *front) again(err error) *upstream {
	f.mu.Lock()
	f.ex.tries++
	f.ex.up = nil
	f.ex.late = true // where it is handed over, the request goes along
	if f.ex.ctx == nil {
		f.ex.ctx, f.ex.cancel = context.WithCancelCause(f.layer.ctx)
	}
	f.mu.Unlock()
	return f.late(err)
}

// opaqueEnded passes on that the node has said all, or that the connection broke.
func (f *front) opaqueEnded(u *upstream, err error) {
	if errors.Is(err, io.EOF) {
		stream.CloseWrite(f.conn)
		return
	}
	stream.Reset(f.conn)
	u.conn.Close()
}

// answerEnded passes on the end of a node's connection in or after an answer.
func (f *front) answerEnded(err error) {
	if !errors.Is(err, io.EOF) {
		f.lose(tally.Failed)
		return
	}
	f.wmu.Lock()
	f.mu.Lock()
	o := f.ex.outcome
	if !f.ex.toEnd && !f.ex.respDone {
		o = tally.Failed
	}
	f.ex.closeAfter = true
	f.mu.Unlock()
	f.finish(o)
	f.wmu.Unlock()
	f.shut()
}

// idleEnded passes on that the node has closed an idle connection.
func (f *front) idleEnded(u *upstream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closing || f.hand || f.ex.on || f.taken:
	case u.last:
		f.closing = true
		f.shut()
	case !u.backend.left():
		f.grace = true
		_ = f.conn.SetReadDeadline(time.Now().Add(idleGrace))
	}
}

// dropIdle closes u if no exchange is on.
func (f *front) dropIdle(u *upstream) {
	f.mu.Lock()
	idle := f.up == u && !f.ex.on
	if idle {
		f.up = nil
	}
	f.mu.Unlock()
	if idle {
		u.close()
	}
}

// closeIdle closes the connection if no request is on its way; else the one that
// is becomes the last.
func (f *front) closeIdle() {
	f.mu.Lock()
	h := f.http2
	if h == nil && !f.ex.on && !f.taken && !f.answering {
		f.conn.Close()
	}
	f.mu.Unlock()
	if h != nil {
		h.drain()
	}
}

// explain makes the failure of a call at the node a refusal.
func explain(unsafe bool, err error) error { return proxy.Explain("the node", unsafe, err) }
