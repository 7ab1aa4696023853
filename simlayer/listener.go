package simlayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"

	"moult/store/bundle"
)

// listener is one address of one service, for callers of one version.
type listener struct {
	net.Listener
	layer   *Layer
	service *service
	label   bundle.Version // 0: the public address
	server  *http.Server   // nil for raw TCP
}

// listen binds an address and serves it.
func (l *Layer) listen(s *service, label bundle.Version, addr string) (*listener, error) {
	f, err := l.bindListener(s, label, addr)
	if err == nil {
		f.serve()
	}
	return f, err
}

// bindListener binds an address. Callers who connect before serve wait.
func (l *Layer) bindListener(s *service, label bundle.Version, addr string) (*listener, error) {
	ln, err := listenTCP(l.ctx, addr)
	if err != nil {
		return nil, err
	}
	f := &listener{Listener: ln, layer: l, service: s, label: label}
	if s.Protocol == bundle.ProtocolHTTP {
		f.server = l.newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.proxy.serve(w, r, f)
		}))
	}
	if label != 0 {
		l.mu.Lock()
		s.versioned[label] = f
		l.mu.Unlock()
	}
	return f, nil
}

func listenTCP(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use: stop the program that has it, or configure another address: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return ln, nil
}

// newServer returns a server of HTTP whose connections count.
func (l *Layer) newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            headerTimeout,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				if l.conns.Add(1) > int64(l.cfg.Limits.Conns) {
					c.Close()
				}
			case http.StateClosed, http.StateHijacked:
				l.conns.Add(-1)
			}
		},
	}
}

// serve accepts callers until the listener is closed.
func (f *listener) serve() {
	if !f.layer.tasks.begin() {
		return
	}
	go func() {
		defer f.layer.tasks.end()
		var err error
		if f.server != nil {
			err = f.server.Serve(f.Listener)
		} else {
			err = f.acceptTCP()
		}
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			f.layer.log.Error("listener failed", "service", f.service.name, "version", f.label, "address", f.Addr().String(), "error", err)
		}
	}()
}

// retire closes the listener; connections end after the call that they are in.
func (f *listener) retire() {
	f.Listener.Close()
	if f.server == nil || !f.layer.tasks.begin() {
		return
	}
	go func() {
		defer f.layer.tasks.end()
		if err := f.server.Shutdown(f.layer.ctx); err != nil {
			f.server.Close()
		}
	}()
}

// close closes the listener and its connections; those of raw TCP are the gate's
// to cut.
func (f *listener) close() {
	f.Listener.Close()
	if f.server != nil {
		f.server.Close()
	}
}

// connSet has connections that Close must end.
type connSet struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// add reports false, and closes c, if the set is closed.
func (s *connSet) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	if s.conns == nil {
		s.conns = map[net.Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	return true
}

// remove takes c out and closes it.
func (s *connSet) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.Close()
}

func (s *connSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}
