package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"moult/simlayer/stream"
	"moult/simlayer/tally"
)

// socks serves one connection of SOCKS5. It returns when the connection is of no
// more use; the caller closes it.
func (p *Proxy) socks(conn net.Conn, deadline time.Time) {
	o := &outgoing{outcome: tally.Failed}
	_ = conn.SetDeadline(deadline) // if it is broken, reading says so
	known := p.known
	if p.cfg.Secret == "" {
		known = nil
	}
	var asked error
	if o.dest, asked = readSOCKS(conn, known); asked != nil {
		var reply *socksError
		if errors.As(asked, &reply) {
			_ = answerSOCKS(conn, reply.reply, nil) // nobody else is left to tell
		}
		lingerClose(conn)
		p.cfg.Log.Debug("bad call by SOCKS5", "err", asked)
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	gone := watchEnd(conn, cancel)
	up, err := p.socksConnect(ctx, o)
	defer func() {
		p.count.End(o.outcome, o.waited)
	}()
	if gone() && p.ctx.Err() == nil {
		o.outcome = tally.Canceled
		if err == nil {
			up.Close()
		}
		return
	}
	if err != nil {
		p.cfg.Log.Debug("call of the node failed", "destination", o.dest, "by", "SOCKS5", "err", err)
		_ = conn.SetDeadline(time.Now().Add(replyTimeout))
		_ = answerSOCKS(conn, replyFor(err), nil) // nobody else is left to tell
		lingerClose(conn)
		return
	}
	defer up.Close()
	if !p.tunnels.Add(up) {
		return
	}
	defer p.tunnels.Remove(up)
	_ = conn.SetDeadline(time.Now().Add(replyTimeout))
	if err := answerSOCKS(conn, socksSucceeded, up.LocalAddr()); err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	o.outcome = tally.Answered
	stream.Splice(conn, up)
}

// socksConnect dials the destination, by the same rules as CONNECT.
func (p *Proxy) socksConnect(ctx context.Context, o *outgoing) (net.Conn, error) {
	if err := p.notItself(o.dest); err != nil {
		return nil, &socksError{socksNotAllowed, err}
	}
	if err := p.label(ctx, o); err != nil {
		return nil, err
	}
	if _, _, err := p.resolve(o); err != nil {
		return nil, &socksError{socksNotAllowed, err}
	}
	return p.connect(ctx, o)
}

// watchEnd cancels when the caller goes away while it waits. The function that it
// returns ends the watch and reports whether the caller has gone; what the caller
// has sent meanwhile is still there.
func watchEnd(conn net.Conn, cancel context.CancelFunc) (gone func() bool) {
	_ = conn.SetReadDeadline(time.Time{}) // the wait has bounds of its own
	ended := make(chan bool, 1)
	go func() {
		_, err := firstByte(conn)
		var timeout net.Error
		left := err != nil && !(errors.As(err, &timeout) && timeout.Timeout())
		if left {
			cancel()
		}
		ended <- left
	}()
	return func() bool {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends the watch
		left := <-ended
		_ = conn.SetReadDeadline(time.Time{})
		return left
	}
}

// lingerClose ends the connection so that the caller reads the last reply, even
// where something that it has sent was not read.
func lingerClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(linger))
		_, _ = io.CopyN(io.Discard, conn, maxLinger)
	}
}
