package egress

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
)

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.tasks.Begin() {
		panic(http.ErrAbortHandler)
	}
	defer p.tasks.End()
	defer p.uncount(r)
	if !p.admits(r) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="moult"`)
		so.AsRefusal(so.Fail(http.StatusProxyAuthRequired, nil, "this is the proxy of a node's own calls: it wants the credentials that stand in the environment of the node's software (HTTP_PROXY)")).WriteTo(w, r)
		return
	}
	o := &outgoing{outcome: tally.Failed}
	parent := r.Context()
	// Connections that were upgraded outlive the server, so they end with ctx.
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	r = r.WithContext(ctx)
	defer func() {
		if o.outcome == tally.Failed && parent.Err() != nil {
			o.outcome = tally.Canceled
		}
		p.count.End(o.outcome, o.waited)
	}()
	if err := p.forward(w, r, o); err != nil {
		p.refuse(o, r, err).WriteTo(w, r)
	}
}

// admits reports whether a call shows the credentials.
func (p *Proxy) admits(r *http.Request) bool {
	shown := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	user, password, _ := shown.BasicAuth()
	return p.known(user, password)
}

// forward carries out a call, or says why not.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, o *outgoing) error {
	if err := p.destination(o, r); err != nil {
		return err
	}
	if err := p.label(r.Context(), o); err != nil {
		return err
	}
	_, isPeer, err := p.resolve(o)
	if err != nil {
		return err
	}
	if r.Method == http.MethodConnect {
		return p.tunnel(w, r, o)
	}
	keep := 0
	if isPeer {
		keep = maxReplay
	}
	p.proxy.Serve(w, r, o, keep)
	return nil
}

// destination finds out where the node wants to call.
func (p *Proxy) destination(o *outgoing, r *http.Request) error {
	host, port := r.URL.Hostname(), r.URL.Port()
	switch {
	case r.Method == http.MethodConnect:
		host, port, _ = net.SplitHostPort(r.Host)
	case r.URL.Scheme == "" || host == "":
		return so.Fail(http.StatusBadRequest, nil, "this is the proxy for calls of a node to its peers; it needs a whole URL, as in GET http://peer:7000/")
	case r.URL.Scheme != "http":
		return so.Fail(http.StatusBadRequest, nil, "the proxy takes http:// URLs and CONNECT, not %.20s://", r.URL.Scheme)
	case port == "":
		port = "80"
	}
	o.dest = net.JoinHostPort(host, port)
	if host == "" || port == "" {
		return so.Fail(http.StatusBadRequest, nil, "CONNECT %.200q: want host:port", r.Host)
	}
	return p.notItself(o.dest)
}

// RoundTrip sends one call, and again while a peer is briefly away. It implements
// http.RoundTripper for the proxy.
func (p *Proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	o := proxy.Of[*outgoing](r.Context())
	pause := minPause
	for tries := 1; ; tries++ {
		addr, isPeer, err := p.resolve(o)
		if err != nil {
			return nil, err
		}
		out := proxy.To(r, addr).WithContext(r.Context())
		o.Renew(out)
		resp, err := p.transport.RoundTrip(out)
		if err == nil {
			o.outcome = tally.Answered
			return resp, nil
		}
		o.Sent(r.Method, err)
		again := o.Again(r.Context(), err) && (proxy.IsDialError(err) || tries < maxTries)
		if !isPeer || !again {
			return nil, o.unreachable(addr, isPeer, err)
		}
		if p.wait(r.Context(), o, pause) != nil {
			return nil, o.unreachable(addr, isPeer, err)
		}
		pause = min(2*pause, maxPause)
	}
}

// refusal says with what a call is answered that got no response.
func (p *Proxy) refusal(_ http.Header, r *http.Request, err error) *so.Refusal {
	return p.refuse(proxy.Of[*outgoing](r.Context()), r, err)
}

func (p *Proxy) refuse(o *outgoing, r *http.Request, err error) *so.Refusal {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	refusal := *so.AsRefusal(err)
	refusal.From = o.version
	p.cfg.Log.Debug("call of the node failed", "destination", o.dest, "status", refusal.Status, "err", &refusal)
	return &refusal
}

// tunnel carries out a CONNECT. It returns an error only while the caller can
// still be answered.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request, o *outgoing) error {
	up, err := p.connect(r.Context(), o)
	if err != nil {
		return err
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		up.Close()
		return so.Fail(http.StatusInternalServerError, err, "CONNECT: %v", err)
	}
	defer conn.Close()
	defer up.Close()
	if !p.tunnels.Add(conn) || !p.tunnels.Add(up) {
		return nil
	}
	defer p.tunnels.Remove(conn)
	defer p.tunnels.Remove(up)
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil
	}
	if _, err := io.Copy(up, bytes.NewReader(early)); err != nil {
		return nil
	}
	o.outcome = tally.Answered
	stream.Splice(conn, up)
	return nil
}

type connKey struct{}

// newServer returns the server of what speaks HTTP. Its connections are counted
// already; those that become tunnels count until these end.
func (p *Proxy) newServer() *http.Server {
	return &http.Server{
		Handler:                      p,
		ReadHeaderTimeout:            headTimeout,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateClosed:
				p.cfg.Quota.Leave()
			case http.StateHijacked:
				p.hijacked.Store(c, true)
			}
		},
	}
}

// uncount lets a connection that was a tunnel count no longer.
func (p *Proxy) uncount(r *http.Request) {
	if _, was := p.hijacked.LoadAndDelete(r.Context().Value(connKey{})); was {
		p.cfg.Quota.Leave()
	}
}
