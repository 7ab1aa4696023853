package guests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/host/control"
	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// server is the object host's own side.
type server struct {
	openers map[string]Opener
	log     *slog.Logger
	http    *http.Server
	answers *answerer
	now     atomic.Pointer[setup]
	done    atomic.Uint64 // generation of the last order that is carried out
	serving sync.WaitGroup

	// The rest is the goroutine's that takes orders.
	sockets map[string]net.Listener
}

// setup is an order made ready. It does not change.
type setup struct {
	hold    time.Duration
	native  bundle.Version
	objects map[bundle.Version]*object
	chains  map[bundle.Version]*so.Chain
	ends    map[bundle.Version]map[string]string
}

// Serve goes by the orders that come over control until that closes or ctx ends.
func Serve(ctx context.Context, conn *control.Conn, openers map[string]Opener, log *slog.Logger) error {
	s := &server{openers: openers, log: log, sockets: map[string]net.Listener{}}
	s.now.Store(&setup{})
	s.answers = newAnswerer(s)
	s.http = proxy.NewServer(s.answers, log)
	s.http.ConnContext = withLabel
	defer s.serving.Wait()
	// The first sign of life comes before anything that may hang.
	if err := conn.Send(s.report(), nil); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.obey(ctx, conn) }()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case err := <-failed:
			s.end(orphanGrace)
			if errors.Is(err, io.EOF) {
				return nil // the agent is gone
			}
			return err
		case <-ctx.Done():
			s.end(endGrace)
			return nil
		case <-beat.C:
			_ = conn.Send(s.report(), nil) // where it fails, obey ends too
		}
	}
}

func (s *server) end(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.answers.close()
}

// obey takes orders one by one.
func (s *server) obey(ctx context.Context, conn *control.Conn) error {
	for {
		var o control.Order
		files, err := conn.Receive(&o)
		if err != nil {
			return err
		}
		err = s.take(ctx, o, files)
		control.CloseAll(files)
		if err != nil {
			return err
		}
		if err := conn.Send(s.report(), nil); err != nil {
			return err
		}
	}
}

// take puts an order in force.
func (s *server) take(ctx context.Context, o control.Order, files []*os.File) error {
	if len(files) != len(o.Passed) {
		return fmt.Errorf("%d sockets came with an order that has %d", len(files), len(o.Passed))
	}
	before := s.now.Load()
	next := &setup{hold: o.Hold, native: o.Native, ends: o.Ends, objects: map[bundle.Version]*object{}}
	plain := map[bundle.Version]so.Object{}
	for _, h := range o.Objects {
		obj := before.objects[h.Version]
		if obj == nil || obj.Hosted != h {
			obj = s.open(ctx, h, o.Cache)
		}
		next.objects[h.Version], plain[h.Version] = obj, obj
	}
	next.chains = chainsOf(next.objects, plain)
	s.now.Store(next)
	s.answers.forgetBut(next)
	var left []*object
	for v, obj := range before.objects {
		if next.objects[v] != obj {
			obj.release(s.log)
			left = append(left, obj)
		}
	}
	if err := s.listen(o, files); err != nil {
		return err
	}
	s.awaitEnd(left)
	s.done.Store(o.Generation)
	return nil
}

// awaitEnd waits until objects that are not set any more, and have state, are
// done with it, but not for ever: the agent will give it to others.
func (s *server) awaitEnd(left []*object) {
	timer := time.NewTimer(stateGrace)
	defer timer.Stop()
	for _, obj := range left {
		if obj.State == "" {
			continue
		}
		select {
		case <-obj.ended:
		case <-timer.C:
			s.log.Warn("calls go on of a simulation object that is not needed any more", "object", obj.Version)
			return
		}
	}
}

// chainsOf returns for each version the chain of objects that are in this process.
func chainsOf(objects map[bundle.Version]*object, plain map[bundle.Version]so.Object) map[bundle.Version]*so.Chain {
	chains := map[bundle.Version]*so.Chain{}
	for v := range objects {
		end := v
		for objects[end] != nil {
			end = objects[end].To
		}
		// A chain too long has no entry: its callers are told.
		if c, err := so.NewChain(v, end, plain); err == nil {
			chains[v] = c
		}
	}
	return chains
}

// listen begins to accept at new sockets and ends it at those that have gone.
func (s *server) listen(o control.Order, files []*os.File) error {
	for name, ln := range s.sockets {
		if _, ok := o.Sockets[name]; !ok {
			ln.Close()
			delete(s.sockets, name)
		}
	}
	for i, name := range o.Passed {
		ln, err := net.FileListener(files[i])
		if err != nil {
			return fmt.Errorf("socket %s: %w", name, err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the path is the agent's
		}
		s.sockets[name] = ln
		at := o.Sockets[name]
		s.serving.Go(func() { _ = s.http.Serve(labelled{ln, at}) }) // it ends with the listener
	}
	return nil
}

// labelled is a listener whose connections know who is answered there.
type labelled struct {
	net.Listener
	at control.Listener
}

func (l labelled) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return labelledConn{c, l.at}, nil
}

type labelledConn struct {
	net.Conn
	at control.Listener
}

// report says how all is.
func (s *server) report() control.Report {
	now := s.now.Load()
	r := control.Report{Generation: s.done.Load(), Objects: map[bundle.Version]control.Figure{}}
	for v, o := range now.objects {
		f := o.tally.figure()
		f.Problem = o.problem
		r.Objects[v] = f
	}
	return r
}
