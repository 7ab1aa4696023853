package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// outgoing is one call of the node.
type outgoing struct {
	proxy.Call
	dest    string         // host:port
	version bundle.Version // that the call is labelled with
	most    time.Duration  // that it may wait; 0 before its first wait
	waited  time.Duration  // so far
	outcome tally.Outcome
}

// label finds out which version the calling software speaks. Before the first
// routing nobody knows; the call waits, for without a label a peer would take it
// for one from outside.
func (p *Proxy) label(ctx context.Context, o *outgoing) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if o.version, _ = p.cfg.Label(); o.version != 0 {
			return nil
		}
		if err := p.wait(ctx, o, pause); err != nil {
			refusal := so.Fail(http.StatusServiceUnavailable, err, "the agent of this node has not yet found out which version the node runs: %v", err)
			refusal.RetryAfter = retryAfter
			return refusal
		}
	}
}

// resolve finds the address to dial.
func (p *Proxy) resolve(o *outgoing) (addr string, isPeer bool, err error) {
	addr, isPeer, err = p.cfg.Resolve(o.dest, o.version)
	switch {
	case !isPeer:
		return o.dest, false, nil
	case err != nil:
		return "", true, so.Fail(http.StatusBadGateway, err, "the peer at %s cannot be called by version %d: %v", o.dest, o.version, err)
	}
	return addr, true, nil
}

// notItself refuses a call that would come back for ever.
func (p *Proxy) notItself(dest string) error {
	if stream.SameAddr(p.listener.Addr(), dest) {
		return so.Fail(http.StatusLoopDetected, nil, "%s is this proxy itself", dest)
	}
	return nil
}

// connect dials the destination of a CONNECT, and again while a peer is briefly
// away.
func (p *Proxy) connect(ctx context.Context, o *outgoing) (net.Conn, error) {
	pause := minPause
	for {
		addr, isPeer, err := p.resolve(o)
		if err != nil {
			return nil, err
		}
		up, err := dial(ctx, "tcp", addr)
		if err == nil {
			return up, nil
		}
		if !isPeer || ctx.Err() != nil || p.wait(ctx, o, pause) != nil {
			return nil, o.unreachable(addr, isPeer, err)
		}
		pause = min(2*pause, maxPause)
	}
}

// unreachable is the refusal of a call that did not get through.
func (o *outgoing) unreachable(addr string, isPeer bool, err error) error {
	if !isPeer {
		return so.Fail(http.StatusBadGateway, err, "%s: %v", o.dest, err)
	}
	waited := ""
	if o.waited > 0 {
		waited = fmt.Sprintf(" for %v", o.waited.Round(time.Millisecond))
	}
	refusal := so.Fail(http.StatusBadGateway, err, "the peer at %s, at %s for version %d, did not answer%s: %v", o.dest, addr, o.version, waited, err)
	refusal.RetryAfter = retryAfter
	return refusal
}

// wait lets a call wait before it is tried again.
func (p *Proxy) wait(ctx context.Context, o *outgoing, pause time.Duration) error {
	if p.waiting.Add(1) > int64(p.cfg.Held) {
		p.waiting.Add(-1)
		return errTooMany
	}
	defer p.waiting.Add(-1)
	if o.most == 0 {
		_, o.most = p.cfg.Label()
	}
	if o.waited >= o.most {
		return errTooLong
	}
	began := time.Now()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	defer func() { o.waited += time.Since(began) }()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return errClosed
	}
}

var (
	errTooMany = errors.New("too many calls wait already")
	errTooLong = errors.New("it has waited too long")
	errClosed  = errors.New("the agent of this node ends")
)

// dial connects to wherever a call goes.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &proxy.DialError{Err: err}
	}
	return conn, nil
}
