package simlayer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"moult/simlayer/observe"
	"moult/simlayer/so"
	"moult/store/bundle"
)

const secretPath = "/.moult/observed/secret"

// watcher is an object process that observes: it keeps what it is told, and answers
// its callers with how many calls it knows of.
type watcher struct {
	addr string

	mu     sync.Mutex
	events []so.Observed
	calls  int
	take   func(so.Observed) int // the status of its answer; nil: 204
	srv    *http.Server
}

func startWatcher(t *testing.T) *watcher {
	w := &watcher{addr: filepath.Join(t.TempDir(), "s")}
	w.up(t)
	return w
}

func (w *watcher) up(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("unix", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: w}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-served })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.srv = srv
}

func (w *watcher) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path != secretPath {
		w.mu.Lock()
		defer w.mu.Unlock()
		fmt.Fprint(rw, w.calls)
		return
	}
	var e so.Observed
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	take := w.take
	w.mu.Unlock()
	status := http.StatusNoContent
	if take != nil {
		status = take(e)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if status/100 == 2 && (len(w.events) == 0 || w.events[len(w.events)-1].Number != e.Number) {
		w.events = append(w.events, e)
		if e.Event == so.ObservedCall {
			w.calls++
		}
	}
	rw.WriteHeader(status)
}

func (w *watcher) taking(take func(so.Observed) int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take = take
}

// told returns what it was told, and in short: b for begin, m for missed, c for
// a call.
func (w *watcher) told() (events []so.Observed, short string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		short += e.Event[:1]
	}
	return slices.Clone(w.events), short
}

func (w *watcher) waitFor(t *testing.T, short string) []so.Observed {
	t.Helper()
	eventually(t, "events "+short, func() bool { _, got := w.told(); return got == short })
	events, _ := w.told()
	return events
}

// watched is a routing with an object for callers of version 2 that observes.
func watched(node string, w *watcher) Routing {
	return Routing{Native: 1, Backends: backends(node), Objects: map[bundle.Version]Object{2: {Addrs: backends("unix:" + w.addr), Observe: secretPath}}}
}

// echo is a node that answers with what it was sent.
func echo(t *testing.T) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Node", "n")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestObserve(t *testing.T) {
	w := startWatcher(t)
	node := echo(t)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	r := watched(addrOf(node), w)
	r.Objects[3] = Object{Local: so.Compatible()} // callers of 3, through it
	apply(t, l, r)
	w.waitFor(t, "b")
	c := newClient(t)
	req, err := http.NewRequest("PUT", versionURL(t, l, 1)+"/a%2Fb?x=%20y&x", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Caller", "c")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Fatal(resp.Status)
	}
	mustDo(t, c, "HEAD", publicURL(l)+"/h", "")
	e := w.waitFor(t, "bcc")[1]
	if e.Service != "api" || e.Method != "PUT" || e.URI != "/a%2Fb?x=%20y&x" || e.Host != req.Host || e.Request.Header.Get("X-Caller") != "c" ||
		string(e.Request.Body) != "hello" || e.Request.Truncated || e.Status != 201 || e.Response.Header.Get("X-Node") != "n" || string(e.Response.Body) != "hello" || e.Response.Truncated {
		t.Errorf("told of %+v", e)
	}
	// Callers of the object itself are not observed, wherever they say they go.
	for _, v := range []bundle.Version{2, 3} {
		if r := mustDo(t, c, "POST", versionURL(t, l, v)+"/.moult/observed", "{}"); r.body != "2" {
			t.Errorf("version %d: %+v", v, r)
		}
	}
	eventually(t, "the figures", func() bool {
		return l.Stats().Observers[2] == observe.Stats{Told: 2, Whole: true}
	})
	// Without it, nothing is told, and calls are relayed again.
	r = watched(addrOf(node), w)
	r.Objects[2] = Object{Addrs: r.Objects[2].Addrs}
	apply(t, l, r)
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/x", "y")
	if got := mustDo(t, c, "GET", versionURL(t, l, 2)+"/", ""); got.body != "2" || len(l.Stats().Observers) != 0 {
		t.Errorf("after its end it knows of %s calls", got.body)
	}
}

// interval is when a call began and ended, by one clock, as its caller saw it.
type interval struct{ began, ended int64 }

// outOfOrder returns two calls of which the one told later had ended before the
// other began; "" where there are none.
func outOfOrder(told []string, at map[string]interval) string {
	latest, name := int64(-1), ""
	for _, n := range told {
		if at[n].ended < latest {
			return fmt.Sprintf("%s was told after %s, which began after its end", n, name)
		}
		if at[n].began > latest {
			latest, name = at[n].began, n
		}
	}
	return ""
}

// What began after something else was answered is told after it, whoever called, and
// a caller of the object finds that it knows of all that was answered before.
func TestObserveOrder(t *testing.T) {
	w := startWatcher(t)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, watched(addrOf(echo(t)), w))
	w.waitFor(t, "b")
	var clock, answered atomic.Int64
	var mu sync.Mutex
	at := map[string]interval{}
	var all sync.WaitGroup
	node, object := versionURL(t, l, 1), versionURL(t, l, 2)
	for worker := range 8 {
		all.Go(func() {
			c := newClient(t)
			for i := range 40 {
				name := fmt.Sprintf("/%d-%d", worker, i)
				body := strings.Repeat("x", rand.IntN(3)*20_000)
				began := clock.Add(1)
				if r, err := do(c, "POST", node+name, body); err != nil || r.status != 201 || r.body != body {
					t.Errorf("%+v %v", r, err)
				}
				ended := clock.Add(1)
				mu.Lock()
				at[name] = interval{began, ended}
				mu.Unlock()
				before := answered.Add(1)
				var known int64
				if r, err := do(c, "GET", object+"/", ""); err != nil || r.status != 200 {
					t.Errorf("%+v %v", r, err)
				} else if fmt.Sscan(r.body, &known); known < before {
					t.Errorf("%d calls were answered, and the object knew of %d when it was called", before, known)
				}
			}
		})
	}
	all.Wait()
	events, _ := w.told()
	var told []string
	for _, e := range events[1:] {
		told = append(told, e.URI)
	}
	if len(told) != 320 {
		t.Errorf("told of %d calls, want 320", len(told))
	}
	if wrong := outOfOrder(told, at); wrong != "" {
		t.Error(wrong)
	}
	slices.Reverse(told)
	if outOfOrder(told, at) == "" {
		t.Error("the check finds nothing wrong with the reverse")
	}
	numbers := map[uint64]bool{}
	for i, e := range events {
		if i > 0 && e.Number <= events[i-1].Number || numbers[e.Number] {
			t.Errorf("number %d after %d", e.Number, events[i-1].Number)
		}
		numbers[e.Number] = true
	}
}

// Long bodies are cut and that is said, short ones of unknown length are whole, and
// an answer that does not end holds nothing up.
func TestObserveBodies(t *testing.T) {
	w := startWatcher(t)
	hang := make(chan struct{})
	node := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/hang" {
			_, _ = io.WriteString(rw, "first")
			rw.(http.Flusher).Flush()
			<-hang
		}
		if r.URL.Path == "/trailer" {
			rw.Header().Set("Trailer", "X-End")
			defer rw.Header().Set("X-End", "yes")
			rw.(http.Flusher).Flush()
		}
		_, _ = rw.Write(body)
	}))
	defer node.Close()
	defer close(hang)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, watched(addrOf(node), w))
	w.waitFor(t, "b")
	c := newClient(t)
	url := versionURL(t, l, 1)
	for _, n := range []int{0, 1, observe.MaxBody, observe.MaxBody + 1, 3 * observe.MaxBody} {
		for _, length := range []int64{int64(n), -1} {
			body := bytes.Repeat([]byte("x"), n)
			req, err := http.NewRequest("POST", url+"/trailer", io.MultiReader(bytes.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			if length >= 0 {
				req.ContentLength = length
				req.URL.Path = "/"
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%d bytes came back of %d: %v", len(got), n, err)
			}
			mustDo(t, c, "GET", versionURL(t, l, 2)+"/", "") // now it was told
			events, _ := w.told()
			e := events[len(events)-1]
			want, cut := min(n, observe.MaxBody), n > observe.MaxBody
			if len(e.Request.Body) != want || e.Request.Truncated != cut || len(e.Response.Body) != want || e.Response.Truncated != cut {
				t.Errorf("%d bytes, length %d: told of %d, %v and %d, %v", n, length, len(e.Request.Body), e.Request.Truncated, len(e.Response.Body), e.Response.Truncated)
			}
			if length < 0 && !cut && e.Response.Trailer.Get("X-End") != "yes" {
				t.Errorf("%d bytes: trailers %v", n, e.Response.Trailer)
			}
		}
	}
	before, _ := w.told()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", url+"/hang", nil)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	mustDo(t, c, "GET", url+"/after", "")
	eventually(t, "both", func() bool { now, _ := w.told(); return len(now) == len(before)+2 })
	now, _ := w.told()
	if e := now[len(before)]; e.URI != "/hang" || string(e.Response.Body) != "first" || !e.Response.Truncated {
		t.Errorf("of the answer that does not end: %+v", e)
	}
}

// An object that is too slow is told how many calls it misses, and that from then on
// it is told of all; no call of the node waits for it.
func TestObserveFallsBehind(t *testing.T) {
	w := startWatcher(t)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, watched(addrOf(echo(t)), w))
	w.waitFor(t, "b")
	leave := make(chan struct{})
	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	w.taking(func(so.Observed) int { <-leave; return 204 })
	c := newClient(t)
	const calls = observe.MaxWaiting + 100
	for range calls {
		if r := mustDo(t, c, "PUT", versionURL(t, l, 1)+"/", "v"); r.status != 201 {
			t.Fatalf("%+v", r)
		}
	}
	s := l.Stats().Observers[2]
	if s.Missed == 0 || s.Whole || s.Waiting > observe.MaxWaiting+1 {
		t.Errorf("while it is slow: %+v", s)
	}
	release()
	eventually(t, "the rest", func() bool { return l.Stats().Observers[2].Waiting == 0 })
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/last", "v")
	eventually(t, "the last", func() bool { _, short := w.told(); return strings.HasSuffix(short, "cmbc") })
	events, short := w.told()
	if want := "b" + strings.Repeat("c", observe.MaxWaiting) + "mbc"; short != want {
		t.Errorf("told %d events, want %d: …%s", len(short), len(want), short[max(0, len(short)-10):])
	}
	if e := events[len(events)-3]; e.Missed != calls-observe.MaxWaiting || !strings.Contains(e.Why, "too slow") {
		t.Errorf("missed %d (%s), want %d", e.Missed, e.Why, calls-observe.MaxWaiting)
	}
	eventually(t, "the figures", func() bool {
		return l.Stats().Observers[2] == observe.Stats{Told: observe.MaxWaiting + 1, Missed: calls - observe.MaxWaiting, Whole: true}
	})
}

// While the object's process is away its events wait, and so do its callers; it is
// told of all when it is back. What it cannot take in, it has missed.
func TestObserveRestart(t *testing.T) {
	w := startWatcher(t)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, watched(addrOf(echo(t)), w))
	w.waitFor(t, "b")
	c := newClient(t)
	w.srv.Close()
	for i := range 3 {
		mustDo(t, c, "PUT", versionURL(t, l, 1)+fmt.Sprintf("/%d", i), "v")
	}
	eventually(t, "trouble", func() bool { return l.Stats().Observers[2].Problem != "" })
	known := make(chan string)
	go func() {
		r, err := do(newClient(t), "GET", versionURL(t, l, 2)+"/", "")
		known <- fmt.Sprint(r.body, err)
	}()
	w.up(t)
	if got := <-known; got != "3<nil>" {
		t.Errorf("a caller of the object, who waited: %s", got)
	}
	w.waitFor(t, "bccc")
	w.taking(func(e so.Observed) int {
		if e.URI == "/bad" {
			return 500
		}
		return 204
	})
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/bad", "v")
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/good", "v")
	if e := w.waitFor(t, "bcccmbc")[4]; e.Missed != 1 || !strings.Contains(e.Why, "500") {
		t.Errorf("%+v", e)
	}
	eventually(t, "the figures", func() bool {
		return l.Stats().Observers[2] == observe.Stats{Told: 4, Missed: 1, Whole: true}
	})
	// Before the node goes down, it is told of all.
	slow := make(chan struct{})
	w.taking(func(so.Observed) int { <-slow; return 204 })
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/last", "v")
	drained := make(chan error)
	go func() { _, err := l.Drain(t.Context()); drained <- err }()
	eventually(t, "the drain", func() bool { return !l.gate.IsOpen() })
	close(slow)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if _, short := w.told(); short != "bcccmbcc" {
		t.Errorf("when the node has been drained: %s", short)
	}
}

// The object is told that it sees all only when that is so: not while calls are at
// the node from before, and not after calls that come another way.
func TestObserveBegins(t *testing.T) {
	w := startWatcher(t)
	inside, leave := make(chan struct{}), make(chan struct{})
	node := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(inside)
			<-leave
		}
	}))
	defer node.Close()
	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	past := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer past.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	r := Routing{Native: 2, Backends: backends(addrOf(node))}
	apply(t, l, r)
	c := newClient(t)
	ended := make(chan struct{})
	slow := versionURL(t, l, 2) + "/slow"
	go func() {
		defer close(ended)
		if _, err := do(c, "PUT", slow, ""); err != nil {
			t.Error(err)
		}
	}()
	<-inside
	r.Objects = map[bundle.Version]Object{
		1: {Addrs: backends(addrOf(past))},
		3: {Addrs: backends("unix:" + w.addr), Observe: secretPath, Told: true},
	}
	apply(t, l, r)
	w.waitFor(t, "m")
	mustDo(t, c, "PUT", versionURL(t, l, 2)+"/seen", "")
	w.waitFor(t, "mc")
	if l.calls.SeenBy(l.gate.Routing().Observer) || l.Stats().Observers[3].Whole {
		t.Error("it is told that it sees all while a call is at the node that it does not see")
	}
	release()
	<-ended
	w.waitFor(t, "mcb")
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/old", "")
	e := w.waitFor(t, "mcbmb")[3]
	if e.Missed != 1 || !strings.Contains(e.Why, "callers of version 1") {
		t.Errorf("%+v", e)
	}
	// Older callers whose object is in this process are seen, as the node sees them.
	r.Objects[1] = Object{Local: so.Compatible()}
	apply(t, l, r)
	mustDo(t, c, "PUT", versionURL(t, l, 1)+"/old", "")
	w.waitFor(t, "mcbmbc")
	// An object further on is told nothing that it could rely on.
	r.Native, r.Objects = 1, map[bundle.Version]Object{2: {Local: so.Compatible()}, 3: r.Objects[3]}
	apply(t, l, r)
	w.waitFor(t, "mcbmbcm")
}

// A call that ends without an answer is told as one whose outcome is not known.
func TestObserveNoAnswer(t *testing.T) {
	w := startWatcher(t)
	node := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, watched(addrOf(node), w))
	w.waitFor(t, "b")
	c := newClient(t)
	if r := mustDo(t, c, "POST", versionURL(t, l, 1)+"/x", "v"); r.status != 502 {
		t.Errorf("%+v", r)
	}
	if e := w.waitFor(t, "bc")[1]; e.Status != 0 || string(e.Request.Body) != "v" {
		t.Errorf("%+v", e)
	}
	mustDo(t, c, "GET", versionURL(t, l, 1)+"/x", "") // changes nothing, so there is nothing to tell
	if r := mustDo(t, c, "GET", versionURL(t, l, 2)+"/", ""); r.body != "1" {
		t.Errorf("it knows of %s calls, want 1", r.body)
	}
}

// Calls of HTTP/2 are seen too, also of a caller whose connection was there before,
// and is never idle.
func TestObserveHTTP2(t *testing.T) {
	w := startWatcher(t)
	leave := make(chan struct{})
	node := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			rw.(http.Flusher).Flush()
			<-leave
		}
		_, _ = io.Copy(rw, r.Body)
	}))
	node.Config.Protocols = new(http.Protocols)
	node.Config.Protocols.SetUnencryptedHTTP2(true)
	node.Start()
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	r := watched(addrOf(node), w)
	objects := r.Objects
	r.Objects = nil
	apply(t, l, r)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	url := versionURL(t, l, 1)
	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	held, err := c.Get(url + "/hold")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Body.Close()
	r.Objects = objects
	apply(t, l, r)
	if got := mustDo(t, c, "PUT", url+"/after", "v"); got.status != 200 || got.body != "v" {
		t.Errorf("%+v", got)
	}
	w.waitFor(t, "c")
	release()
	if e := w.waitFor(t, "cb")[0]; e.URI != "/after" || string(e.Response.Body) != "v" {
		t.Errorf("%+v", e)
	}
}

// A layer that ends, or an object that goes, does not wait for what cannot be told.
func TestObserveEnds(t *testing.T) {
	w := startWatcher(t)
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	node := addrOf(echo(t))
	apply(t, l, watched(node, w))
	w.waitFor(t, "b")
	w.srv.Close()
	c := newClient(t)
	for range 2 {
		mustDo(t, c, "PUT", versionURL(t, l, 1)+"/x", "v")
		eventually(t, "trouble", func() bool { return l.Stats().Observers[2].Problem != "" })
		apply(t, l, Routing{Native: 1, Backends: backends(node)})
		apply(t, l, watched(node, w))
	}
	l.Close()
}
