package calls

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/relay"
	"moult/simlayer/routes"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/wire"
)

// RoundTrip makes a call of the chain's end by the front's connection. It
// implements http.RoundTripper.
func (c *simulation) RoundTrip(r *http.Request) (*http.Response, error) {
	var err error
	if c.via != 0 {
		if r, err = so.Hop(r, c.request.hops); err != nil {
			return nil, err
		}
	}
	if c.out, err = appendRequest(c.out[:0], r); err != nil {
		return nil, err
	}
	c.front.mu.Lock()
	c.front.core.SimulatedSends(proxy.Safe(r.Method) && !c.unsafe)
	lasts := c.front.core.Lasting() != relay.Ends
	c.front.mu.Unlock()
	c.front.stirIf(lasts)
	resp, err := c.roundTrip(r)
	if !proxy.Safe(r.Method) && (err == nil || !proxy.IsDialError(err) && !errors.Is(err, errBack)) {
		c.unsafe = true
	}
	return resp, err
}

// roundTrip sends the request that is in c.out. One that the node cannot have
// taken, since it closed a kept connection, is sent anew.
func (c *simulation) roundTrip(r *http.Request) (*http.Response, error) {
	u, kept, err := c.upstream(false)
	if err == nil && kept && !proxy.Safe(r.Method) && !u.in.Alive() {
		u, kept, err = c.upstream(true)
	}
	for {
		if err != nil {
			return nil, err
		}
		if len(c.out) >= stream.BufferSize {
			c.watch() // the node may take its time to take it
		}
		n, writeErr := u.conn.Write(c.out)
		resp, silent, readErr := c.response(u, r)
		if readErr == nil {
			return resp, nil
		}
		c.drop(u)
		if !kept || !silent || n > 0 && !proxy.Safe(r.Method) {
			return nil, cmp.Or(writeErr, readErr)
		}
		u, kept, err = c.upstream(true)
	}
}

// upstream returns the connection to the backend: the one that is kept, or a new
// one.
func (c *simulation) upstream(fresh bool) (u *upstream, kept bool, err error) {
	f := c.front
	f.mu.Lock()
	u = f.up
	kept = !fresh && u != nil && u.simulated && u.backend == c.backend && !u.last && f.call.began.Sub(u.used) < routes.IdleBackend
	if kept {
		u.last, u.used = true, f.call.began // the last, until it has been answered
	} else {
		f.up = nil
	}
	over := c.over()
	f.mu.Unlock()
	if kept && over == nil {
		return u, true, nil
	}
	if u != nil {
		u.Close()
	}
	if over != nil {
		return nil, false, over
	}
	if u, err = f.dial(c.ctx, c.backend); err != nil {
		return nil, false, err
	}
	f.mu.Lock()
	u.simulated, u.last, u.used = true, true, f.call.began
	if over = c.over(); over == nil {
		f.up = u
	}
	f.mu.Unlock()
	if over != nil {
		u.Close()
		return nil, false, over
	}
	return u, false, nil
}

// drop closes a connection.
func (c *simulation) drop(u *upstream) {
	c.front.mu.Lock()
	if c.front.up == u {
		c.front.up = nil
	}
	c.front.mu.Unlock()
	u.Close()
}

// keep lets another call go by u.
func (c *simulation) keep(u *upstream) {
	f := c.front
	f.mu.Lock()
	u.last, _ = f.core.Left()
	f.mu.Unlock()
}

// slow deals with a node that does not answer at once.
func (c *simulation) slow(u *upstream) {
	c.watch()
	u.deadline = time.Time{}
	_ = u.conn.SetReadDeadline(u.deadline)
}

// read reads from the node as reader.read does.
func (c *simulation) read(u *upstream, buf *[]byte, have int) (*[]byte, int, error) {
	// The deadline is not moved for every call: that would cost more than it is
	// worth.
	if began := c.front.call.began; c.alone && c.watching == nil && u.deadline.Before(began.Add(aloneAtMost)) {
		u.deadline = began.Add(4 * aloneAtMost)
		_ = u.conn.SetReadDeadline(u.deadline)
	}
	for {
		got, n, err := u.in.Read(buf, have)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return got, n, err
		}
		c.slow(u)
	}
}

// response reads the answer to a request. silent: none of it has come.
func (c *simulation) response(u *upstream, r *http.Request) (resp *http.Response, silent bool, err error) {
	buf, n, err := c.read(u, nil, 0)
	if err != nil {
		return nil, true, err
	}
	c.bufs = append(c.bufs, buf)
	end := wire.HeadEnd((*buf)[:n], 0)
	for end < 0 && n < len(*buf) {
		_, more, err := c.read(u, buf, n)
		if err != nil {
			return nil, false, ended(err)
		}
		end = wire.HeadEnd((*buf)[:n+more], n)
		n += more
	}
	head := (*buf)[:max(0, end)]
	framing, ok := wire.ParseResponse(head, r.Method, nil)
	a := c.memory()
	if !ok || framing.Status < 200 || framing.Body > wire.Sized || !a.read(framing, r, head) {
		resp, err = c.general(u, r, (*buf)[:n])
		return resp, false, err
	}
	c.sized(u, a, framing, buf, end, n)
	return &a.resp, false, nil
}

// ended is what a head that breaks off is.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// memory returns memory for an answer: all but the first have their own.
func (c *simulation) memory() *plainResponse {
	if !c.second {
		c.second = true
		return &c.answer
	}
	return &plainResponse{header: http.Header{}}
}

// sized gives an answer its body, of which what is in buf from start to n has
// come. A short one is read whole.
func (c *simulation) sized(u *upstream, a *plainResponse, framing wire.Response, buf *[]byte, start, n int) {
	length := int(min(framing.Length, MaxReplay)) // enough for what is compared
	var err error
	for n-start < length && length < proxy.StreamFrom && start+length <= len(*buf) && err == nil {
		var more int
		_, more, err = c.read(u, buf, n)
		n += more
	}
	switch here := n - start; {
	case here < length && err == nil:
		a.resp.Body = &nodeStream{call: c, up: u, here: (*buf)[start:n], left: framing.Length, keep: !framing.Close}
		return
	case here < length:
		c.drop(u)
		a.body = plainBody{data: (*buf)[start:n], err: ended(err)}
		a.resp.Body = &a.body
		return
	case here > length || framing.Close:
		c.drop(u)
	default:
		c.keep(u)
	}
	if length > 0 {
		a.body.set((*buf)[start : start+length])
		a.resp.Body = &a.body
	}
}

// nodeStream is a long body of known length.
type nodeStream struct {
	call *simulation
	up   *upstream // nil once it is done
	here []byte
	left int64
	keep bool // another call may follow
}

func (s *nodeStream) Read(p []byte) (int, error) {
	if s.up == nil || len(p) == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), s.left)]
	n, err := copy(p, s.here), error(nil)
	if s.here = s.here[n:]; n == 0 {
		n, err = (&nodeConn{s.call, s.up}).Read(p)
	}
	s.left -= int64(n)
	switch {
	case s.left == 0:
		if s.keep {
			s.call.keep(s.up)
		} else {
			s.call.drop(s.up)
		}
		s.up = nil
		return n, io.EOF
	case err != nil:
		return n, ended(err)
	}
	return n, nil
}

// Close implements io.Closer.
func (s *nodeStream) Close() error {
	if s.up != nil {
		s.call.drop(s.up)
		s.up = nil
	}
	return nil
}

// nodeConn reads from the node as a simulated call does.
type nodeConn struct {
	call *simulation
	up   *upstream
}

func (r *nodeConn) Read(p []byte) (int, error) {
	for {
		n, err := r.up.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		r.call.slow(r.up)
	}
}

// general reads an answer that is not plain by net/http. before has come of it.
func (c *simulation) general(u *upstream, r *http.Request, before []byte) (*http.Response, error) {
	here := bytes.NewReader(before)
	in := &io.LimitedReader{R: io.MultiReader(here, &nodeConn{c, u}), N: maxAnswerHead}
	br := bufio.NewReader(in)
	for {
		resp, err := http.ReadResponse(br, r)
		switch {
		case err != nil && in.N <= 0:
			return nil, fmt.Errorf("the head of the node's answer is over %d bytes", maxAnswerHead)
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			c.drop(u)
			resp.Body = http.NoBody
			return resp, nil
		case resp.StatusCode < 200:
			if err := c.interim(resp.StatusCode, resp.Header); err != nil {
				return nil, err
			}
			continue
		}
		if err := NamesFit(resp.Header); err != nil {
			return nil, err
		}
		in.N = 1<<63 - 1
		resp.Body = &nodeGeneral{call: c, up: u, here: here, br: br, body: resp.Body, keep: !resp.Close, untilEnd: resp.ContentLength < 0 && resp.TransferEncoding == nil}
		return resp, nil
	}
}

// nodeGeneral is a body that net/http reads.
type nodeGeneral struct {
	call *simulation
	up   *upstream // nil once it is done
	here *bytes.Reader
	br   *bufio.Reader
	body io.ReadCloser
	keep bool
	// untilEnd: nothing but the connection's end tells where the body ends.
	untilEnd bool
}

func (g *nodeGeneral) Read(p []byte) (int, error) {
	n, err := g.body.Read(p)
	if err == io.EOF && g.untilEnd && g.call.wasCut() {
		err = io.ErrUnexpectedEOF // it may have been we who ended it
	}
	if err == io.EOF && g.up != nil {
		if g.keep && g.br.Buffered()+g.here.Len() == 0 {
			g.call.keep(g.up)
		} else {
			g.call.drop(g.up)
		}
		g.up = nil
	}
	return n, err
}

// Close implements io.Closer.
func (g *nodeGeneral) Close() error {
	if g.up != nil {
		g.call.drop(g.up)
		g.up = nil
	}
	return nil
}
