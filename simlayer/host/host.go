package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"moult/simlayer/host/child"
	"moult/simlayer/host/control"
	"moult/store/bundle"
	"moult/transforms/stray"
)

// ErrClosed is returned by Set after Close.
var ErrClosed = errors.New("the host of simulation objects is closed")

// Host runs the simulation objects of one node. It is safe for concurrent use.
type Host struct {
	cfg    Config
	folder string

	ending sync.WaitGroup // programs and sockets that are not needed any more

	setting    sync.Mutex      // one Set or Close at a time
	lastWorker *worker         // may be ending
	ended      <-chan struct{} // closed when what the last Set left over has ended

	mu       sync.Mutex
	closed   bool
	objects  map[bundle.Version]Object
	native   Objects
	sockets  map[socketKey]*socket // of the object host
	programs map[bundle.Version]*program
	worker   *worker // nil until it is needed
}

type socketKey struct {
	version bundle.Version
	service string
}

func (k socketKey) String() string { return fmt.Sprintf("%d-%s", k.version, k.service) }

// Start makes a Host. It starts no process before Set gives it an object.
func Start(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	folder, err := socketFolder(cfg.Dir)
	if err == nil {
		cfg.Dir, err = filepath.Abs(cfg.Dir) // processes are found by it
	}
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	close(ended)
	return &Host{
		cfg: cfg, folder: folder, ended: ended, objects: map[bundle.Version]Object{},
		sockets: map[socketKey]*socket{}, programs: map[bundle.Version]*program{},
	}, nil
}

// EndLeftovers ends every process that a Host of dir has left running, as one of an
// agent that was killed may: a program's own children do not end with it. Nobody may
// have a Host of dir meanwhile. Its programs are of the users, if any are given. It does nothing where environments cannot be read.
func EndLeftovers(dir string, users ...int) error {
	abs, err := filepath.Abs(dir)
	if err == nil {
		err = stray.End(markOf(abs), users...)
	}
	if err != nil {
		return fmt.Errorf("end the simulation objects that an earlier agent left running: %w", err)
	}
	return nil
}

// markOf is what all processes of a Host have in their environment.
func markOf(dir string) string { return "MOULT_OBJECTS_OF=" + dir }

// Set replaces all that h runs. Objects that stay as they are go on undisturbed,
// with what is now next to them; others are ended when their calls have, or after
// a grace. When Set returns nil, new calls go by s, or wait, in a queue, for a
// process that will. When ended is closed, whatever is not in s is done with its
// state; a later Set waits for that first. Files are not looked at here: an object
// whose file is broken refuses its calls and says so in Stats.
//
// Whoever routes calls to h sets new objects here first and then lets calls come,
// and lets no call come any more before it takes objects away.
//
// An error that is not that of ctx says what is wrong with s, and nothing was
// changed.
func (h *Host) Set(ctx context.Context, s Objects) (ended <-chan struct{}, err error) {
	all, err := s.byVersion()
	if err != nil {
		return nil, err
	}
	h.setting.Lock()
	defer h.setting.Unlock()
	if h.isClosed() {
		return nil, ErrClosed
	}
	select {
	case <-h.ended:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the end of simulation objects that are not needed any more: %w", context.Cause(ctx))
	}
	change, err := h.prepare(all)
	if err != nil {
		return nil, err
	}
	s.Node, s.Hold = maps.Clone(s.Node), cmp.Or(s.Hold, defaultHold)
	h.mu.Lock()
	h.objects, h.native = all, s
	h.sockets, h.programs = change.sockets, change.programs
	h.mu.Unlock()
	for v, p := range change.programs {
		p.setNext(h.nexts(s, all, all[v].To), s.Hold)
	}
	for v := range change.started {
		change.programs[v].start(change.left[v])
	}
	halted, err := h.setWorker(ctx, s, all)
	h.ended = h.release(change, halted)
	return h.ended, err
}

// change is what a Set makes of the processes and sockets.
type change struct {
	sockets  map[socketKey]*socket
	programs map[bundle.Version]*program
	started  map[bundle.Version]bool
	left     map[bundle.Version]*program // not needed any more
	freed    []*socket
}

// prepare makes what all needs and is not there.
func (h *Host) prepare(all map[bundle.Version]Object) (c *change, err error) {
	c = &change{
		sockets: map[socketKey]*socket{}, programs: map[bundle.Version]*program{},
		started: map[bundle.Version]bool{}, left: map[bundle.Version]*program{},
	}
	defer func() {
		if err != nil {
			h.undo(c)
		}
	}()
	for v, o := range all {
		if err := h.prepareOne(c, v, o); err != nil {
			return nil, err
		}
	}
	for key, s := range h.sockets {
		if c.sockets[key] != s {
			c.freed = append(c.freed, s)
		}
	}
	for v, p := range h.programs {
		if c.programs[v] != p {
			c.left[v] = p
		}
	}
	return c, nil
}

func (h *Host) prepareOne(c *change, v bundle.Version, o Object) error {
	if !o.hosted() {
		if p := h.programs[v]; p != nil && p.given.same(o) {
			c.programs[v] = p
			return nil
		}
		p, err := newProgram(h.cfg, o)
		if err != nil {
			return err
		}
		c.programs[v], c.started[v] = p, true
		return nil
	}
	for _, s := range h.cfg.Services {
		if s.Protocol != bundle.ProtocolHTTP || o.Kind == KindCompatible {
			continue
		}
		key := socketKey{v, s.Name}
		if c.sockets[key] = h.sockets[key]; c.sockets[key] != nil {
			continue
		}
		sock, err := listenUnix(filepath.Join(h.folder, key.String()+".sock"), s)
		if err != nil {
			return err
		}
		c.sockets[key] = sock
	}
	return nil
}

// undo lets go of what prepare made before it failed.
func (h *Host) undo(c *change) {
	for key, s := range c.sockets {
		if s != nil && h.sockets[key] != s {
			s.close()
		}
	}
	for v := range c.started {
		c.programs[v].abandon()
	}
}

// setWorker tells the object host, which is started when it is first needed. One
// that is not needed any more is halted.
func (h *Host) setWorker(ctx context.Context, s Objects, all map[bundle.Version]Object) (halted *worker, err error) {
	o := control.Order{Hold: s.Hold, Native: s.Native, Ends: map[bundle.Version]map[string]string{}, Sockets: map[string]control.Listener{}, Cache: h.cfg.Cache}
	sockets := map[string]*socket{}
	for _, v := range slices.Sorted(maps.Keys(all)) {
		obj := all[v]
		if !obj.hosted() {
			o.Ends[v] = h.nexts(s, all, v)
			continue
		}
		o.Objects = append(o.Objects, control.Hosted{
			Version: v, To: obj.To, Kind: obj.Kind, Path: obj.Path, Reason: obj.Reason,
			State: obj.State, Observe: obj.Observe, Memory: obj.Memory, Timeout: obj.Timeout,
		})
	}
	o.Ends[s.Native] = maps.Clone(s.Node)
	for key, sock := range h.sockets {
		sockets[key.String()] = sock
		o.Sockets[key.String()] = control.Listener{Version: key.version, Service: key.service}
	}
	w := h.worker
	switch {
	case w == nil && len(sockets) == 0:
		return nil, nil
	case w == nil:
		w = newWorker(h.cfg)
		h.keepWorker(w)
		err := w.set(ctx, o, sockets)
		previous := h.lastWorker
		h.lastWorker = w
		go func() {
			if previous != nil {
				<-previous.Done()
			}
			w.Run()
		}()
		return nil, err
	case len(sockets) == 0:
		h.keepWorker(nil)
		h.ending.Go(w.Halt)
		return w, nil
	}
	return nil, w.set(ctx, o, sockets)
}

func (h *Host) keepWorker(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.worker = w
}

// release lets go of what a Set has left over; the channel is closed when the
// programs have ended, and the object host where that is halted: until then their
// objects may write to their state.
func (h *Host) release(c *change, halted *worker) <-chan struct{} {
	for _, s := range c.freed {
		s.shut() // a later Set may use its path
		h.ending.Go(s.work.Wait)
	}
	for _, p := range c.left {
		h.ending.Go(p.close)
	}
	ended := make(chan struct{})
	h.ending.Go(func() {
		defer close(ended)
		for _, p := range c.left {
			<-p.Done()
		}
		if halted != nil {
			<-halted.Done()
		}
	})
	return ended
}

// nexts returns where calls of version v go, for each service.
func (h *Host) nexts(s Objects, all map[bundle.Version]Object, v bundle.Version) map[string]string {
	next := map[string]string{}
	for _, service := range h.cfg.Services {
		if addr := s.nextOf(v, service.Name, all, h.address); addr != "" {
			next[service.Name] = addr
		}
	}
	return next
}

// address is where an object answers a service; "" where it does not.
func (h *Host) address(v bundle.Version, service string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.programs[v]; p != nil {
		return p.address(service)
	}
	if s := h.sockets[socketKey{v, service}]; s != nil {
		return s.addr
	}
	return ""
}

// Addrs returns where the callers of version v are answered, by service:
// "host:port" or "unix:/path". They stay the same for as long as v is answered by
// the same exec object, or by whatever runs in the object host. A service is missing where the object cannot answer its
// protocol (rules and wasm speak HTTP), and where v is compatible with a node that
// is away.
func (h *Host) Addrs(v bundle.Version) map[string]string {
	h.mu.Lock()
	s, all := h.native, h.objects
	h.mu.Unlock()
	if _, ok := all[v]; !ok {
		return nil
	}
	return h.nexts(s, all, v)
}

// State is what a process of a Host does.
type State = child.State

// The states.
const (
	StateIdle     = child.StateIdle
	StateStarting = child.StateStarting
	StateRunning  = child.StateRunning
	StateResting  = child.StateResting
)

// Stats says how one object does. The figures are sums since the object was set,
// over restarts; those of exec objects count refused callers only, since their
// calls do not pass the agent.
type Stats struct {
	Version, To bundle.Version
	Kind        string
	State       State  // of its process
	PID         int    // 0 where it is not running
	Restarts    int    // of its process
	Problem     string // why it does not answer; "" where it does
	Calls       uint64
	Denied      uint64
	Errors      uint64
	Latency     time.Duration // of all calls together
	InFlight    int
	Oldest      time.Duration // how long the oldest call is under way
}

// Stats returns the figures of every object, by version.
func (h *Host) Stats() []Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Stats
	for _, v := range slices.Sorted(maps.Keys(h.objects)) {
		o := h.objects[v]
		s := Stats{Version: v, To: o.To, Kind: o.Kind, State: StateIdle}
		switch {
		case o.Kind == KindExec:
			h.programs[v].tell(&s)
		case h.worker != nil:
			s.process(h.worker.Now())
			s.add(h.worker.figures(v))
		}
		all = append(all, s)
	}
	return all
}

func (s *Stats) process(c child.Condition) {
	s.State, s.PID, s.Restarts, s.Problem = c.State, c.PID, c.Restarts, c.Problem
}

func (s *Stats) add(f control.Figure) {
	s.Calls, s.Denied, s.Errors, s.Latency = f.Calls, f.Denied, f.Errors, f.Latency
	s.InFlight, s.Oldest = f.InFlight, f.Oldest
	if s.Problem == "" {
		s.Problem = f.Problem
	}
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// Close ends every process, politely at first, and returns when all have ended
// and no socket is left. It may be called twice.
func (h *Host) Close() error {
	h.setting.Lock()
	defer h.setting.Unlock()
	h.mu.Lock()
	closed := h.closed
	h.closed = true
	h.mu.Unlock()
	if closed {
		return nil
	}
	for _, p := range h.programs {
		h.ending.Go(p.close)
	}
	if h.worker != nil {
		h.worker.Halt()
	}
	for _, s := range h.sockets {
		s.close()
	}
	h.ending.Wait()
	return os.RemoveAll(h.folder)
}
