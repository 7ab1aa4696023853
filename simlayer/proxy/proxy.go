package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"

	"moult/simlayer/so"
)

// Config is what a Proxy needs to know.
type Config struct {
	// Host is whom calls are addressed to, for a transport that knows the way by
	// itself; "" leaves them where the caller has addressed them, as a forward proxy
	// does.
	Host string
	// Transport carries out a call; its context has what Serve was given.
	Transport http.RoundTripper
	// Modify, if not nil, may change an answer. It is not asked about refusals.
	Modify func(*http.Response) error
	// Refuse says with what a call is answered that failed with err. It may set
	// headers of the answer, and must panic with http.ErrAbortHandler where nobody
	// is there any more to be told.
	Refuse func(h http.Header, r *http.Request, err error) *so.Refusal
	Log    *slog.Logger
}

// Proxy passes on calls. It is safe for concurrent use.
type Proxy struct {
	cfg     Config
	reverse *httputil.ReverseProxy
}

// New makes a Proxy.
func New(cfg Config) *Proxy {
	p := &Proxy{cfg: cfg}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      roundTripper(p.roundTrip),
		ModifyResponse: p.modify,
		ErrorHandler:   p.refuse,
		BufferPool:     &bufferPool{},
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return p
}

// Serve answers a call. A body of at most replay bytes is read first, and can be
// sent again. It panics where the answer broke off after it had begun, as net/http
// wants it.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, c carried, replay int) {
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	body := &c.common().body
	defer body.end()
	err := body.take(w, r, replay)
	if err == nil && r.Method == http.MethodConnect {
		err = so.Fail(http.StatusNotImplemented, nil, "CONNECT is for proxies; this is a service of a node")
	}
	if path := callersPath(r.RequestURI); err == nil && p.cfg.Host != "" && strings.HasPrefix(path, "//") && path != r.URL.EscapedPath() {
		err = so.Fail(http.StatusBadRequest, nil, "the path begins with // and has characters that a path has only percent-encoded: it cannot be passed on as it is")
	}
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	w.Header()["Content-Type"] = nil // else the server would guess one where none is named
	if r.ProtoMajor == 1 {
		w = &exact{w}
	}
	p.reverse.ServeHTTP(w, r)
}

// exact keeps what the server leaves out of an answer: the Content-Type of 304.
type exact struct{ http.ResponseWriter }

// Unwrap is for http.ResponseController.
func (w *exact) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *exact) WriteHeader(status int) {
	h := w.Header()
	if kind := h["Content-Type"]; status == http.StatusNotModified && len(kind) > 0 {
		delete(h, "Content-Type")
		h["content-type"] = kind // the server looks for the usual form of names
	}
	w.ResponseWriter.WriteHeader(status)
}

// rewrite undoes what ReverseProxy changes and a caller would not see without it.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values := in.Header[name]; values != nil {
			out.Header[name] = values
		}
	}
	out.URL.RawQuery = in.URL.RawQuery
	out.Trailer = in.Trailer // filled while the body is read
	if p.cfg.Host == "" {
		return
	}
	// A path that is not in Go's own form goes on in the caller's.
	path := callersPath(in.RequestURI)
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") && path != out.URL.EscapedPath() {
		out.URL.Opaque = path
	}
	out.URL.Scheme, out.URL.Host = "http", p.cfg.Host
}

// callersPath is the path of a request as its caller has written it.
func callersPath(target string) string {
	if _, rest, whole := strings.Cut(target, "://"); whole && !strings.HasPrefix(target, "/") {
		target = rest[len(rest)-len(strings.TrimLeftFunc(rest, func(c rune) bool { return c != '/' && c != '?' })):]
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

// To returns r addressed to host. r stays as it is.
func To(r *http.Request, host string) *http.Request {
	if r.URL.Scheme == "http" && r.URL.Host == host {
		return r
	}
	u := *r.URL
	u.Scheme, u.Host = "http", host
	r = r.WithContext(r.Context())
	r.URL = &u
	return r
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *Proxy) roundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.cfg.Transport.RoundTrip(r)
	if err == nil {
		resp.Request = r // an object's answer may have another, or none
	}
	return resp, err
}

func (p *Proxy) modify(resp *http.Response) error {
	of(resp.Request.Context()).closeAfter(resp.Header)
	// ReverseProxy flushes every piece of a response of unknown length. A
	// FlushInterval of -1 would flush those without a body as well: their end then
	// follows in a frame of its own, and clients of gRPC take what was a status for a
	// header.
	if resp.ContentLength >= StreamFrom {
		resp.ContentLength = -1 // the header keeps it
	}
	if p.cfg.Modify != nil {
		return p.cfg.Modify(resp)
	}
	return nil
}

func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refusal := p.cfg.Refuse(w.Header(), r, err)
	of(r.Context()).closeAfter(w.Header())
	refusal.WriteTo(w, r)
}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, copyBuffer)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
