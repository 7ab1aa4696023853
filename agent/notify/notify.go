package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"moult/agent/process"
	"moult/agent/report"
	"moult/store/durable"
)

// Config says whom to tell.
type Config struct {
	Command []string // the program, by its path or found in PATH, and its arguments; no shell
	Env     []string // all of its environment
	Ledger  string   // the file of what was told
	Source  Source
	Log     *slog.Logger
}

// ledger is the file of what was told.
type ledger struct {
	Told   []report.Condition `json:"told"`
	Missed int                `json:"missed"`
	// New is while the node has had no part in a release yet.
	New bool `json:"new,omitempty"`
}

// Notifier tells one command what happens.
type Notifier struct {
	cfg    Config
	limit  time.Duration // of one run of the command
	cancel context.CancelFunc
	wake   chan struct{}
	work   sync.WaitGroup

	mu      sync.Mutex
	watch   *watch
	waiting []telling
	missed  int
	known   map[string]report.Condition // what is told, and so is to stand in the ledger
	unkept  bool                        // the ledger has something else
}

// Start starts a Notifier, which goes on from what its ledger says. The caller closes it.
func Start(cfg Config) *Notifier { return start(cfg, maxRun) }

func start(cfg Config, limit time.Duration) *Notifier {
	ctx, cancel := context.WithCancel(context.Background())
	n := &Notifier{cfg: cfg, limit: limit, cancel: cancel, wake: make(chan struct{}, 1), known: map[string]report.Condition{}}
	l, err := readLedger(cfg.Ledger)
	first := l.New || errors.Is(err, fs.ErrNotExist)
	if err != nil && !first {
		cfg.Log.Warn("what was told of events is not known any more, so some are told again", "err", err)
	}
	for _, c := range l.Told {
		n.known[c.Key] = c
	}
	n.missed = l.Missed
	n.watch = newWatch(cfg.Source, l.Told, first)
	n.work.Go(func() { n.run(ctx) })
	return n
}

func readLedger(path string) (l ledger, err error) {
	data, err := durable.ReadFile(path, maxLedger)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return ledger{}, fmt.Errorf("read %s: %w", path, err)
	}
	return l, nil
}

// Observe says which conditions hold now, and whether the node has a part in the release that
// rolls: until it has had one, that a release is complete is not told. It does not wait. It
// is for one goroutine.
func (n *Notifier) Observe(now time.Time, part bool, conditions []report.Condition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first := n.watch.first
	for _, t := range n.watch.see(now, part, conditions) {
		if t.old { // known from now on, also to the next agent
			n.note(t)
		} else {
			n.waiting = append(n.waiting, t)
		}
	}
	n.unkept = n.unkept || first && !n.watch.first
	for len(n.waiting) > maxWaiting {
		n.missed++
		n.note(n.waiting[0])
		n.waiting = n.waiting[1:]
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Close ends the command, where it runs, and returns when all has ended. What still waits
// is told by the next agent, as far as it is so then. It may be called twice.
func (n *Notifier) Close() error {
	n.cancel()
	n.work.Wait()
	return nil
}

// note notes that something was told, or will not be.
func (n *Notifier) note(t telling) {
	n.unkept = true
	if t.event.Event == Cleared {
		delete(n.known, t.condition.Key)
		return
	}
	supersede(n.known, t.condition)
}

func (n *Notifier) run(ctx context.Context) {
	for {
		for t, ok := n.next(); ok; t, ok = n.next() {
			err := n.tell(ctx, t.event)
			if ctx.Err() != nil {
				return // the next agent tells it
			}
			n.ended(t, err)
		}
		n.keep()
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
	}
}

// next takes what has waited longest, and what was missed until then.
func (n *Notifier) next() (t telling, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) == 0 {
		return t, false
	}
	t, n.waiting = n.waiting[0], n.waiting[1:]
	t.event.Missed = n.missed
	return t, true
}

// tell runs the command for one event.
func (n *Notifier) tell(ctx context.Context, e Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.limit, fmt.Errorf("it has not ended within %v, and was killed with its process group", n.limit))
	defer cancel()
	began := time.Now()
	said, err := process.Spec{Dir: "/", Env: n.cfg.Env}.Feed(ctx, n.cfg.Command, append(data, '\n'))
	if ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", strings.Join(n.cfg.Command, " "), context.Cause(ctx))
	}
	if err == nil {
		n.cfg.Log.Info("event told", "event", e.Event, "key", e.Key, "took", time.Since(began).Round(time.Millisecond), "output", said)
	}
	return err
}

// ended notes what came of telling something.
func (n *Notifier) ended(t telling, err error) {
	n.mu.Lock()
	if err == nil {
		n.missed -= t.event.Missed
	} else {
		n.missed++
	}
	n.note(t)
	n.mu.Unlock()
	if err != nil {
		n.cfg.Log.Warn("event not told: the command of on_event failed, and the next event says that one was missed", "event", t.event.Event, "key", t.event.Key, "err", err)
	}
	n.keep()
}

// keep writes the ledger, where it has something else.
func (n *Notifier) keep() {
	n.mu.Lock()
	if !n.unkept {
		n.mu.Unlock()
		return
	}
	n.unkept = false
	l := ledger{Told: slices.Collect(maps.Values(n.known)), Missed: n.missed, New: n.watch.first}
	n.mu.Unlock()
	slices.SortFunc(l.Told, func(a, b report.Condition) int { return strings.Compare(a.Key, b.Key) })
	data, err := json.Marshal(l)
	if err == nil {
		err = durable.WriteFile(n.cfg.Ledger, data, 0o600)
	}
	if err != nil {
		n.cfg.Log.Warn("not kept what was told of events, so the next agent may tell it again", "err", err)
	}
}
