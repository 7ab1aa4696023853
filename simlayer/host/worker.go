package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// worker is the agent's side of the object host.
type worker struct {
	cfg  Config
	mark string
	*keeper

	mu      sync.Mutex
	order   order              // in force, but for Passed
	sockets map[string]*socket // all that the order names
	control *framer            // of the running process, or nil
	known   map[string]bool    // sockets that it has
	last    report             // its newest
	heard   chan struct{}      // closed and replaced with each report
	before  map[bundle.Version]figure
}

func newWorker(cfg Config) *worker {
	w := &worker{
		cfg: cfg, mark: "MOULT_OBJECTS=" + cfg.Dir,
		sockets: map[string]*socket{}, heard: make(chan struct{}), before: map[bundle.Version]figure{},
	}
	w.keeper = &keeper{
		log: cfg.Log, grace: cfg.Grace, min: cfg.MinPause, max: cfg.MaxPause,
		launch: w.launch, resting: w.refuse, starting: w.admit,
		afresh: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), state: StateIdle,
	}
	return w
}

// set makes o the order in force. It returns when the process goes by it, or has
// ended: its successor will.
func (w *worker) set(ctx context.Context, o order, sockets map[string]*socket) error {
	w.mu.Lock()
	o.Generation = w.order.Generation + 1
	if slices.ContainsFunc(w.order.Objects, func(h hosted) bool { return !slices.Contains(o.Objects, h) }) {
		w.renew() // it may have been that one that made the process end
	}
	w.order, w.sockets = o, sockets
	if w.refuses() {
		w.refuseLocked()
	}
	control := w.control
	var err error
	if control != nil {
		err = w.sendLocked(control)
	}
	w.mu.Unlock()
	if control == nil {
		return nil
	}
	if err != nil {
		// It may be ending. The next one gets this order from the start.
		w.cfg.Log.Warn("object host not told of a change", "err", err)
	}
	return w.await(ctx, o.Generation, control)
}

// await waits until the process has reported an order, or is gone.
func (w *worker) await(ctx context.Context, generation uint64, control *framer) error {
	for {
		w.mu.Lock()
		done := w.control != control || w.last.Generation >= generation
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
func (w *worker) sendLocked(control *framer) error {
	o := w.order
	for name := range w.known {
		if _, ok := o.Sockets[name]; !ok {
			delete(w.known, name)
		}
	}
	var files []*os.File
	defer func() { closeAll(files) }()
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
	return control.send(o, files)
}

// launch starts the object host and waits until it goes by its first order.
func (w *worker) launch(stop <-chan struct{}) (*child, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	control, err := newFramer(ours)
	if err != nil {
		return nil, err
	}
	argv := slices.Concat(w.cfg.Program, []string{serveName, strconv.FormatInt(w.cfg.Memory, 10)})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(slices.Clip(w.cfg.Env), markOf(w.cfg.Dir), fmt.Sprintf("GOMEMLIMIT=%d", w.cfg.Memory/100*memoryShare))
	cmd.ExtraFiles = []*os.File{theirs}
	c, err := startChild(cmd, w.mark, w.cfg.Log)
	if err != nil {
		control.conn.Close()
		return nil, fmt.Errorf("start the object host: %w", err)
	}
	w.mu.Lock()
	w.control, w.known, w.last = control, map[string]bool{}, report{}
	err = w.sendLocked(control)
	generation := w.order.Generation
	w.mu.Unlock()
	if err != nil {
		c.kill(fmt.Errorf("it was not told what to run: %w", err))
	}
	go w.listen(control, c)
	return c, w.awaitReady(c, control, generation, stop)
}

func (w *worker) awaitReady(c *child, control *framer, generation uint64, stop <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := w.await(ctx, generation, control)
	if err != nil {
		c.kill(fmt.Errorf("it did not begin: %w", err))
		<-c.done
		return c.err
	}
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// listen takes in reports until the process ends, or gives no sign of life.
func (w *worker) listen(control *framer, c *child) {
	patience := readyTimeout
	var err error
	for {
		_ = control.conn.SetReadDeadline(time.Now().Add(patience))
		var r report
		_, err = control.receive(&r)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// Perhaps it was this process that was not scheduled.
			_ = control.conn.SetReadDeadline(time.Now().Add(lastLook))
			_, err = control.receive(&r)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.kill(fmt.Errorf("it was killed: it gave no sign of life for %v", patience))
			}
			break
		}
		patience = w.cfg.Silence
		w.hear(r)
	}
	control.conn.Close()
	w.mu.Lock()
	w.control = nil
	for v, f := range w.last.Objects {
		w.before[v] = w.before[v].plus(f)
	}
	w.last = report{Generation: w.last.Generation}
	w.wake()
	w.mu.Unlock()
	// Most likely it is ending, for a reason of its own.
	timer := time.NewTimer(2 * orphanGrace)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.kill(fmt.Errorf("it was killed: its control socket failed: %w", err))
	}
}

func (w *worker) hear(r report) {
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

// plus adds what an earlier process has counted; what is under way in f has
// failed with it.
func (a figure) plus(f figure) figure {
	a.Calls += f.Calls + uint64(f.InFlight)
	a.Errors += f.Errors + uint64(f.InFlight)
	a.Denied += f.Denied
	a.Latency += f.Latency
	return a
}

// figures returns what is known of an object.
func (w *worker) figures(v bundle.Version) figure {
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
			_, problem, _, _ := w.now()
			return down(at.Version, 0, "%s", problem)
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
