package simlayer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// load calls a layer as callers of version v until ctx ends, and reports every
// call that failed or was answered wrongly.
type load struct {
	v      int
	url    string // without the path
	client *http.Client
	calls  atomic.Int64
}

func (d *load) run(ctx context.Context, t *testing.T, worker int) {
	for n := 0; ctx.Err() == nil; n++ {
		url := fmt.Sprintf("%s/v%d/keys/w%d-%d", d.url, d.v, d.v, worker)
		value := fmt.Sprintf("value %d", n)
		r, err := do(d.client, "PUT", url, fmt.Sprintf(`{"f%d":%q}`, d.v, value))
		if err != nil || r.status != 200 || !strings.Contains(r.body, value) {
			t.Errorf("put by version %d: %v %d %s", d.v, err, r.status, r.body)
			return
		}
		r, err = do(d.client, "GET", url, "")
		if want := fmt.Sprintf(`{"f%d":%q}`, d.v, value); err != nil || r.status != 200 || strings.TrimSpace(r.body) != want {
			t.Errorf("get by version %d: %v %d %s, want %s", d.v, err, r.status, r.body, want)
			return
		}
		d.calls.Add(2)
	}
}

// The node goes back and forth between two versions under callers of both, on
// kept connections. No call fails and all answers are right.
func TestSwapUnderLoad(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) { swapUnderLoad(t, change) })
}

func swapUnderLoad(t *testing.T, change func(*Config)) {
	const swaps = 40
	objects := map[bundle.Version]so.Object{1: rename(t, 1, 2), 2: rename(t, 2, 1)}
	st := &state{values: map[string]string{}}
	l := startLayer(t, bundle.ProtocolHTTP, change)
	node := software(t, 1, st)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node)), Objects: InProcess(objects), External: 1})

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	loads := []*load{
		{v: 1, url: versionURL(t, l, 1), client: newClient(t)},
		{v: 2, url: versionURL(t, l, 2), client: newClient(t)},
		{v: 1, url: publicURL(l), client: newClient(t)},
	}
	for i, d := range loads {
		for w := range 4 {
			wg.Go(func() { d.run(ctx, t, 10*i+w) })
		}
	}
	before := l.Addresses()
	for n := range swaps {
		seen := [...]int64{loads[0].calls.Load(), loads[1].calls.Load(), loads[2].calls.Load()}
		eventually(t, "calls of every kind", func() bool {
			for i, d := range loads {
				if d.calls.Load() < seen[i]+4 {
					return t.Failed()
				}
			}
			return true
		})
		v := 2 - n%2 // the next version
		if _, err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		node.Close()
		apply(t, l, Routing{Native: bundle.Version(v), Down: true, Objects: InProcess(objects), External: 1})
		node = software(t, v, st)
		apply(t, l, Routing{Native: bundle.Version(v), Backends: backends(addrOf(node)), Objects: InProcess(objects), External: 1})
	}
	stop()
	wg.Wait()
	if after := l.Addresses(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("addresses changed from %v to %v", before, after)
	}
	s := l.Stats()
	for v, c := range s.Services["api"] {
		if c.Errors+c.Denied != 0 || c.Calls == 0 {
			t.Errorf("version %d: %+v", v, c)
		}
	}
	if s.LongestHold == 0 || s.PeakHeld == 0 || s.InFlight != 0 || s.Held != 0 {
		t.Errorf("after %d swaps: %+v", swaps, s)
	}
}

// What the drain is for: a call that is at the node when its software is
// replaced. With Drain the software ends after it, without it the call fails.
func TestSwapWithoutDrainFails(t *testing.T) {
	for _, drain := range []bool{true, false} {
		t.Run(fmt.Sprintf("drain=%v", drain), func(t *testing.T) {
			arrived, finish := make(chan struct{}), make(chan struct{})
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that its caller goes
				close(arrived)
				select {
				case <-finish:
				case <-r.Context().Done():
				}
			}))
			defer node.Close()
			l := startLayer(t, bundle.ProtocolHTTP, nil)
			apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node))})
			c := newClient(t)
			result := make(chan reply)
			go func() {
				r, err := do(c, "PUT", publicURL(l)+"/", "x")
				if err != nil {
					t.Error(err)
				}
				result <- r
			}()
			<-arrived
			if drain {
				drained := make(chan error)
				go func() {
					_, err := l.Drain(t.Context())
					drained <- err
				}()
				close(finish)
				if err := <-drained; err != nil {
					t.Fatal(err)
				}
			}
			node.CloseClientConnections()
			r := <-result
			if drain && r.status != 200 {
				t.Errorf("with a drain: %d %s", r.status, r.body)
			}
			if !drain && (r.status != 502 || r.refusal != so.RefusalError || !strings.Contains(r.body, "is not known")) {
				t.Errorf("without a drain: %d %s, want a 502 that says what is not known", r.status, r.body)
			}
		})
	}
}

// A call that is still at the node when the drain's time is up is cut, politely.
func TestDrainCuts(t *testing.T) {
	arrived := make(chan struct{}, 2)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node))})
	c := newClient(t)
	half := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		r, err := do(c, "PUT", publicURL(l)+"/none", "")
		if err != nil || r.status != 503 || r.header.Get("Retry-After") == "" || r.refusal != so.RefusalError {
			t.Errorf("without an answer yet: %v %+v, want 503 with Retry-After", err, r)
		}
	})
	wg.Go(func() {
		resp, err := c.Get(publicURL(l) + "/half")
		if err != nil {
			t.Error(err)
			close(half)
			return
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
			t.Error(err)
		}
		close(half)
		if rest, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("half an answer passed for a whole one, and then %q", rest)
		}
	})
	<-half
	<-arrived
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n, err := l.Drain(ctx)
	if n != 2 || err == nil || !strings.Contains(err.Error(), "2 calls had not ended") {
		t.Errorf("Drain: %d, %v; want 2 calls cut", n, err)
	}
	wg.Wait()
	if s := l.Stats(); s.Services["api"][1].Errors != 2 || s.InFlight != 0 {
		t.Errorf("%+v, want two errors and nothing in flight", s)
	}
}

// A node that crashed: what cannot have reached it, and what may be sent again,
// waits for it to come back.
func TestCrash(t *testing.T) {
	st := &state{values: map[string]string{"k": "old"}}
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(kit.ClosedPort(t))})
	c := newClient(t)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			method, body := "GET", ""
			switch i % 3 {
			case 1:
				method, body = "PUT", `{"f1":"new"}`
			case 2:
				method, body = "PUT", `{"f1":"`+strings.Repeat("x", DefaultLimits().Replay)+`"}` // streamed
			}
			if r, err := do(c, method, publicURL(l)+fmt.Sprintf("/v1/keys/k%d", i), body); err != nil || r.status != 200 {
				t.Errorf("%s with %d bytes: %v %d %s", method, len(body), err, r.status, r.body)
			}
		})
	}
	eventually(t, "calls held", func() bool { return l.Stats().Held == 6 })
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(software(t, 1, st)))})
	wg.Wait()
	if s := l.Stats(); s.Services["api"][1].Held != 6 || s.Services["api"][1].Errors != 0 {
		t.Errorf("%+v, want 6 calls held and no error", s)
	}
}

// A call that resets at a node that goes on taking connections is not tried for
// ever, and an unsafe one not twice.
func TestResets(t *testing.T) {
	var calls atomic.Int64
	node := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		calls.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node))})
	c := newClient(t)
	for method, want := range map[string]int64{"GET": relay.MaxTries, "PUT": 1, "POST": 1} {
		calls.Store(0)
		if r := mustDo(t, c, method, publicURL(l)+"/", "x"); r.status != 502 || r.refusal != so.RefusalError {
			t.Errorf("%s: %d %s, want 502", method, r.status, r.body)
		}
		if n := calls.Load(); n != want && method != "GET" || n < 1 || n > relay.MaxTries {
			t.Errorf("%s reached the node %d times, want %d", method, n, want)
		}
	}
}

func TestHoldTimeoutAndBound(t *testing.T) {
	l := startLayer(t, bundle.ProtocolHTTP, func(c *Config) { c.Limits = Limits{Held: 2, Conns: 100, Replay: 1024} })
	apply(t, l, Routing{Native: 2, Down: true, HoldTimeout: MaxHoldTimeout})
	c := newClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", publicURL(l), nil)
			if resp, err := c.Do(req); err == nil {
				t.Errorf("a caller who went away got %d", resp.StatusCode)
				resp.Body.Close()
			}
		})
	}
	eventually(t, "two calls held", func() bool { return l.Stats().Held == 2 })
	r := mustDo(t, c, "GET", publicURL(l), "")
	if r.status != 503 || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, "2 calls wait") {
		t.Errorf("the third: %+v, want 503 with the reason", r)
	}
	cancel()
	wg.Wait()
	eventually(t, "callers gone", func() bool { return l.Stats().Held == 0 })
	eventually(t, "two canceled calls", func() bool { return l.Stats().Services["api"][2].Canceled == 2 })

	apply(t, l, Routing{Native: 2, Down: true, HoldTimeout: time.Millisecond})
	r = mustDo(t, c, "GET", publicURL(l), "")
	if r.status != 503 || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, "longer than calls are held") {
		t.Errorf("past the hold timeout: %+v, want 503 with the reason", r)
	}
	apply(t, l, Routing{Native: 2, Backends: backends(kit.ClosedPort(t)), HoldTimeout: time.Millisecond})
	r = mustDo(t, c, "GET", publicURL(l), "")
	if r.status != 503 || !strings.Contains(r.body, "connection refused") {
		t.Errorf("software that does not listen: %+v, want 503 with the reason", r)
	}
}
