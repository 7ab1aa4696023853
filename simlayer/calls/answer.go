package calls

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
)

// errCaller marks an error of writing to the caller.
var errCaller = errors.New("the caller takes no more")

// down takes the answers of one connection after the other.
func (f *front) down(u *upstream) {
	for u != nil {
		u = f.upEnded(u, f.answers(u))
	}
}

// answers passes on what u says until it ends.
func (f *front) answers(u *upstream) error {
	var head *[]byte // a piece of one
	have := 0
	for {
		buf, n, err := u.in.Read(head, have)
		if err != nil {
			f.calls.buffers.Put(head)
			return err
		}
		n += have
		var after followed
		if have, after, err = f.answer(u, buf, n); have > 0 {
			head = buf
			continue
		}
		head = nil
		f.calls.buffers.Put(buf)
		switch {
		case err != nil:
			return err
		case after.opaque:
			if err := stream.Pump(f.conn, u.conn, &u.in); err != nil {
				return err
			}
			return io.EOF
		case after.certain >= stream.SpliceFrom && stream.Moves(f.conn):
			if err := f.move(u, after.certain); err != nil {
				return err
			}
		}
	}
}

// followed is what is known of the bytes that follow.
type followed struct {
	opaque  bool  // they pass whatever they are
	certain int64 // so many of them are certain to come, and pass
}

// answer passes on n bytes of the node that are in buf. Where they end within a head,
// it leaves that at the start of buf, and returns its length.
func (f *front) answer(u *upstream, buf *[]byte, n int) (have int, after followed, err error) {
	for p := (*buf)[:n]; len(p) > 0; {
		polite := f.calls.Gate.Leaving() || f.port.leads()
		f.mu.Lock()
		if f.up != u {
			f.mu.Unlock()
			return 0, after, routes.ErrLeft // nobody waits for it
		}
		part := f.core.Answer(p, len(p) == len(*buf), polite)
		after = followed{f.core.Phase() == relay.Opaque, f.core.Movable()}
		lasts := f.core.Lasting() >= relay.Streams && f.call.streams.IsZero()
		if lasts {
			f.call.streams = time.Now()
		}
		f.do(part.Do)
		f.stirIf(lasts)
		switch {
		case part.Keep:
			return copy(*buf, p), after, nil
		case part.Drop:
			return 0, after, routes.ErrLeft
		}
		if err := f.pass(part, p[:part.Pass]); err != nil {
			return 0, after, err
		}
		p = p[part.Pass:]
	}
	return 0, after, nil
}

// pass writes a part of an answer.
func (f *front) pass(part relay.Part, p []byte) error {
	var err error
	if part.Insert > 0 {
		parts := net.Buffers{p[:part.Insert], []byte(relay.CloseLine), p[part.Insert:]}
		_, err = parts.WriteTo(f.conn)
	} else if len(p) > 0 {
		_, err = f.conn.Write(p)
	}
	switch {
	case err != nil && part.Ends:
		f.lose(tally.Canceled)
	case part.Ends:
		f.wrote()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errCaller, err)
	}
	return nil
}

// move lets the kernel pass on the next bytes of a body.
func (f *front) move(u *upstream, certain int64) error {
	moved, err := stream.Move(f.conn, u.conn, certain)
	f.mu.Lock()
	part := f.core.Moved(moved)
	f.do(part.Do)
	switch {
	case errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %w", errCaller, err)
	case err != nil:
		return err
	}
	return f.pass(part, nil)
}

// upEnded deals with the end of u, for err. It returns the connection by which the
// call is tried again, or nil.
func (f *front) upEnded(u *upstream, err error) *upstream {
	why := relay.NodeBroke
	switch {
	case errors.Is(err, errCaller):
		why = relay.CallerBroke
	case errors.Is(err, io.EOF):
		why = relay.NodeClosed
	}
	f.mu.Lock()
	if f.up != u {
		f.mu.Unlock()
		u.Close()
		return nil
	}
	unsafe := !proxy.Safe(f.core.Method())
	d := f.core.NodeEnded(why, u.backend.Left())
	if f.core.Phase() != relay.Opaque {
		f.up = nil
		u.Close()
	}
	f.do(d)
	switch d.Next {
	case relay.Again:
		return f.again(err)
	case relay.RefuseCut:
		f.refuse(errCut)
	case relay.Refuse:
		f.refuse(explain(unsafe, err))
	}
	return nil
}

// again makes the call once more.
func (f *front) again(err error) *upstream {
	f.calls.Gate.Leave(&f.call.ticket)
	f.call.late = true // where it is handed over, the request goes along
	if f.call.ctx == nil {
		f.waits()
	}
	return f.late(err)
}
