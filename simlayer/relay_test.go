package simlayer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// rawCaller speaks HTTP/1.1 by hand.
type rawCaller struct {
	*net.TCPConn
	t  testing.TB
	br *bufio.Reader
}

func rawTo(t testing.TB, addr string) *rawCaller {
	c := dialLayer(t, addr)
	return &rawCaller{c, t, bufio.NewReader(c)}
}

func (c *rawCaller) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// hear reads a response to a GET.
func (c *rawCaller) hear() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(data)
}

func getOf(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

func startNode(t testing.TB, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// pathNode answers with the path of the call.
func pathNode(t testing.TB) *httptest.Server {
	return startNode(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
}

func relayTo(t testing.TB, backend string) *Layer {
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(backend)})
	return l
}

// A caller that has said all, and half closed its connection, gets its answer;
// the node sees the half close too.
func TestHTTPHalfClose(t *testing.T) {
	l := relayTo(t, addrOf(pathNode(t)))
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + getOf("/b"))
	_ = c.CloseWrite()
	for _, want := range []string{"/a", "/b"} {
		if resp, body := c.hear(); body != want || resp.StatusCode != 200 {
			t.Fatalf("%d %q, want %q", resp.StatusCode, body, want)
		}
	}
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Errorf("after the answers: %v, want the end", err)
	}
	eventually(t, "no connection", func() bool { return l.conns.Open() == 0 })
}

// Requests that come at once are answered in order, and never two of them are at
// the node.
func TestPipelining(t *testing.T) {
	var at, most atomic.Int32
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), at.Add(1)))
		defer at.Add(-1)
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.URL.Path)
	})
	l := relayTo(t, addrOf(node))
	c := rawTo(t, l.Addresses()["api"].Public)
	var all strings.Builder
	for i := range 50 {
		switch i % 3 {
		case 0:
			all.WriteString(getOf(fmt.Sprintf("/%d", i)))
		case 1:
			fmt.Fprintf(&all, "PUT /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", i)
		case 2:
			fmt.Fprintf(&all, "PUT /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
		}
	}
	c.say(all.String())
	for i := range 50 {
		if _, body := c.hear(); body != fmt.Sprintf("/%d", i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
	if n := l.Stats().PeakInFlight; n != 1 || most.Load() != 1 {
		t.Errorf("%d at the gate, %d at the node at once; want 1", n, most.Load())
	}
}

// A caller that goes away is gone at the node too, and counts as such.
func TestCallerGoes(t *testing.T) {
	arrived, gone := make(chan struct{}), make(chan struct{})
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(gone)
		panic(http.ErrAbortHandler)
	})
	l := relayTo(t, addrOf(node))
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say(getOf("/"))
	<-arrived
	c.Close()
	<-gone
	eventually(t, "a canceled call", func() bool {
		s := l.Stats()
		return s.Services["api"][1].Canceled == 1 && s.InFlight == 0
	})
}

// While the node goes down, the call that is there is the last of its connection,
// and an idle connection is kept: its next call is held.
func TestDrainIsPolite(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-finish
		}
		fmt.Fprint(w, r.URL.Path)
	})
	l := relayTo(t, addrOf(node))
	busy, idle, half := rawTo(t, l.Addresses()["api"].Public), rawTo(t, l.Addresses()["api"].Public), rawTo(t, l.Addresses()["api"].Public)
	idle.say(getOf("/first"))
	if resp, _ := idle.hear(); resp.Close {
		t.Error("Connection: close without a drain")
	}
	busy.say(getOf("/slow"))
	<-arrived
	half.say("PUT /half HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab") // delays no drain
	drained := make(chan error)
	go func() {
		_, err := l.Drain(t.Context())
		drained <- err
	}()
	eventually(t, "the drain", l.gate.Leaving)
	close(finish)
	resp, body := busy.hear()
	if body != "/slow" || !resp.Close {
		t.Errorf("%q, close %v; want /slow and Connection: close", body, resp.Close)
	}
	if _, err := busy.br.ReadByte(); err != io.EOF {
		t.Errorf("after it: %v, want the end", err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	idle.say(getOf("/second"))
	half.say("cd")
	eventually(t, "two calls held", func() bool { return l.Stats().Held == 2 })
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(pathNode(t)))})
	if resp, body := idle.hear(); body != "/second" || resp.Close {
		t.Errorf("held: %q, close %v", body, resp.Close)
	}
	if _, body := half.hear(); body != "/half" {
		t.Errorf("held: %q", body)
	}
}

// Where new connections would not come by the agent, callers are asked to make
// them.
func TestDirectAsksForNewConnections(t *testing.T) {
	l := relayTo(t, addrOf(pathNode(t)))
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say(getOf("/a"))
	if resp, _ := c.hear(); resp.Close {
		t.Error("asked without a reason")
	}
	l.services["api"].public.Lead(true)
	c.say(getOf("/b"))
	if resp, body := c.hear(); !resp.Close || body != "/b" {
		t.Errorf("%q, close %v", body, resp.Close)
	}
}

// A caller keeps its connection over a crash of the node, and its next call,
// which cannot have reached the node, waits.
func TestIdleOverCrash(t *testing.T) {
	node := pathNode(t)
	l := relayTo(t, addrOf(node))
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say(getOf("/a"))
	c.hear()
	node.CloseClientConnections()
	node.Close()
	eventually(t, "the crash noticed", func() bool { return len(l.gate.Routing().Backends["api"].Relaying()) == 0 })
	c.say("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	eventually(t, "the call waits", func() bool { return l.Stats().Held == 1 })
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(pathNode(t)))})
	if resp, body := c.hear(); resp.StatusCode != 200 || body != "/b" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

// A node that closes idle connections does so towards the caller, a little later.
func TestIdleIsClosed(t *testing.T) {
	node := pathNode(t)
	l := relayTo(t, addrOf(node))
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say(getOf("/a"))
	c.hear()
	node.CloseClientConnections()
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
}

// An interim response comes through before the body is sent.
func TestContinue(t *testing.T) {
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", data)
	})
	l := relayTo(t, addrOf(node))
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if line, err := c.br.ReadString('\n'); !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = c.br.ReadString('\n')
	c.say("hello")
	if _, body := c.hear(); body != "got hello" {
		t.Errorf("%q", body)
	}
}

// Bodies of all sizes and framings come through whole, both ways, to a node on
// TCP and on a unix socket; the connection is idle after each.
func TestBodies(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Sum", fmt.Sprintf("%x", sha256.Sum256(data)))
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		}
		for len(data) > 0 { // in pieces
			n := min(len(data), 10_000)
			_, _ = w.Write(data[:n])
			data = data[n:]
		}
	})
	sock := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	local := &http.Server{Handler: h}
	go func() { _ = local.Serve(ln) }()
	defer local.Close()
	for _, backend := range []string{addrOf(startNode(t, h)), "unix:" + sock} {
		l := relayTo(t, backend)
		client := newClient(t)
		for _, size := range []int{0, 1, 5_000, stream.BufferSize - 200, stream.BufferSize, stream.BufferSize + 1, stream.SpliceFrom, 100_000, 3_000_000} {
			data := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			sum := fmt.Sprintf("%x", sha256.Sum256(data))
			for _, path := range []string{"/sized", "/chunked"} {
				var body io.Reader = bytes.NewReader(data)
				if path == "/chunked" {
					body = io.MultiReader(body) // of no known length
				}
				resp, err := client.Post(publicURL(l)+path, "x/y", body)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, data) || resp.Header.Get("Sum") != sum {
					t.Errorf("%s, %d bytes: %v, %d bytes back", path, size, err, len(got))
				}
			}
		}
		eventually(t, "nothing in flight", func() bool { return l.Stats().InFlight == 0 })
		if n := l.conns.Open(); n != 1 {
			t.Errorf("%d connections for calls one after the other, want 1", n)
		}
	}
}

// What is no HTTP/1.1 that can be followed passes as it is, and counts as one
// call until it ends.
func TestUnusualPasses(t *testing.T) {
	node := tcpNode(t, func(c net.Conn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "echo ", line)
	})
	l := relayTo(t, node.Addr().String())
	for _, say := range []string{"\x16\x03\x01 hello\n", "GET / HTTP/1.1\nHost: x\n\n", "GET  / HTTP/9.1\r\n\r\n"} {
		c := rawTo(t, l.Addresses()["api"].Public)
		c.say(say)
		line, err := c.br.ReadString('\n')
		first, _, _ := strings.Cut(say, "\n")
		if line != "echo "+first+"\n" {
			t.Errorf("%q: %q, %v", say, line, err)
		}
		c.Close()
	}
	eventually(t, "three calls", func() bool {
		s := l.Stats()
		return s.Services["api"][1].Calls == 3 && s.InFlight == 0
	})
}

// A head that is longer than a relay reads is net/http's affair; the connection
// stays there.
func TestLongHead(t *testing.T) {
	l := relayTo(t, addrOf(pathNode(t)))
	c := rawTo(t, l.Addresses()["api"].Public)
	for range 2 {
		c.say("GET /a HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("x", 2*stream.BufferSize) + "\r\n\r\n")
		if resp, body := c.hear(); body != "/a" || resp.Close {
			t.Fatalf("%q, close %v", body, resp.Close)
		}
	}
}

// Callers who needed simulation, and do no longer, get back to the relay: at once,
// or by a new connection where net/http had theirs.
func TestBackToTheRelay(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*Config)) { backToTheRelay(t, change) })
}

func backToTheRelay(t *testing.T, change func(*Config)) {
	st := &state{values: map[string]string{"k": "v"}}
	l := startLayer(t, bundle.ProtocolHTTP, change)
	objects := InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)})
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, st))), Objects: objects, External: 1})
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say(getOf("/v1/keys/k"))
	if resp, body := c.hear(); body != `{"f1":"v"}` || resp.Close {
		t.Fatalf("%q, close %v", body, resp.Close)
	}
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, st))), Objects: objects, External: 2})
	c.say(getOf("/v2/keys/k"))
	if resp, body := c.hear(); strings.TrimSpace(body) != `{"f2":"v"}` || resp.Close != l.cfg.byProxy {
		t.Errorf("%q, close %v; want the answer, and Connection: close of net/http", body, resp.Close)
	}
	if l.cfg.byProxy {
		return
	}
	// And there again.
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, st))), Objects: objects, External: 1})
	c.say(getOf("/v1/keys/k") + getOf("/v1/keys/k"))
	for range 2 {
		if resp, body := c.hear(); body != `{"f1":"v"}` || resp.Close {
			t.Errorf("%q, close %v", body, resp.Close)
		}
	}
}

// Held calls that turn out to need simulation are handed over whole.
func TestHeldThenSimulated(t *testing.T) {
	st := &state{values: map[string]string{"k": "v"}}
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Down: true})
	var wg sync.WaitGroup
	for i, body := range []string{"", `{"f1":"new"}`, `{"f1":"` + strings.Repeat("y", 2*DefaultLimits().Replay) + `"}`} {
		wg.Go(func() {
			method := "PUT"
			if body == "" {
				method = "GET"
			}
			r, err := do(newClient(t), method, publicURL(l)+fmt.Sprintf("/v1/keys/k%d", i), body)
			if err != nil || r.status != 200 {
				t.Errorf("%s: %v %+v", method, err, r)
			}
		})
	}
	eventually(t, "three calls held", func() bool { return l.Stats().Held == 3 })
	apply(t, l, Routing{
		Native: 2, Backends: backends(addrOf(software(t, 2, st))), External: 1,
		Objects: InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)}),
	})
	wg.Wait()
	if s := l.Stats().Services["api"][1]; s.Calls != 3 || s.Held != 3 || s.Errors != 0 {
		t.Errorf("%+v, want three calls that were held", s)
	}
}

// A node that answers early, and reads no more, is heard.
func TestEarlyAnswer(t *testing.T) {
	node := tcpNode(t, func(c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	l := relayTo(t, node.Addr().String())
	c := rawTo(t, l.Addresses()["api"].Public)
	c.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nsome")
	if resp, body := c.hear(); resp.StatusCode != 413 || body != "big" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Errorf("after it: %v, want the end", err)
	}
	c.Close()
	eventually(t, "nothing in flight", func() bool { return l.Stats().InFlight == 0 && l.conns.Open() == 0 })
}

// An answer without a length ends with the connection; one that is cut off does
// not pass for a whole one.
func TestUntilClose(t *testing.T) {
	finish := make(chan struct{})
	node := tcpNode(t, func(c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\nsome")
		<-finish
		fmt.Fprint(c, " more")
	})
	l := relayTo(t, node.Addr().String())
	first, second := rawTo(t, l.Addresses()["api"].Public), rawTo(t, l.Addresses()["api"].Public)
	for _, c := range []*rawCaller{first, second} {
		c.say(getOf("/"))
		if _, err := io.ReadFull(c.br, make([]byte, len("HTTP/1.1 200 OK\r\n\r\nsome"))); err != nil {
			t.Fatal(err)
		}
	}
	finish <- struct{}{} // one of the two
	ctx, cancel := context.WithCancel(t.Context())
	eventually(t, "one left", func() bool { return l.Stats().InFlight == 1 })
	cancel()
	if n, _ := l.Drain(ctx); n != 1 {
		t.Errorf("%d cut, want 1", n)
	}
	close(finish)
	whole := 0
	for _, c := range []*rawCaller{first, second} {
		if data, err := io.ReadAll(c.br); err == nil && string(data) == " more" {
			whole++
		} else if err == nil {
			t.Errorf("an answer that was cut passes for a whole one: %q", data)
		}
	}
	if whole != 1 {
		t.Errorf("%d whole answers, want 1", whole)
	}
}
