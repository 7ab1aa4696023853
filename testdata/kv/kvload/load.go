package kvload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Target is one node.
type Target struct {
	// Name tells the node's keys from those of the others.
	Name string
	URL  string
}

// Config is a load. DefaultConfig has what need not be thought about.
type Config struct {
	Targets []Target
	// Version is that of the clients: 1, 2 or 3.
	Version int
	// Workers is how many clients each node has. A client makes one call at a
	// time, over a connection that it keeps.
	Workers int
	// Rate is how many calls per second all the workers make together; 0 is as
	// many as they can.
	Rate float64
	// Prefix starts every key. Loads of different versions that run at one time
	// should have the same one: version 1 reads what version 2 wrote.
	Prefix string
	// Timeout is how long one call may take.
	Timeout time.Duration
	// Repair says that the nodes are each other's peers, so that a key that was
	// written to one can be read from any.
	Repair bool
	// Resend lets a write be sent again where its connection ended without one
	// byte of an answer; reads always are. See the package's documentation.
	Resend bool
	// Back says that nodes may go back to an older version meanwhile, and forward again: see
	// the package's documentation.
	Back bool
	// Transport carries the calls; nil is plain HTTP, past any proxy that the
	// environment names.
	Transport http.RoundTripper
}

// DefaultConfig returns a gentle load without targets.
func DefaultConfig() Config {
	return Config{Version: 1, Workers: 1, Rate: 50, Prefix: "load", Timeout: 60 * time.Second, Resend: true}
}

// Limits of a load.
const (
	maxTargets = 10_000
	maxWorkers = 1_000
	maxErrors  = 10 // that a Result quotes
	maxReasons = 20 // of denied calls that a Result tells apart
	// maxKey is that of kv; maxSuffix bounds what a key has behind its prefix
	// and its target's name.
	maxKey    = 80
	maxSuffix = 40
)

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	if len(c.Targets) == 0 || len(c.Targets) > maxTargets {
		return fmt.Errorf("kv load: %d targets, want 1 to %d", len(c.Targets), maxTargets)
	}
	if c.Workers < 1 || c.Workers > maxWorkers {
		return fmt.Errorf("kv load: %d workers, want 1 to %d", c.Workers, maxWorkers)
	}
	if c.Rate < 0 || c.Timeout <= 0 || c.Prefix == "" {
		return errors.New("kv load: want a rate of at least 0, a timeout above 0 and a prefix")
	}
	names := map[string]bool{}
	for _, t := range c.Targets {
		if t.Name == "" || names[t.Name] {
			return fmt.Errorf("kv load: target name %q is empty or used twice", t.Name)
		}
		names[t.Name] = true
		if n := len(c.Prefix) + len(t.Name); n > maxKey-maxSuffix {
			return fmt.Errorf("kv load: prefix and target name %q have %d bytes, at most %d", t.Name, n, maxKey-maxSuffix)
		}
	}
	return nil
}

// Snapshot is how a load stands.
type Snapshot struct {
	Version int   `json:"version"`
	OK      int64 `json:"ok"`
	Failed  int64 `json:"failed"`
	Denied  int64 `json:"denied"`
	// Wrong counts those of Failed whose answers contradict what the node has acknowledged:
	// something was lost, or mangled.
	Wrong int64 `json:"wrong"`
	// Retried counts the times that a node asked to be called again because a
	// peer of its own did not answer.
	Retried int64 `json:"retried"`
	// Resent counts the times that a call was sent again, on another connection,
	// because the one that it was on ended without one byte of an answer.
	Resent int64 `json:"resent"`
	// MaxLatency is of the slowest call so far.
	MaxLatency time.Duration `json:"max_latency_ns"`
}

// Result is how a load went.
type Result struct {
	Snapshot
	// Slowest is the call of MaxLatency.
	Slowest string `json:"slowest"`
	// Errors quotes the first failed calls, each with the time it failed at.
	Errors []string `json:"errors"`
	// Reasons counts denied calls by the reason that the answer gave.
	Reasons map[string]int64 `json:"reasons"`
}

// Load is a load that may be watched while it runs.
type Load struct {
	config  Config
	clients []*Client // by target

	ok, failed, denied, wrong, retried, resent, maxLatency atomic.Int64

	// newest[i] is the number of the newest key that target i's first worker
	// published for others to read; upgraded[i] is set when target i has shown a
	// revision.
	newest   []atomic.Uint64
	upgraded []atomic.Bool

	mu      sync.Mutex
	slowest string           // mu
	errors  []string         // mu; at most maxErrors
	reasons map[string]int64 // mu; at most maxReasons
}

// New makes no call.
func New(c Config) (*Load, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Load{
		config:   c,
		newest:   make([]atomic.Uint64, len(c.Targets)),
		upgraded: make([]atomic.Bool, len(c.Targets)),
		reasons:  map[string]int64{},
	}
	client := &http.Client{
		Transport:     c.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if client.Transport == nil {
		client.Transport = &http.Transport{MaxIdleConnsPerHost: c.Workers, IdleConnTimeout: time.Minute}
	}
	for _, t := range c.Targets {
		one, err := NewClient(c.Version, t.URL, client)
		if err != nil {
			return nil, fmt.Errorf("kv load: target %s: %w", t.Name, err)
		}
		one.resend = c.Resend
		l.clients = append(l.clients, one)
	}
	return l, nil
}

// Run calls until ctx ends; then each worker ends its call and reads all of its
// keys a last time. It may be called once.
func (l *Load) Run(ctx context.Context) *Result {
	var wg sync.WaitGroup
	total := len(l.config.Targets) * l.config.Workers
	for i := range total {
		wg.Go(func() {
			w := newWorker(l, i%len(l.config.Targets), i/len(l.config.Targets))
			if w.pace(ctx, i, total) {
				w.sweep(context.WithoutCancel(ctx))
			}
		})
	}
	wg.Wait()
	for _, c := range l.clients {
		c.http.CloseIdleConnections()
	}
	return l.result()
}

// Run runs a load until ctx ends.
func Run(ctx context.Context, c Config) (*Result, error) {
	l, err := New(c)
	if err != nil {
		return nil, err
	}
	return l.Run(ctx), nil
}

// Snapshot may be called at any time.
func (l *Load) Snapshot() Snapshot {
	return Snapshot{
		Version:    l.config.Version,
		OK:         l.ok.Load(),
		Failed:     l.failed.Load(),
		Denied:     l.denied.Load(),
		Wrong:      l.wrong.Load(),
		Retried:    l.retried.Load(),
		Resent:     l.resent.Load(),
		MaxLatency: time.Duration(l.maxLatency.Load()),
	}
}

func (l *Load) result() *Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Result{Snapshot: l.Snapshot(), Slowest: l.slowest, Errors: l.errors, Reasons: l.reasons}
}

// took notes how long a call was.
func (l *Load) took(call string, d time.Duration) {
	if int64(d) <= l.maxLatency.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if int64(d) > l.maxLatency.Load() {
		l.maxLatency.Store(int64(d))
		l.slowest = call
	}
}

func (l *Load) fail(err error) {
	l.failed.Add(1)
	if _, wrong := errors.AsType[*wrongError](err); wrong {
		l.wrong.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) < maxErrors {
		l.errors = append(l.errors, time.Now().UTC().Format("15:04:05.000")+" "+err.Error())
	}
}

// wrongError is an answer that contradicts what the node has acknowledged.
type wrongError struct{ error }

func (e *wrongError) Unwrap() error { return e.error }

func wrongf(format string, args ...any) error { return &wrongError{fmt.Errorf(format, args...)} }

func (l *Load) deny(s *StatusError) {
	l.denied.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.reasons[s.Reason()]; ok || len(l.reasons) < maxReasons {
		l.reasons[s.Reason()]++
	}
}
