package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// socket is a listening socket that the agent holds and a process inherits. It is
// in one of three modes: the process accepts (the first), or the agent does and
// refuses, or does and carries over.
type socket struct {
	service Service
	addr    string // as Addrs has it
	ln      listening
	packets *net.UDPConn // instead of ln, for UDP
	refused atomic.Uint64

	mu     sync.Mutex // a change of mode
	cancel context.CancelFunc
	served chan struct{} // closed when the agent does not accept any more
	work   sync.WaitGroup
	closed bool
}

// listening is what net.TCPListener and net.UnixListener have in common.
type listening interface {
	net.Listener
	SetDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
	File() (*os.File, error)
}

// listenUnix makes the socket of a service at path.
func listenUnix(path string, s Service) (*socket, error) {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket of a simulation object: %w", err)
	}
	return &socket{service: s, addr: "unix:" + path, ln: ln}, nil
}

// listenLoopback makes the socket of a service on a port of loopback.
func listenLoopback(s Service) (*socket, error) {
	if s.Protocol == protocolUDP {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, fmt.Errorf("socket of a simulation object: %w", err)
		}
		return &socket{service: s, addr: conn.LocalAddr().String(), packets: conn}, nil
	}
	ln, err := stream.Listen(context.Background(), anyPort)
	if err != nil {
		return nil, fmt.Errorf("socket of a simulation object: %w", err)
	}
	return &socket{service: s, addr: ln.Addr().String(), ln: ln}, nil
}

// anyPort is a free port of loopback.
const anyPort = "127.0.0.1:0"

// file returns a descriptor of the socket for a process; the caller closes it.
func (s *socket) file() (*os.File, error) {
	if s.packets != nil {
		return s.packets.File()
	}
	return s.ln.File()
}

// raw calls f with the socket's descriptor.
func (s *socket) raw(f func(fd uintptr)) error {
	var c syscall.RawConn
	var err error
	if s.packets != nil {
		c, err = s.packets.SyscallConn()
	} else {
		c, err = s.ln.SyscallConn()
	}
	if err != nil {
		return err
	}
	return c.Control(f)
}

// setBlocking sets what the socket is like for whoever inherits it: the mode
// belongs to the socket, not to the descriptor.
func (s *socket) setBlocking(blocking bool) error {
	var modeErr error
	err := s.raw(func(fd uintptr) { modeErr = setNonblock(fd, !blocking) })
	return errors.Join(err, modeErr)
}

// pass leaves accepting to the process. When it returns the agent accepts
// nothing more; what it has accepted it sees to.
func (s *socket) pass() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// stop is called with mu.
func (s *socket) stop() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	_ = s.ln.SetDeadline(time.Unix(1, 0)) // fails only where it is closed
	<-s.served
	s.cancel = nil
	_ = s.ln.SetDeadline(time.Time{})
}

// accept makes the agent accept, in place of what it did before; serve gets a
// listener that ends when the mode changes.
func (s *socket) accept(serve func(context.Context, net.Listener)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.packets != nil {
		return nil
	}
	s.stop()
	// A program may have made it blocking; then Accept would never end.
	if err := s.setBlocking(false); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	s.cancel, s.served = cancel, served
	s.work.Go(func() {
		defer close(served)
		serve(ctx, borrowed{s.ln})
	})
	return nil
}

// borrowed is a listener that is not closed by whoever serves it. The deadline
// that ends its use looks like its end.
type borrowed struct{ listening }

func (b borrowed) Accept() (net.Conn, error) {
	c, err := b.listening.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, net.ErrClosed
	}
	return c, err
}

func (b borrowed) Close() error { return nil }

// refuse makes the agent answer, with what refusal returns.
func (s *socket) refuse(refusal func() *so.Refusal, log *slog.Logger) {
	err := s.accept(func(ctx context.Context, ln net.Listener) {
		if s.service.Protocol == bundle.ProtocolHTTP {
			s.refuseHTTP(ctx, ln, refusal, log)
			return
		}
		_ = stream.Accept(ctx, ln, log, func(c net.Conn) { // it ends with the mode
			s.refused.Add(1)
			stream.Reset(c)
		})
	})
	if err != nil {
		log.Error("callers of a simulation object that is not running cannot be refused", "address", s.addr, "err", err)
	}
}

func (s *socket) refuseHTTP(ctx context.Context, ln net.Listener, refusal func() *so.Refusal, log *slog.Logger) {
	slots := make(chan struct{}, maxRefused)
	srv := proxy.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refused.Add(1)
		w.Header().Set("Connection", "close") // the next call may find the object
		refusal().WriteTo(w, r)
	}), log)
	srv.ReadTimeout = refusedTimeout
	srv.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // in the loop that accepts
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
			}
		case http.StateClosed, http.StateHijacked:
			select {
			case <-slots:
			default:
			}
		}
	}
	srv.SetKeepAlivesEnabled(false)
	_ = srv.Serve(ln) // it ends with the mode
	// Whoever is being told is told to the end, but has no more time than that.
	s.work.Go(func() {
		left, cancel := context.WithTimeout(context.Background(), refusalGrace)
		defer cancel()
		if srv.Shutdown(left) != nil {
			srv.Close()
		}
	})
}

// carry makes the agent carry connections over to where dial leads; conn, which
// may be nil, is a connection there that the first one gets.
func (s *socket) carry(dial func(context.Context) (net.Conn, error), first net.Conn, log *slog.Logger) error {
	return s.accept(func(ctx context.Context, ln net.Listener) {
		var conns sync.WaitGroup
		_ = stream.Accept(ctx, ln, log, func(c net.Conn) { // it ends with the mode
			up := first
			first = nil
			conns.Go(func() {
				if up == nil {
					var err error
					if up, err = dial(ctx); err != nil {
						log.Debug("connection not carried over to a simulation object", "err", err)
						stream.Reset(c)
						return
					}
				}
				stream.Splice(c, up)
			})
		})
		if first != nil {
			first.Close()
		}
		s.work.Go(conns.Wait)
	})
}

// shut gives the socket up: its address is free when shut returns. Whoever is in
// its queue sees a reset, once no process has it either.
func (s *socket) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stop()
	if s.packets != nil {
		s.packets.Close()
	} else {
		s.ln.Close()
	}
}

// close is shut, and waits for what the agent does with those that it accepted.
func (s *socket) close() {
	s.shut()
	s.work.Wait()
}
