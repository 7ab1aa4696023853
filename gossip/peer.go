package gossip

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"moult/store/bundle"
)

// A Peer says whom to call: a node by its identity, at the address that the
// ring or Addr gives; or, with a zero ID, whichever node of this cluster
// answers at Addr.
type Peer struct {
	ID   bundle.NodeID
	Addr string // host:port; may be empty when ID is a member's
}

func (p Peer) String() string {
	if p.ID.IsZero() {
		return "peer at " + p.Addr
	}
	if p.Addr == "" {
		return "peer " + p.ID.Short()
	}
	return "peer " + p.ID.Short() + " at " + p.Addr
}

type contextKey int

const (
	keyPeerID contextKey = iota // of the caller of a Handler
	keyDialed                   // the Peer of an outbound request
)

// PeerID returns the identity of the node that sent a request to
// Config.Handler, as its TLS key proved it.
func PeerID(ctx context.Context) (bundle.NodeID, bool) {
	id, ok := ctx.Value(keyPeerID).(bundle.NodeID)
	return id, ok
}

// SourceOf returns the address that a request to Config.Handler came from, or the network
// that one host has of IPv6.
func SourceOf(r *http.Request) netip.Prefix { return sourceOf(r.RemoteAddr) }

// newClient makes one lane of requests to peers. Its connections are kept for
// reuse, apart for each peer.
func (g *Gossip) newClient(connsPerPeer int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            g.dialPeer,
			MaxConnsPerHost:        connsPerPeer,
			MaxIdleConnsPerHost:    connsPerPeer,
			MaxIdleConns:           256,
			IdleConnTimeout:        idleTimeout - 10*time.Second, // before the server's
			ResponseHeaderTimeout:  responseHeaderTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// hostOf names a peer in a URL, so that connections are pooled by who answers.
func hostOf(p Peer) string {
	if p.ID.IsZero() {
		return p.Addr
	}
	return p.ID.String()
}

// dialPeer serves http.Transport. The request's context says whom to dial.
func (g *Gossip) dialPeer(ctx context.Context, _, _ string) (net.Conn, error) {
	p, ok := ctx.Value(keyDialed).(Peer)
	if !ok {
		return nil, errors.New("request to no peer")
	}
	addr := p.Addr
	if addr == "" {
		for _, m := range g.Members() {
			if m.ID == p.ID {
				addr = m.Addr
			}
		}
		if addr == "" {
			return nil, fmt.Errorf("%s is not a member of the ring", p)
		}
	}
	s, err := g.transport.open(ctx, addr, alpnPeer, p.ID)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Do sends a request to a peer's Config.Handler, by the URL's path and query
// alone. It follows no redirects. The caller closes the response's body and
// bounds what it reads from it; Close of g ends requests in progress.
func (g *Gossip) Do(ctx context.Context, p Peer, req *http.Request) (*http.Response, error) {
	return g.send(ctx, g.working, p, req)
}

func (g *Gossip) send(ctx context.Context, lane *http.Client, p Peer, req *http.Request) (*http.Response, error) {
	if g.ctx.Err() != nil {
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, ErrClosed)
	}
	if p.ID == g.self {
		return nil, fmt.Errorf("%s %s: the peer is this agent itself", req.Method, req.URL.Path)
	}
	r := req.Clone(context.WithValue(ctx, keyDialed, p))
	r.URL.Scheme, r.URL.Host, r.Host, r.RequestURI = "http", hostOf(p), "", ""
	resp, err := lane.Do(r)
	if err != nil {
		var failed *openFailure
		if errors.As(err, &failed) {
			return nil, failed
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // its address would be the node ID
		}
		return nil, fmt.Errorf("%s: %s %s: %w", p, req.Method, req.URL.Path, err)
	}
	return resp, nil
}

// A refusal is a peer's answer other than 200.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("refused (%d): %s", r.status, r.text) }

// call sends a request on the lane of anti-entropy and reads the whole answer.
// It returns who answered.
func (g *Gossip) call(ctx context.Context, p Peer, method, path string, body []byte, limit int64) ([]byte, bundle.NodeID, error) {
	var answered bundle.NodeID
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { answered = info.Conn.(*stream).id },
	})
	req, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return nil, bundle.NodeID{}, err
	}
	resp, err := g.send(ctx, g.syncing, p, req)
	if err != nil {
		return nil, bundle.NodeID{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		err = fmt.Errorf("reading the answer: %w", err)
	case int64(len(data)) > limit:
		err = fmt.Errorf("the answer is longer than %d bytes", limit)
	case resp.StatusCode != http.StatusOK:
		err = &refusal{resp.StatusCode, strings.TrimSpace(string(data[:min(len(data), 500)]))}
	}
	if err != nil {
		return nil, answered, fmt.Errorf("%s: %s %s: %w", p, method, path, err)
	}
	return data, answered, nil
}

// callJSON is call with a JSON question and a JSON answer.
func (g *Gossip) callJSON(ctx context.Context, p Peer, path string, in, out any, limit int64) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p, path, err)
	}
	data, _, err := g.call(ctx, p, http.MethodPost, path, body, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s: %s: the answer: %w", p, path, err)
	}
	return nil
}

// newServer serves peers: anti-entropy and, behind it, Config.Handler.
func (g *Gossip) newServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathHello, g.serveHello)
	mux.HandleFunc("POST "+pathDigest, g.bounded(g.serveDigest))
	mux.HandleFunc("POST "+pathRecords, g.bounded(g.serveRecords))
	mux.HandleFunc("GET "+pathTrust+"/{digest}", g.bounded(g.serveTrustSet))
	mux.HandleFunc("POST "+pathTrust, g.bounded(g.takeTrustSet))
	if g.cfg.Handler != nil {
		mux.Handle("/", http.MaxBytesHandler(g.cfg.Handler, maxHandlerBody))
	}
	return &http.Server{
		Handler:           g.counted(mux),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(newRingLog(g.ctx, g.cfg.Log), "", 0),
		BaseContext:       func(net.Listener) context.Context { return g.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, keyPeerID, c.(*stream).id)
		},
		// The server's Close does not wait for the goroutines of its connections.
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				g.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				g.conns.Done()
			}
		},
	}
}

func (g *Gossip) serve() {
	if err := g.server.Serve(newPeerListener(g.transport)); err != nil && g.ctx.Err() == nil {
		g.cfg.Log.Error("peer requests are no longer served", "err", err)
	}
}

// counted lets Close wait for the requests in progress.
func (g *Gossip) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter() {
			http.Error(w, ErrClosed.Error(), http.StatusServiceUnavailable)
			return
		}
		defer g.wg.Done()
		h.ServeHTTP(w, r)
	})
}

// bounded limits how many requests of anti-entropy are served at a time.
func (g *Gossip) bounded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case g.serving <- struct{}{}:
			defer func() { <-g.serving }()
			h(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many peers exchange with this agent just now: come back later", http.StatusServiceUnavailable)
		}
	}
}

// readJSON reads a bounded request; on failure it has answered.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, into any) bool {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // a failure to write is the peer's to notice
}
