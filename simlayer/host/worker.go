package host

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"moult/simlayer/host/child"
	"moult/simlayer/host/control"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// worker is the agent's side of the object host.
type worker struct {
	cfg  Config
	mark string
	*child.Keeper

	mu      sync.Mutex
	order   control.Order      // in force, but for Passed
	sockets map[string]*socket // all that the order names
	conn    *control.Conn      // of the running process, or nil
	known   map[string]bool    // sockets that it has
	last    control.Report     // its newest
	heard   chan struct{}      // closed and replaced with each report
	before  map[bundle.Version]control.Figure
}

func newWorker(cfg Config) *worker {
	w := &worker{
		cfg: cfg, mark: "MOULT_OBJECTS=" + cfg.Dir,
		sockets: map[string]*socket{}, heard: make(chan struct{}), before: map[bundle.Version]control.Figure{},
	}
	w.Keeper = child.NewKeeper(child.Plan{
		Log: cfg.Log, Grace: cfg.Grace, MinPause: cfg.MinPause, MaxPause: cfg.MaxPause,
		Launch: w.launch, Resting: w.refuse, Starting: w.admit,
	}, child.StateIdle)
	return w
}

// set makes o the order in force. It returns when the process goes by it, or has
// ended: its successor will.
func (w *worker) set(ctx context.Context, o control.Order, sockets map[string]*socket) error {
	w.mu.Lock()
	o.Generation = w.order.Generation + 1
	if slices.ContainsFunc(w.order.Objects, func(h control.Hosted) bool { return !slices.Contains(o.Objects, h) }) {
		w.Renew() // it may have been that one that made the process end
	}
	w.order, w.sockets = o, sockets
	if w.Refuses() {
		w.refuseLocked()
	}
	conn := w.conn
	var err error
	if conn != nil {
		err = w.sendLocked(conn)
	}
	w.mu.Unlock()
	if conn == nil {
		return nil
	}
	if err != nil {
		// It may be ending; else it must, for it does not learn of this order any
		// more. The next one gets it from the start.
		w.cfg.Log.Warn("object host not told of a change, so another begins", "err", err)
		conn.Close()
	}
	return w.await(ctx, o.Generation, conn)
}

// await waits until the process has reported an order, or is gone.
func (w *worker) await(ctx context.Context, generation uint64, conn *control.Conn) error {
	for {
		w.mu.Lock()
		done := w.conn != conn || w.last.Generation >= generation
		heard := w.heard
		w.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return fmt.Errorf("wait until the object host goes by its new order: %w", context.Cause(ctx))
		}
	}
}

// sendLocked sends the order with the sockets that the process has not got.
func (w *worker) sendLocked(conn *control.Conn) error {
	o := w.order
	for name := range w.known {
		if _, ok := o.Sockets[name]; !ok {
			delete(w.known, name)
		}
	}
	var files []*os.File
	defer func() { control.CloseAll(files) }()
	for _, name := range slices.Sorted(maps.Keys(o.Sockets)) {
		if w.known[name] {
			continue
		}
		f, err := w.sockets[name].file()
		if err != nil {
			return err
		}
		files = append(files, f)
		o.Passed = append(o.Passed, name)
		w.known[name] = true
	}
	return conn.Send(o, files)
}

// launch starts the object host and waits until it goes by its first order.
func (w *worker) launch(stop <-chan struct{}) (*child.Child, error) {
	ours, theirs, err := control.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := control.NewConn(ours)
	if err != nil {
		return nil, err
	}
	argv := slices.Concat(w.cfg.Program, []string{serveName, strconv.FormatInt(w.cfg.Memory, 10)})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(slices.Clip(w.cfg.Env), markOf(w.cfg.Dir), fmt.Sprintf("GOMEMLIMIT=%d", w.cfg.Memory/100*memoryShare))
	cmd.ExtraFiles = []*os.File{theirs}
	c, err := child.Start(cmd, w.mark, w.cfg.Log)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the object host: %w", err)
	}
	w.mu.Lock()
	w.conn, w.known, w.last = conn, map[string]bool{}, control.Report{}
	err = w.sendLocked(conn)
	generation := w.order.Generation
	w.mu.Unlock()
	if err != nil {
		c.Kill(fmt.Errorf("it was not told what to run: %w", err))
	}
	go w.listen(conn, c)
	return c, w.awaitReady(c, conn, generation, stop)
}

func (w *worker) awaitReady(c *child.Child, conn *control.Conn, generation uint64, stop <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := w.await(ctx, generation, conn)
	if err != nil {
		c.Kill(fmt.Errorf("it did not begin: %w", err))
		return c.Err()
	}
	select {
	case <-c.Done():
		return c.Err()
	default:
		return nil
	}
}

// listen takes in reports until the process ends, or is killed for its silence.
func (w *worker) listen(conn *control.Conn, c *child.Child) {
	dog := watch(c.Works, func(blame error) {
		c.Kill(blame)
		conn.Close() // for it may be a while until it ends
	})
	var err error
	for {
		var r control.Report
		if _, err = conn.Receive(&r); err != nil {
			break
		}
		dog.hear(w.cfg.Silence)
		w.hear(r)
	}
	dog.stop()
	conn.Close()
	w.mu.Lock()
	w.conn = nil
	for v, f := range w.last.Objects {
		w.before[v] = w.before[v].Plus(f)
	}
	w.last = control.Report{Generation: w.last.Generation}
	w.wake()
	w.mu.Unlock()
	// Most likely it is ending, for a reason of its own.
	timer := time.NewTimer(controlGrace)
	defer timer.Stop()
	select {
	case <-c.Done():
	case <-timer.C:
		c.Kill(fmt.Errorf("it was killed: its control socket failed: %w", err))
	}
}

func (w *worker) hear(r control.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = r
	w.wake()
}

// wake is called with mu.
func (w *worker) wake() {
	close(w.heard)
	w.heard = make(chan struct{})
}

// figures returns what is known of an object.
func (w *worker) figures(v bundle.Version) control.Figure {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.last.Objects[v]
	sum := w.before[v]
	sum.Calls += now.Calls
	sum.Errors += now.Errors
	sum.Denied += now.Denied
	sum.Latency += now.Latency
	sum.Problem, sum.InFlight, sum.Oldest = now.Problem, now.InFlight, now.Oldest
	for _, name := range slices.Sorted(maps.Keys(w.sockets)) {
		if w.order.Sockets[name].Version == v {
			n := w.sockets[name].refused.Load()
			sum.Calls += n
			sum.Errors += n
		}
	}
	return sum
}

// refuse makes the agent answer at every socket; admit ends that.
func (w *worker) refuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuseLocked()
}

func (w *worker) refuseLocked() {
	for name, s := range w.sockets {
		at := w.order.Sockets[name]
		s.refuse(func() *so.Refusal {
			return control.Down(at.Version, 0, "%s", w.Now().Problem)
		}, w.cfg.Log)
	}
}

func (w *worker) admit() {
	w.mu.Lock()
	sockets := slices.Collect(maps.Values(w.sockets))
	w.mu.Unlock()
	for _, s := range sockets {
		s.pass()
	}
}
