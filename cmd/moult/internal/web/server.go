package web

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"moult/agent/control"
)

//go:embed page
var page embed.FS

// Config says what a page is of.
type Config struct {
	Agent Agent
	// Orders gives orders; nil has the page change nothing.
	Orders Orders
	// Release tells what the release in force is, as a document of JSON.
	Release func(ctx context.Context) (any, error)
	// Every is the time between two questions to the agent; 0 for the usual.
	Every time.Duration
}

// Server serves the page until it is closed.
type Server struct {
	http  *http.Server
	guard *guard
	token string // as it is printed
	feed  *feed
	cfg   Config
	// places are those for streams, and turns the one for an order.
	places, turns chan struct{}

	stop  context.CancelFunc
	done  sync.WaitGroup
	ended chan error
}

// CheckAddress refuses an address that others than this machine can reach.
func CheckAddress(hostport string) error {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return fmt.Errorf("%q is no address with a port: %w", hostport, err)
	}
	if !a.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("others than this machine can reach %s, and what the page says would pass by in clear text", hostport)
	}
	return nil
}

// Serve serves a page on l, which it owns from now on, until Close.
func Serve(l net.Listener, cfg Config, log *slog.Logger) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		cfg: cfg, stop: stop, feed: newFeed(cfg.Agent, cmp.Or(cfg.Every, defaultEvery), cfg.Orders != nil),
		places: make(chan struct{}, maxStreams), turns: make(chan struct{}, 1),
		ended: make(chan error, 1),
	}
	s.guard = newGuard(l.Addr(), s.routes())
	s.token = s.guard.token
	s.http = &http.Server{
		Handler: s.guard, BaseContext: func(net.Listener) context.Context { return ctx },
		MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	s.done.Go(func() { s.feed.run(ctx) })
	s.done.Go(func() {
		if err := s.http.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
			s.ended <- fmt.Errorf("serve the page: %w", err)
		}
	})
	return s
}

// Address is where the page is, with the token, which is good once.
func (s *Server) Address() string {
	return "http://" + s.guard.host + "/?token=" + s.token
}

// Opened is closed when somebody has come by that address.
func (s *Server) Opened() <-chan struct{} { return s.guard.used }

// Ended says why the page is served no more, where nobody has closed it.
func (s *Server) Ended() <-chan error { return s.ended }

// Close ends all streams. It may be called more than once.
func (s *Server) Close() error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.done.Wait()
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", file("index.html"))
	files, err := fs.ReadDir(page, "page")
	if err != nil {
		panic(err) // it is part of the program
	}
	for _, f := range files {
		mux.HandleFunc("GET /"+f.Name(), file(f.Name()))
	}
	mux.HandleFunc("GET /api/events", s.events)
	mux.HandleFunc("GET /api/why", reply(func(r *http.Request) (any, error) {
		return s.cfg.Agent.Why(r.Context(), r.URL.Query().Get("node"))
	}))
	mux.HandleFunc("GET /api/release", reply(func(r *http.Request) (any, error) { return s.cfg.Release(r.Context()) }))
	mux.HandleFunc("GET /api/timeline", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Disposition", `attachment; filename="moult-timeline.json"`)
		reply(func(*http.Request) (any, error) { return s.feed.timeline(), nil })(w, r)
	})
	mux.HandleFunc("POST /api/order", s.order)
	return mux
}

func file(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// A failing deadline or write means that the browser has gone.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		data, err := page.ReadFile(path.Join("page", name))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		kind := map[string]string{".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}[path.Ext(name)]
		w.Header().Set("Content-Type", kind+"; charset=utf-8")
		_, _ = w.Write(data)
	}
}

// reply answers with a document, or with why there is none.
func reply(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		v, err := f(r.WithContext(ctx))
		answer(w, v, err)
	}
}

// answer writes what came of a request.
func answer(w http.ResponseWriter, v any, err error) {
	// A failing deadline or write means that the browser has gone.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e, ok := errors.AsType[*control.Error](err)
		if !ok {
			e = &control.Error{Kind: control.KindFailed}
		}
		w.WriteHeader(map[string]int{control.KindMisuse: http.StatusBadRequest, control.KindRefused: http.StatusConflict, control.KindFailed: http.StatusBadGateway}[e.Kind])
		v = control.Error{Kind: e.Kind, Message: err.Error(), Hint: e.Hint}
	}
	_ = json.NewEncoder(w).Encode(v)
}

// events tells a browser all that is known, and then what is new.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		http.Error(w, fmt.Sprintf("moult: %d pages are open already: close one, and load this one again", maxStreams), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	to := http.NewResponseController(w)
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for rev := uint64(0); ; {
		n, changed := s.feed.since(rev)
		text := []byte(": nothing new\n\n")
		if n.Rev > rev {
			data, err := json.Marshal(n)
			if err != nil {
				return
			}
			text, rev = fmt.Appendf(nil, "data: %s\n\n", data), n.Rev
		}
		err := to.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err == nil {
			_, err = w.Write(text)
		}
		if err == nil {
			err = to.Flush()
		}
		if err != nil {
			return // it has gone, or reads too slowly: it comes back, and is told all
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-alive.C:
		}
	}
}

// order gives an order, or says what it would do.
func (s *Server) order(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Orders == nil {
		answer(w, nil, control.Refused(errors.New("this page gives no orders"), "start `moult ui --allow-orders` with the operator's trust folder"))
		return
	}
	var o Order
	err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	if err == nil {
		var data []byte
		if data, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest)); err == nil {
			err = json.Unmarshal(data, &o)
		}
	}
	if err != nil {
		answer(w, nil, control.Misuse(fmt.Errorf("read the order: %w", err), ""))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), orderTimeout)
	defer cancel()
	select {
	case s.turns <- struct{}{}: // one after the other
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return
	}
	done, err := s.cfg.Orders.Give(ctx, o)
	if asks, ok := errors.AsType[*Unconfirmed](err); ok {
		answer(w, map[string]string{"confirm": asks.What, "identity": asks.Identity}, nil)
		return
	}
	answer(w, map[string]string{"done": done}, err)
}
