// Package lineload puts load on nodes of line and checks every answer.
package lineload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"moult/testdata/line/line1"
	"moult/testdata/line/line2"
)

// Client is what both versions' clients can do.
type Client interface {
	Get(key string) (value string, ok bool, err error)
	Put(key, value string) error
	Close() error
}

// Config says what load to make.
type Config struct {
	// Addrs are the nodes' addresses, host:port; Version is what is spoken there.
	Addrs   []string
	Version int
	// Workers is how many connections work at once, each with keys of its own,
	// which begin with Prefix.
	Workers int
	Prefix  string
	// Patience is how long a call is tried again, over new connections, when a
	// connection ends without an answer: calls may be sent twice here, and a
	// connection that is idle may be closed at any time. 0 is 30 s.
	Patience time.Duration
}

// Load is load that runs.
type Load struct {
	cfg     Config
	stop    context.CancelFunc
	work    sync.WaitGroup
	calls   atomic.Int64
	again   atomic.Int64
	mu      sync.Mutex
	wrong   []string
	longest time.Duration
}

// Result is what became of the calls.
type Result struct {
	Calls int64 // that succeeded
	Again int64 // that were sent more than once
	// Wrong lists calls that failed, or had a wrong answer.
	Wrong []string
	// Longest is the time of the slowest call.
	Longest time.Duration
}

// Start begins to make load.
func Start(cfg Config) *Load {
	if cfg.Patience == 0 {
		cfg.Patience = 30 * time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Load{cfg: cfg, stop: stop}
	for i := range cfg.Workers {
		l.work.Go(func() { l.worker(ctx, i) })
	}
	return l
}

// Calls returns how many calls have succeeded so far.
func (l *Load) Calls() int64 { return l.calls.Load() }

// Stop ends the load and returns what became of it.
func (l *Load) Stop() Result {
	l.stop()
	l.work.Wait()
	return Result{Calls: l.calls.Load(), Again: l.again.Load(), Wrong: l.wrong, Longest: l.longest}
}

func (l *Load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// worker writes keys of its own and reads them back.
func (l *Load) worker(ctx context.Context, id int) {
	w := &worker{load: l, addr: l.cfg.Addrs[id%len(l.cfg.Addrs)]}
	defer w.hangUp()
	for n := 0; ctx.Err() == nil; n++ {
		key, value := fmt.Sprintf("%s-%d-%d", l.cfg.Prefix, id, n%10), fmt.Sprintf("value %d of %d", n, id)
		if !w.call(ctx, func(c Client) error { return c.Put(key, value) }) {
			continue
		}
		w.call(ctx, func(c Client) error {
			got, ok, err := c.Get(key)
			if err == nil && (!ok || got != value) {
				l.fail("%s: got %q (%v), want %q", key, got, ok, value)
			}
			return err
		})
	}
}

type worker struct {
	load   *Load
	addr   string
	client Client
}

func (w *worker) hangUp() {
	if w.client != nil {
		w.client.Close()
		w.client = nil
	}
}

// call makes a call, again where the connection ended without an answer.
func (w *worker) call(ctx context.Context, f func(Client) error) bool {
	began := time.Now()
	for tries := 0; ; tries++ {
		err := w.try(f)
		took := time.Since(began)
		if err == nil {
			w.load.done(took)
			return true
		}
		w.hangUp()
		if !broken(err) || took > w.load.cfg.Patience {
			w.load.fail("after %v and %d tries: %v", took.Round(time.Millisecond), tries+1, err)
			return false
		}
		if tries == 0 {
			w.load.again.Add(1)
		}
		select {
		case <-time.After(time.Duration(min(tries, 10)) * 10 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
}

func (w *worker) try(f func(Client) error) error {
	if w.client == nil {
		c, err := net.DialTimeout("tcp", w.addr, w.load.cfg.Patience)
		if err != nil {
			return err
		}
		if w.load.cfg.Version == 1 {
			w.client = line1.NewClient(c)
		} else {
			w.client = line2.NewClient(c)
		}
	}
	return f(w.client)
}

func (l *Load) done(took time.Duration) {
	l.calls.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, took)
}

// broken reports whether a connection ended without an answer.
func broken(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED, os.ErrDeadlineExceeded, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
