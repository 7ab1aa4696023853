package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/store/durable"
)

// server is the object host's own side.
type server struct {
	openers map[string]opener
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

// object is one of a setup. Setups share those that stay as they are.
type object struct {
	hosted
	so.Object
	problem string // why it refuses everything; "" where it does not
	tally   *tally
	users   atomic.Int64  // calls under way, and one while it is set
	ended   chan struct{} // closed when there are none any more
}

// serve goes by the orders that come over control until that closes or ctx ends.
func serve(ctx context.Context, control *framer, openers map[string]opener, log *slog.Logger) error {
	s := &server{openers: openers, log: log, sockets: map[string]net.Listener{}}
	s.now.Store(&setup{})
	s.answers = newAnswerer(s)
	s.http = proxy.NewServer(s.answers, log)
	s.http.ConnContext = withLabel
	defer s.serving.Wait()
	// The first sign of life comes before anything that may hang.
	if err := control.send(s.report(), nil); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.obey(ctx, control) }()
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
			s.end(defaultGrace)
			return nil
		case <-beat.C:
			_ = control.send(s.report(), nil) // where it fails, obey ends too
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
func (s *server) obey(ctx context.Context, control *framer) error {
	for {
		var o order
		files, err := control.receive(&o)
		if err != nil {
			return err
		}
		err = s.take(ctx, o, files)
		closeAll(files)
		if err != nil {
			return err
		}
		if err := control.send(s.report(), nil); err != nil {
			return err
		}
	}
}

// take puts an order in force.
func (s *server) take(ctx context.Context, o order, files []*os.File) error {
	if len(files) != len(o.Passed) {
		return fmt.Errorf("%d sockets came with an order that has %d", len(files), len(o.Passed))
	}
	before := s.now.Load()
	next := &setup{hold: o.Hold, native: o.Native, ends: o.Ends, objects: map[bundle.Version]*object{}}
	plain := map[bundle.Version]so.Object{}
	for _, h := range o.Objects {
		obj := before.objects[h.Version]
		if obj == nil || obj.hosted != h {
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
	timer := time.NewTimer(defaultGrace)
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

// open makes an object. One that cannot be made refuses all calls and says why.
func (s *server) open(ctx context.Context, h hosted, cache string) *object {
	obj := &object{hosted: h, tally: &tally{}, ended: make(chan struct{})}
	obj.users.Store(1)
	var err error
	if obj.Object, err = s.openKind(ctx, h, cache); err != nil {
		obj.problem = err.Error()
		if len(obj.problem) > maxProblem {
			obj.problem = obj.problem[:maxProblem]
		}
		s.log.Warn("a simulation object cannot be used", "object", h.Version, "err", err)
		obj.Object = broken{obj.problem, h.Version}
	}
	return obj
}

func (s *server) openKind(ctx context.Context, h hosted, cache string) (so.Object, error) {
	switch h.Kind {
	case KindCompatible:
		return so.Compatible(), nil
	case KindRefuse:
		return so.Refuse(h.Reason), nil
	case KindRules:
		data, err := durable.ReadFile(h.Path, maxRules)
		if err != nil {
			return nil, err
		}
		return so.ParseRules(data, fmt.Sprintf("of version %d", h.Version))
	}
	open := s.openers[h.Kind]
	if open == nil {
		return nil, fmt.Errorf("this moult cannot run objects of kind %q", h.Kind)
	}
	data, err := durable.ReadFile(h.Path, maxWasm)
	if err != nil {
		return nil, err
	}
	return open(ctx, opening{hosted: h, data: data, cache: cache, log: s.log.With("object", h.Version)})
}

// broken is an object that could not be made.
type broken struct {
	problem string
	version bundle.Version
}

func (b broken) Answer(*http.Request, http.RoundTripper) (*http.Response, error) {
	return nil, so.Fail(http.StatusServiceUnavailable, nil, "the simulation object for version %d cannot be used: %s", b.version, b.problem)
}

// acquire keeps an object from being closed; false: it is too late.
func (o *object) acquire() bool {
	for {
		n := o.users.Load()
		if n == 0 {
			return false
		}
		if o.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release lets go of an object; the last call that uses it closes it.
func (o *object) release(log *slog.Logger) {
	if o.users.Add(-1) > 0 {
		return
	}
	defer close(o.ended)
	if c, ok := o.Object.(io.Closer); ok {
		if err := c.Close(); err != nil {
			log.Warn("a simulation object not closed", "object", o.Version, "err", err)
		}
	}
}

// listen begins to accept at new sockets and ends it at those that have gone.
func (s *server) listen(o order, files []*os.File) error {
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
	at listener
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
	at listener
}

// report says how all is.
func (s *server) report() report {
	now := s.now.Load()
	r := report{Generation: s.done.Load(), Objects: map[bundle.Version]figure{}}
	for v, o := range now.objects {
		f := o.tally.figure()
		f.Problem = o.problem
		r.Objects[v] = f
	}
	return r
}

// figure copies t's.
func (t *tally) figure() figure {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.sum
	f.InFlight = len(t.underWay)
	for began := range maps.Values(t.underWay) {
		f.Oldest = max(f.Oldest, time.Since(began))
	}
	return f
}

// tally counts the calls of one object's callers.
type tally struct {
	mu       sync.Mutex
	sum      figure
	last     uint64
	underWay map[uint64]time.Time
}

func (t *tally) begin() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.underWay == nil {
		t.underWay = map[uint64]time.Time{}
	}
	t.last++
	t.underWay[t.last] = time.Now()
	return t.last
}

// end counts a call that has ended with err, or with nil.
func (t *tally) end(id uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Latency += time.Since(t.underWay[id])
	delete(t.underWay, id)
	t.sum.Calls++
	var refusal *so.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refusal) && refusal.Denied:
		t.sum.Denied++
	default:
		t.sum.Errors++
	}
}
