package simlayer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// passAll are rules that change nothing, but say so to nobody.
func passAll(t testing.TB) map[bundle.Version]Object {
	r, err := so.ParseRules([]byte("call \"GET /never\" {\n deny {\n reason = \"no\"\n }\n}\ndefault { pass = true }"), "pass.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return InProcess(map[bundle.Version]so.Object{1: r})
}

// simulated starts a layer whose callers of version 1 need simulation.
func simulated(t testing.TB, addr string, change func(*Config)) *Layer {
	l := startLayer(t, bundle.ProtocolHTTP, change)
	apply(t, l, Routing{Native: 2, Backends: backends(addr), Objects: passAll(t), External: 1})
	return l
}

// A simulated call that is still at the node when the drain's time is up is cut.
func TestSimulatedCuts(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		arrived := make(chan struct{}, 2)
		node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/half" {
				fmt.Fprint(w, "half")
				_ = http.NewResponseController(w).Flush()
			}
			arrived <- struct{}{}
			<-r.Context().Done()
		})
		l := simulated(t, addrOf(node), change)
		none, half := rawTo(t, l.Addresses()["api"].Public), rawTo(t, l.Addresses()["api"].Public)
		none.say("PUT /none HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		half.say(getOf("/half"))
		resp, err := http.ReadResponse(half.br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
			t.Error(err)
		}
		<-arrived
		<-arrived
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := l.Drain(ctx); n != 2 || err == nil {
			t.Errorf("Drain: %d, %v; want 2 calls cut", n, err)
		}
		if resp, body := none.hear(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !resp.Close || !strings.Contains(body, "not known") {
			t.Errorf("without an answer yet: %d %s %v", resp.StatusCode, body, resp.Header)
		}
		if rest, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("half an answer passed for a whole one, and then %q", rest)
		}
		eventually(t, "two errors", func() bool {
			c := l.Stats().Services["api"][1]
			return c.Errors == 2 && c.Calls == 2 && c.Open == 0 && l.Stats().InFlight == 0
		})
	})
}

// While a drain goes on, the answer of a call that is at the node is the last of
// its connection; an idle connection is kept, and its next call held.
func TestSimulatedDrainIsPolite(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		arrived, finish := make(chan struct{}), make(chan struct{})
		node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(arrived)
				<-finish
			}
			fmt.Fprint(w, r.URL.Path)
		})
		l := simulated(t, addrOf(node), change)
		idle, slow := rawTo(t, l.Addresses()["api"].Public), rawTo(t, l.Addresses()["api"].Public)
		idle.say(getOf("/a"))
		if resp, body := idle.hear(); body != "/a" || resp.Close {
			t.Fatalf("%q, close %v", body, resp.Close)
		}
		slow.say(getOf("/slow"))
		<-arrived
		drained := make(chan error)
		go func() {
			_, err := l.Drain(t.Context())
			drained <- err
		}()
		eventually(t, "the gate closed", func() bool { return !l.gate.IsOpen() })
		close(finish)
		// net/http's server says nothing here; it closes no connection of its own.
		if resp, body := slow.hear(); body != "/slow" || !resp.Close && !l.cfg.byProxy {
			t.Errorf("%q, close %v; want the last answer", body, resp.Close)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		idle.say("PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + getOf("/c"))
		eventually(t, "a call held", func() bool { return l.Stats().Held == 1 })
		apply(t, l, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: passAll(t), External: 1})
		for _, want := range []string{"/b", "/c"} {
			if resp, body := idle.hear(); body != want || resp.Close {
				t.Errorf("%q, close %v, want %q", body, resp.Close, want)
			}
		}
		if c := l.Stats().Services["api"][1]; c.Calls != 4 || c.Held != 1 || c.Errors+c.Canceled != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// A node that crashed, and one that resets: as TestCrash and TestResets.
func TestSimulatedCrash(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		l := simulated(t, kit.ClosedPort(t), change)
		c := newClient(t)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				method, body := "GET", ""
				switch i % 3 {
				case 1:
					method, body = "PUT", "short"
				case 2:
					method, body = "PUT", strings.Repeat("x", 2*DefaultLimits().Replay)
				}
				if r, err := do(c, method, publicURL(l)+fmt.Sprintf("/k%d", i), body); err != nil || r.status != 200 || r.body != fmt.Sprintf("/k%d", i) {
					t.Errorf("%s with %d bytes: %v %d %s", method, len(body), err, r.status, r.body)
				}
			})
		}
		eventually(t, "calls held", func() bool { return l.Stats().Held == 6 })
		var resets atomic.Int64
		node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/reset" {
				resets.Add(1)
				panic(http.ErrAbortHandler)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, r.URL.Path)
		})
		apply(t, l, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: passAll(t), External: 1})
		wg.Wait()
		if s := l.Stats(); s.Services["api"][1].Held != 6 || s.Services["api"][1].Errors != 0 {
			t.Errorf("%+v, want 6 calls held and no error", s)
		}
		for method, want := range map[string]int64{"GET": relay.MaxTries, "PUT": 1, "POST": 1} {
			resets.Store(0)
			if r := mustDo(t, c, method, publicURL(l)+"/reset", "x"); r.status != 502 || r.refusal != so.RefusalError || strings.Contains(r.body, "not known") != (method != "GET") {
				t.Errorf("%s: %d %s, want 502", method, r.status, r.body)
			}
			const most = relay.MaxTries * (relay.MaxTries + 1) // a kept connection counts for nothing, and net/http keeps many
			if n := resets.Load(); n != want && method != "GET" || n < 1 || n > most {
				t.Errorf("%s reached the node %d times, want %d", method, n, want)
			}
		}
	})
}

// A node ends while its callers keep their connections, and nobody has said so yet:
// their next calls wait for another.
func TestSimulatedNodeIsGone(t *testing.T) {
	serve := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.URL.Path)
	}
	old := startNode(t, serve)
	l := simulated(t, addrOf(old), nil)
	requests := []string{getOf("/a"), "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"}
	var callers []*rawCaller
	for _, text := range requests {
		c := rawTo(t, l.Addresses()["api"].Public)
		callers = append(callers, c)
		c.say(text)
		if resp, body := c.hear(); body != "/a" || resp.Close {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
	}
	old.Close()
	for i, c := range callers {
		c.say(requests[i])
	}
	eventually(t, "calls held", func() bool { return l.Stats().Held == len(callers) })
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(startNode(t, serve))), Objects: passAll(t), External: 1})
	for i, c := range callers {
		if resp, body := c.hear(); resp.StatusCode != 200 || body != "/a" {
			t.Errorf("%.4s: %d %q", requests[i], resp.StatusCode, body)
		}
	}
	if c := l.Stats().Services["api"][1]; c.Held != 2 || c.Errors+c.Canceled != 0 {
		t.Errorf("%+v, want 2 calls held and no error", c)
	}
}

// A caller that goes away is no longer waited for: the node finds out.
func TestSimulatedCallerGoes(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		arrived, left := make(chan struct{}, 2), make(chan struct{}, 2)
		node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			<-r.Context().Done()
			left <- struct{}{}
		})
		l := simulated(t, addrOf(node), change)
		c := rawTo(t, l.Addresses()["api"].Public)
		c.say(getOf("/"))
		<-arrived
		c.Close()
		<-left
		c = rawTo(t, l.Addresses()["api"].Public)
		c.say(getOf("/"))
		<-arrived
		stream.Reset(c.TCPConn)
		<-left
		// The node may have answered the one that only said no more.
		eventually(t, "calls canceled", func() bool {
			s := l.Stats().Services["api"][1]
			return s.Canceled >= 1 && s.Calls == 2 && s.Errors == 0 && s.Open == 0
		})
	})
}

// A request that comes while its connection waits for a slow node is not lost.
func TestSimulatedSlowPipelining(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-finish
		}
		fmt.Fprint(w, r.URL.Path)
	})
	l := simulated(t, addrOf(node), nil)
	c := rawTo(t, l.Addresses()["api"].Public)
	for range 2 {
		c.say(getOf("/slow"))
		<-arrived
		eventually(t, "somebody watches", func() bool {
			for _, c := range l.listeners()[0].Callers() {
				return c.Linked() && c.Calling()
			}
			return false
		})
		c.say(getOf("/next") + "PUT /put HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
		finish <- struct{}{}
		for _, want := range []string{"/slow", "/next", "/put"} {
			if resp, body := c.hear(); body != want || resp.Close {
				t.Fatalf("%q, close %v, want %q", body, resp.Close, want)
			}
		}
	}
}

// A node may close a connection that is idle, without a word, or say too much: a
// call that must not be sent twice goes by another.
func TestSimulatedIdleIsClosed(t *testing.T) {
	for _, more := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"} {
		simulatedIdleIsClosed(t, more)
	}
}

func simulatedIdleIsClosed(t *testing.T, more string) {
	var calls atomic.Int64
	ln := tcpNode(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		calls.Add(1)
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+more)
	})
	l := simulated(t, ln.Addr().String(), nil)
	c := rawTo(t, l.Addresses()["api"].Public)
	for i := range 20 {
		c.say("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
		if resp, body := c.hear(); body != "ok" || resp.Close {
			t.Fatalf("call %d: %d %q", i, resp.StatusCode, body)
		}
		f := l.listeners()[0].Callers()
		if len(f) != 1 {
			t.Fatalf("%d connections here, want one: it was handed over", len(f))
		}
		eventually(t, "the end known", func() bool { return !f[0].Linked() })
	}
	if n := calls.Load(); n != 20 {
		t.Errorf("%d calls came, want 20", n)
	}
}

// A node that answers before it has read a long body, again and again on one
// connection: net/http's server would break on it.
func TestEarlyAnswersToLongBodies(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		ln := tcpNode(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			for {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				fmt.Fprint(c, "HTTP/1.1 413 Too Long\r\nContent-Length: 2\r\n\r\nno")
				_, _ = io.Copy(io.Discard, r.Body)
			}
		})
		l := simulated(t, ln.Addr().String(), change)
		body := strings.Repeat("x", 2*DefaultLimits().Replay)
		request := fmt.Sprintf("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		for range 50 {
			c := rawTo(t, l.Addresses()["api"].Public)
			go func() { _, _ = io.WriteString(c, strings.Repeat(request, 3)) }()
			for range 3 {
				resp, err := http.ReadResponse(c.br, nil)
				if err != nil {
					break
				}
				if data, err := io.ReadAll(resp.Body); err != nil || string(data) != "no" {
					t.Fatalf("%d %q %v", resp.StatusCode, data, err)
				}
				if resp.Close {
					break
				}
			}
			c.Close()
		}
	})
}
