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

	"moult/simlayer/so"
	"moult/store/bundle"
)

// busyNode is software of a version with calls of every kind. Whatever does not end by
// itself has ended when its connection has.
type busyNode struct {
	version int
	arrived chan string   // the path of each call that goes on
	finish  chan struct{} // ends /slow
}

func (n busyNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	out := http.NewResponseController(w)
	switch r.URL.Path {
	case "/short":
		fmt.Fprint(w, n.version)
		return
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %d\n\n", n.version)
		_ = out.Flush()
	case "/log":
		fmt.Fprintf(w, "a line of %d\n", n.version)
		_ = out.Flush()
	case "/chat":
		conn, brw, err := out.Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
		n.arrived <- r.URL.Path
		_, _ = io.Copy(io.Discard, brw)
		fmt.Fprint(conn, "bye")
		return
	case "/poll":
		if n.version == 2 {
			fmt.Fprint(w, n.version)
			return
		}
	case "/slow":
		n.arrived <- r.URL.Path
		<-n.finish
		fmt.Fprint(w, n.version)
		return
	}
	n.arrived <- r.URL.Path
	<-r.Context().Done()
}

// switchBusy replaces busy software under short calls, and reports how many of them were
// served by the old version while a call that began before went on. No call may fail.
func switchBusy(t *testing.T, change func(*Config), objects map[bundle.Version]Object, end func(context.Context, *Layer) (int, error)) (served int64) {
	l := startLayer(t, bundle.ProtocolHTTP, change)
	l.calls.LastingAfter = 1 // no call of the test is long
	route := func(v bundle.Version, node *httptest.Server) Routing {
		return Routing{Native: v, Backends: backends(addrOf(node)), Objects: objects, External: 1}
	}
	old := busyNode{1, make(chan string, 5), make(chan struct{})}
	node := httptest.NewServer(old)
	native := bundle.Version(1)
	if objects != nil {
		native = 2
	}
	apply(t, l, route(native, node))

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls, byNew atomic.Int64
	for range 4 {
		wg.Go(func() {
			c := newClient(t)
			for n := 0; ctx.Err() == nil; n++ {
				r, err := do(c, []string{"PUT", "GET"}[n%2], publicURL(l)+"/short", "")
				if err != nil || r.status != 200 || r.body != "1" && r.body != "2" {
					t.Errorf("a short call: %v %+v", err, r)
					return
				}
				if calls.Add(1); r.body == "2" {
					byNew.Add(1)
				}
			}
		})
	}
	long := map[string]*rawCaller{}
	for _, path := range []string{"/events", "/log", "/chat", "/poll"} {
		c := rawTo(t, l.Addresses()["api"].Public)
		c.say("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
		long[path] = c
		<-old.arrived
	}
	slow := make(chan string, 1)
	go func() {
		r, err := do(newClient(t), "PUT", publicURL(l)+"/slow", "")
		slow <- fmt.Sprint(r.status, r.body, err)
	}()
	<-old.arrived

	drained := make(chan error, 1)
	timeout, over := context.WithCancel(t.Context())
	defer over()
	go func() {
		n, err := end(timeout, l)
		if n != 0 && err == nil {
			err = fmt.Errorf("%d calls were cut", n)
		}
		drained <- err
	}()
	eventually(t, "the end begins", func() bool {
		return l.gate.Stats().Before > 0 || !l.gate.IsOpen()
	})
	seen := calls.Load()
	eventually(t, "short calls", func() bool { return l.Stats().Held == 4+1 || calls.Load() > seen+50 })
	served = calls.Load() - seen
	close(old.finish)
	if got := <-slow; got != "2001<nil>" {
		t.Errorf("the call that began before: %s", got)
	}
	// A short call that was there, too, is not meant to be cut with its time.
	eventually(t, "only what lasts to be waited for", func() bool { return l.gate.Stats().Before <= len(long) })
	over() // /log goes on
	if err := <-drained; err != nil {
		t.Fatal(err) // the rest has not been told to end
	}
	for path, want := range map[string]string{"/events": "data: 1\n\n", "/log": "a line of 1\n", "/chat": "\r\n\r\n"} {
		got, err := io.ReadAll(long[path])
		if err != nil || !strings.Contains(string(got), want) || strings.HasSuffix(string(got), "0\r\n\r\n") {
			t.Errorf("%s ends by %v after %q, want the end of the connection", path, err, got)
		}
	}
	node.Close()
	node = httptest.NewServer(busyNode{2, make(chan string, 9), nil})
	defer node.Close()
	apply(t, l, route(native, node))
	if resp, body := long["/poll"].hear(); resp.StatusCode != 200 || body != "2" {
		t.Errorf("the long poll: %d %q, want the new software's answer", resp.StatusCode, body)
	}
	eventually(t, "calls of the new software", func() bool { return byNew.Load() > 20 || t.Failed() })
	stop()
	wg.Wait() // before the node goes
	return served
}

// A stream, a long poll and an upgraded connection starve nobody: new calls are served by
// the old version while one that began before ends, and none fails.
func TestSwitchBesideStreams(t *testing.T) {
	end := func(ctx context.Context, l *Layer) (int, error) {
		if n, err := l.Finish(ctx); err != nil {
			return n, err
		}
		return l.Drain(t.Context())
	}
	t.Run("relay", func(t *testing.T) {
		if served := switchBusy(t, nil, nil, end); served <= 50 {
			t.Errorf("%d calls were served while an older one went on, want more than 50", served)
		}
	})
	bothWays(t, func(t *testing.T, change func(*Config)) {
		if served := switchBusy(t, change, passAll(t), end); served <= 50 {
			t.Errorf("%d calls were served while an older one went on, want more than 50", served)
		}
	})
}

// The test above catches the other order: hold new calls, then wait for the old ones.
func TestSwitchBesideStreamsCatches(t *testing.T) {
	if served := switchBusy(t, nil, nil, func(_ context.Context, l *Layer) (int, error) { return l.Drain(t.Context()) }); served > 50 {
		t.Errorf("%d calls were served although new ones were held", served)
	}
}

// Whoever waits for calls to end hears of one that is a long poll from now on, since
// the node has it.
func TestPollIsSeen(t *testing.T) {
	for way, objects := range map[string]map[bundle.Version]Object{"relay": nil, "simulated": passAll(t)} {
		t.Run(way, func(t *testing.T) {
			arrived := make(chan string, 1)
			l := startLayer(t, bundle.ProtocolHTTP, nil)
			native := bundle.Version(1)
			if objects != nil {
				native = 2
			}
			apply(t, l, Routing{Native: native, Backends: backends(addrOf(startNode(t, busyNode{1, arrived, nil}.ServeHTTP))), Objects: objects, External: 1})
			rawTo(t, l.Addresses()["api"].Public).say(getOf("/poll"))
			<-arrived
			if !l.gate.Stats().Stirred {
				t.Error("nobody is told")
			}
		})
	}
}

// A wait that no time is left for does not cut what the next drain can hold.
func TestFinishOutOfTime(t *testing.T) {
	arrived := make(chan string, 3)
	node := startNode(t, busyNode{1, arrived, nil}.ServeHTTP)
	l := relayTo(t, addrOf(node))
	poll, put := rawTo(t, l.Addresses()["api"].Public), rawTo(t, l.Addresses()["api"].Public)
	poll.say(getOf("/poll"))
	put.say("PUT /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	<-arrived
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := l.Finish(ctx); n != 1 || err == nil {
		t.Errorf("%d cut, %v; want the call that must not be made again", n, err)
	}
	if resp, _ := put.hear(); resp.StatusCode != 503 || resp.Header.Get(so.RefusalHeader) == "" {
		t.Errorf("%d, want 503", resp.StatusCode)
	}
	if n, _ := l.Drain(ctx); n != 0 {
		t.Errorf("%d cut, want the long poll held", n)
	}
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(startNode(t, busyNode{2, nil, nil}.ServeHTTP)))})
	if _, body := poll.hear(); body != "2" {
		t.Errorf("the long poll: %q", body)
	}
}

// A long poll that is simulated gives way too where the connection to the node was there
// before: it is not sent to the old software once more.
func TestKeptPollWaits(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		arrived := make(chan string, 5)
		l := simulated(t, addrOf(startNode(t, busyNode{1, arrived, nil}.ServeHTTP)), change)
		l.calls.LastingAfter = 1
		c := rawTo(t, l.Addresses()["api"].Public)
		c.say(getOf("/short"))
		c.hear()
		c.say(getOf("/poll"))
		<-arrived
		if n, err := l.Drain(t.Context()); n != 0 || err != nil || len(arrived) != 0 {
			t.Errorf("%d cut, %v; %d more at the old software", n, err, len(arrived))
		}
		node := startNode(t, busyNode{2, nil, nil}.ServeHTTP)
		apply(t, l, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: passAll(t), External: 1})
		if resp, body := c.hear(); resp.StatusCode != 200 || body != "2" {
			t.Errorf("%d %q, want the new software's answer", resp.StatusCode, body)
		}
	})
}

// A part of a simulated answer does not pass for the whole where the node tells its end
// by that of the connection. One that the node has ended is whole.
func TestPartIsNotTheWhole(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		const half = "half of it"
		whole := make(chan struct{})
		l := simulated(t, addrOf(startNode(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"+half)
			if r.URL.Path == "/whole" {
				<-whole
				return
			}
			_, _ = io.Copy(io.Discard, conn)
		})), change)
		l.calls.LastingAfter = 1
		for _, path := range []string{"/whole", "/dump"} {
			c := rawTo(t, l.Addresses()["api"].Public)
			c.say(getOf(path))
			resp, err := http.ReadResponse(c.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(resp.Body, make([]byte, len(half))); err != nil {
				t.Fatal(err)
			}
			if path == "/whole" {
				close(whole)
			} else if n, err := l.Drain(t.Context()); n != 0 || err != nil {
				t.Errorf("%d cut, %v", n, err)
			}
			if rest, err := io.ReadAll(resp.Body); (err == nil) != (path == "/whole") || len(rest) != 0 {
				t.Errorf("%s: %q %v", path, rest, err)
			}
		}
	})
}

// A download of unknown length is waited for while new calls are served, however long it
// has gone on; without that the drain ends it in the middle.
func TestDownloadEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) {
		for way, objects := range map[string]map[bundle.Version]Object{"relay": nil, "simulated": passAll(t)} {
			for _, finish := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/finish=%v", way, finish), func(t *testing.T) { downloadEnds(t, change, objects, finish) })
			}
		}
	})
}

func downloadEnds(t *testing.T, change func(*Config), objects map[bundle.Version]Object, finish bool) {
	end := make(chan struct{})
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-end
		fmt.Fprint(w, "last")
	})
	l := startLayer(t, bundle.ProtocolHTTP, change)
	l.calls.LastingAfter = 1
	native := bundle.Version(1)
	if objects != nil {
		native = 2
	}
	apply(t, l, Routing{Native: native, Backends: backends(addrOf(node)), Objects: objects, External: 1})
	resp, err := newClient(t).Get(publicURL(l))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, len("first"))); err != nil {
		t.Fatal(err)
	}
	finished := make(chan error, 1)
	go func() {
		if finish {
			_, err := l.Finish(t.Context())
			finished <- err
		} else {
			_, err := l.Drain(t.Context())
			finished <- err
		}
	}()
	if finish {
		eventually(t, "the wait", func() bool {
			return l.gate.Stats().Before > 0
		})
	} else {
		<-finished
	}
	close(end)
	rest, err := io.ReadAll(resp.Body)
	if whole := err == nil && string(rest) == "last"; whole != finish {
		t.Errorf("%q %v", rest, err)
	}
	if finish {
		if err := <-finished; err != nil {
			t.Error(err)
		}
	} else if l.gate.EndedEarly() != 1 {
		t.Errorf("%d answers made to end, want 1 counted", l.gate.EndedEarly())
	}
}
