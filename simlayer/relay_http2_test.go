package simlayer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/wire"
	"moult/store/bundle"
)

// serve2 makes a test server take HTTP/2 without TLS.
func serve2(t testing.TB, h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// newClient2 speaks HTTP/2 without TLS only.
func newClient2(t testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// software2 is software with HTTP/2.
func software2(t testing.TB, v int, s *state) *httptest.Server {
	return serve2(t, software(t, v, s).Config.Handler)
}

// Calls of HTTP/2 pass unchanged: trailers, bodies both ways at once, many at a
// time on one connection.
func TestHTTP2Relay(t *testing.T) {
	node := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the node is called by %s", r.Proto)
		}
		w.Header().Set("Trailer", "Sum")
		data, _ := io.ReadAll(r.Body)
		_, _ = w.Write(data)
		w.Header().Set("Sum", fmt.Sprint(len(data), r.Trailer.Get("T")))
	}))
	l := relayTo(t, addrOf(node))
	c := newClient2(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			body := strings.Repeat("x", i*5_000)
			req, _ := http.NewRequest("POST", publicURL(l), io.MultiReader(strings.NewReader(body)))
			req.Trailer = http.Header{"T": {"t"}}
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			if err != nil || string(data) != body || resp.Trailer.Get("Sum") != fmt.Sprint(len(body), "t") {
				t.Errorf("%v, %d bytes of %d, trailer %v", err, len(data), len(body), resp.Trailer)
			}
		})
	}
	wg.Wait()
	eventually(t, "50 calls counted", func() bool {
		s := l.Stats()
		return s.Services["api"][1].Calls == 50 && s.InFlight == 0
	})
	if n := l.conns.Open(); n > 8 {
		t.Errorf("%d connections", n)
	}
}

// Calls of HTTP/2 are simulated like others, and the node is called by HTTP/2.
func TestHTTP2Simulated(t *testing.T) {
	st := &state{values: map[string]string{"k": "v"}}
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	var other sync.Map
	inner := software(t, 2, st).Config.Handler
	node := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		other.Store(r.ProtoMajor, true)
		inner.ServeHTTP(w, r)
	}))
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(node)), Objects: InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)})})
	c := newClient2(t)
	if r := mustDo(t, c, "GET", versionURL(t, l, 1)+"/v1/keys/k", ""); r.body != `{"f1":"v"}` {
		t.Errorf("%+v", r)
	}
	if r := mustDo(t, c, "PUT", versionURL(t, l, 1)+"/v1/keys/k", `{"f1":"no"}`); r.status != 501 || r.refusal != so.RefusalDenied {
		t.Errorf("%+v", r)
	}
	if _, ok := other.Load(1); ok {
		t.Error("the node was called by HTTP/1.1 for a caller of HTTP/2")
	}
}

// The node goes back and forth under callers of HTTP/2, of its own version and of
// another. No call fails. Without the drain some do: the test can fail.
func TestHTTP2SwapUnderLoad(t *testing.T) {
	if failed := swapHTTP2(t, 25, true); failed != 0 {
		t.Errorf("%d calls failed", failed)
	}
	if swapHTTP2(t, 25, false) == 0 {
		t.Error("swaps without a drain were not noticed")
	}
}

func swapHTTP2(t *testing.T, swaps int, drain bool) (bad int) {
	objects := InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2), 2: rename(t, 2, 1)})
	st := &state{values: map[string]string{"k": "v"}}
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	node := software2(t, 1, st)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node)), Objects: objects, External: 1})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	calls := [2]int{}
	for v := 1; v <= 2; v++ {
		c := newClient2(t)
		url := fmt.Sprintf("%s/v%d/keys/k", versionURL(t, l, bundle.Version(v)), v)
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					r, err := do(c, "PUT", url, fmt.Sprintf(`{"f%d":"v"}`, v))
					mu.Lock()
					calls[v-1]++
					if err != nil || r.status != 200 {
						bad++
						if drain && bad < 5 {
							t.Errorf("version %d: %v %+v", v, err, r)
						}
					}
					mu.Unlock()
				}
			})
		}
	}
	for n := range swaps {
		mu.Lock()
		seen := calls
		mu.Unlock()
		eventually(t, "calls of both", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return calls[0] > seen[0]+4 && calls[1] > seen[1]+4
		})
		v := 2 - n%2
		if drain {
			if _, err := l.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			apply(t, l, Routing{Native: bundle.Version(v), Down: true, Objects: objects, External: 1})
		}
		node.CloseClientConnections()
		node.Close()
		node = software2(t, v, st)
		apply(t, l, Routing{Native: bundle.Version(v), Backends: backends(addrOf(node)), Objects: objects, External: 1})
	}
	stop()
	wg.Wait()
	return bad
}

// A call that is at the node when it goes down ends; its connection is told that
// no more are taken; the next call goes by another one, and is held.
func TestHTTP2Drain(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	node := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-finish
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	l := relayTo(t, addrOf(node))
	c := newClient2(t)
	answers := make(chan string)
	call := func(path string) {
		go func() {
			r, err := do(c, "POST", publicURL(l)+path, "")
			answers <- fmt.Sprint(r.status, r.body, err)
		}()
	}
	call("/slow")
	<-arrived
	drained := make(chan error)
	go func() {
		_, err := l.Drain(t.Context())
		drained <- err
	}()
	eventually(t, "the drain", l.gate.Leaving)
	call("/next")
	eventually(t, "the next call held", func() bool { return l.Stats().Held == 1 })
	close(finish)
	if a := <-answers; a != "200/slow<nil>" {
		t.Errorf("%s", a)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(serve2(t, node.Config.Handler)))})
	if a := <-answers; a != "200/next<nil>" {
		t.Errorf("%s", a)
	}
}

// A drain that runs out of time cuts calls of HTTP/2.
func TestHTTP2Cut(t *testing.T) {
	arrived := make(chan struct{})
	node := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	l := relayTo(t, addrOf(node))
	result := make(chan reply)
	go func() {
		r, err := do(newClient2(t), "POST", publicURL(l), "x")
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := l.Drain(ctx); n != 1 || err == nil {
		t.Errorf("%d cut, %v", n, err)
	}
	if r := <-result; r.status != 503 || r.refusal != so.RefusalError || r.header.Get("Retry-After") == "" {
		t.Errorf("a call that was cut: %+v, want 503", r)
	}
	eventually(t, "an error counted", func() bool { return l.Stats().Services["api"][1].Errors == 1 })
}

// speak2 begins a connection of HTTP/2 at the public address. until reads on to a frame of
// a kind.
func speak2(t *testing.T, l *Layer) (conn net.Conn, frames *http2.Framer, until func(http2.FrameType) http2.Frame) {
	t.Helper()
	conn = dialLayer(t, l.Addresses()["api"].Public)
	frames = http2.NewFramer(conn, conn)
	_, _ = io.WriteString(conn, wire.Preface)
	if err := frames.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return conn, frames, func(kind http2.FrameType) http2.Frame {
		for {
			f, err := frames.ReadFrame()
			if err != nil {
				t.Fatalf("before %v: %v", kind, err)
			}
			if f.Header().Type == kind {
				return f
			}
		}
	}
}

// A caller that has connected and not called yet is told that this connection takes no
// calls, and does not see its end first: it would not make its call by another one.
func TestHTTP2Farewell(t *testing.T) {
	for name, end := range map[string]func(*Layer, *httptest.Server) error{
		"drain":         func(l *Layer, _ *httptest.Server) error { _, err := l.Drain(t.Context()); return err },
		"the node ends": func(_ *Layer, node *httptest.Server) error { return node.Config.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				node := serve2(t, http.HandlerFunc(sumNode))
				l := relayTo(t, addrOf(node))
				conn, _, until := speak2(t, l)
				until(http2.FrameSettings) // the node's
				until(http2.FrameSettings) // it has the caller's, and says no more
				if err := end(l, node); err != nil {
					t.Fatal(err)
				}
				until(http2.FrameGoAway)
				var in stream.Reader
				if err := in.Start(conn, new(stream.Buffers)); err != nil {
					t.Fatal(err)
				}
				for _, c := range l.services["api"].public.Callers() {
					c.Quiet(func() { // nothing more is on its way
						if !in.Alive() {
							t.Error("the connection ended before it was used")
						}
					})
				}
				l.Close()
			}
		})
	}
}

// While calls end before a drain, a caller is asked to call elsewhere, and what it has
// called meanwhile is answered: a call that is dropped then, and once more when the drain
// begins, fails in gRPC's clients.
func TestHTTP2Finish(t *testing.T) {
	node := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	l := relayTo(t, addrOf(node))
	_, frames, until := speak2(t, l)
	until(http2.FrameSettings)
	if _, err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if away := until(http2.FrameGoAway).(*http2.GoAwayFrame); away.LastStreamID != wire.LastStream {
		t.Errorf("asked to call elsewhere, streams after %d are not taken", away.LastStreamID)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "n"}, {Name: ":path", Value: "/late"},
	} {
		_ = enc.WriteField(f) // to memory
	}
	if err := frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	if data := until(http2.FrameData).(*http2.DataFrame); string(data.Data()) != "/late" {
		t.Errorf("answered %q", data.Data())
	}
	if _, err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if away := until(http2.FrameGoAway).(*http2.GoAwayFrame); away.LastStreamID != 1 {
		t.Errorf("the drain took streams up to %d, want 1", away.LastStreamID)
	}
}
