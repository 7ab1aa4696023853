package egress

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// Config is what a Proxy needs to know.
type Config struct {
	// Addr is the host:port to listen on. Port 0 is any free port.
	Addr string
	// Listen makes its listener; nil: by package stream.
	Listen func(addr string) (*net.TCPListener, error)
	// Secret is what callers must show, as the password of User; "" lets all call.
	Secret string
	// Resolve finds a peer's service: dest is the host:port that the node calls. If
	// that is the public address of a peer's service, isPeer is true and addr is
	// that peer's address for callers of version v; err says why there is none, in
	// words for the caller. It is called concurrently and must not block.
	Resolve func(dest string, v bundle.Version) (addr string, isPeer bool, err error)
	// Label returns the version of the calling software, 0 while nobody knows, and
	// how long a call may wait. It is called concurrently and must not block.
	Label func() (v bundle.Version, hold time.Duration)
	// Quota bounds the connections together with others.
	Quota Quota
	// Held bounds the calls that wait at once.
	Held int
	Log  *slog.Logger
}

// Proxy is the proxy for the node's own calls. It is safe for concurrent use.
type Proxy struct {
	cfg       Config
	listener  net.Listener
	front     *front
	server    *http.Server
	transport *http.Transport
	proxy     *proxy.Proxy

	// ctx ends with Close.
	ctx      context.Context
	stop     context.CancelFunc
	tasks    stream.Tasks
	tunnels  stream.Set
	hijacked sync.Map // connections of the server that are tunnels

	waiting atomic.Int64
	count   tally.Counter
}

// Start listens, and serves until Close.
func Start(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg}
	p.ctx, p.stop = context.WithCancel(context.Background())
	listen := cfg.Listen
	if listen == nil {
		listen = func(addr string) (*net.TCPListener, error) { return stream.Listen(p.ctx, addr) }
	}
	var err error
	if p.listener, err = listen(cfg.Addr); err != nil {
		p.stop()
		return nil, err
	}
	p.front = newFront(p.listener)
	p.transport = &http.Transport{
		DialContext:           dial,
		DisableCompression:    true,
		MaxIdleConns:          maxIdle,
		MaxIdleConnsPerHost:   maxIdlePerHost,
		IdleConnTimeout:       idleTimeout,
		ExpectContinueTimeout: time.Second,
	}
	p.proxy = proxy.New(proxy.Config{Transport: p, Refuse: p.refusal, Log: cfg.Log})
	p.server = p.newServer()
	for _, serve := range []func() error{func() error { return p.server.Serve(p.front) }, p.accept} {
		p.tasks.Go(func() {
			if err := serve(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				cfg.Log.Error("egress proxy failed", "address", p.listener.Addr().String(), "err", err)
			}
		})
	}
	return p, nil
}

// Close ends all calls, and returns when everything that the proxy started has
// ended. It may be called again.
func (p *Proxy) Close() {
	p.stop()
	none := p.tasks.Close()
	p.server.Close()
	p.front.Close() // the server may not have begun
	p.tunnels.Close()
	p.transport.CloseIdleConnections()
	<-none
}

// Stop accepts no more connections, and Finish waits for the calls that are on, or until
// ctx ends; not for tunnels. Both are for before Close.
func (p *Proxy) Stop() { p.listener.Close() }

// Finish is told of at Stop.
func (p *Proxy) Finish(ctx context.Context) { _ = p.server.Shutdown(ctx) }

// Addr returns where the proxy listens.
func (p *Proxy) Addr() net.Addr { return p.listener.Addr() }

// Calls returns what the proxy has carried out.
func (p *Proxy) Calls() tally.Calls { return p.count.Load() }

// Waiting is how many calls wait now, for a label or for a peer.
func (p *Proxy) Waiting() int64 { return p.waiting.Load() }

// URL is what is to be called by, with the credentials.
func (p *Proxy) URL(scheme string) *url.URL {
	u := &url.URL{Scheme: scheme, Host: p.Addr().String()}
	if p.cfg.Secret != "" {
		u.User = url.UserPassword(User, p.cfg.Secret)
	}
	return u
}

// known reports whether credentials are those that callers must have.
func (p *Proxy) known(user, password string) bool {
	return p.cfg.Secret == "" || subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(User+":"+p.cfg.Secret)) == 1
}

// Environment returns the environment that has programs call by the proxy: those of
// HTTP by absolute URLs, those of HTTPS and gRPC by CONNECT, and others by SOCKS5,
// with names unresolved.
func (p *Proxy) Environment() map[string]string {
	byHTTP, bySOCKS := p.URL("http").String(), p.URL("socks5h").String()
	env := map[string]string{}
	for name, value := range map[string]string{"HTTP_PROXY": byHTTP, "HTTPS_PROXY": byHTTP, "ALL_PROXY": bySOCKS} {
		env[name] = value
		env[strings.ToLower(name)] = value
	}
	return env
}
