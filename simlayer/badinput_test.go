package simlayer

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
)

// Bad input fails its own call, with a clear reason, and nothing else. Who tests
// what:
//
//	rules that do not parse                    so.TestParseRulesErrors, host.TestBadObjects, TestBadObjectProcesses (cmd/moult)
//	rules that never match, jq that fails,
//	invalid JSON, bodies over the limit        so.TestBadInput; here, with others' calls meanwhile
//	jq without end, jq that eats memory        so.TestRunaway, host.TestMemory; TestBadObjectProcesses
//	wasm without the exports                   wasm.TestOpenRefuses; TestBadObjectProcesses
//	wasm that loops, recurses, grows, traps    wasm.TestBadGuests, wasm.TestSpinningGuest; TestBadObjectProcesses
//	wasm and rules that flood next             wasm.TestBadGuests, so.TestFloodOfNext
//	an exec object that never listens, exits,
//	crashes, stalls, floods its log            host.TestBadExec, host.TestFlood; TestBadObjectProcesses
//	an object that calls next in a circle      so.TestCircle (in one process); here; TestBadObjectProcesses
//	half a request, and then nothing           here
//	10,000 idle connections                    TestIdleMemory
//	a version that nobody serves               here
//	SOCKS and UDP                              TestSOCKSBadInput; TestUDPBounds

// goodCalls makes calls all the time until stop, which returns how many were
// answered and what went wrong with the others.
func goodCalls(t *testing.T, url, want string) (stop func() (answered int, wrong []string)) {
	client, ended := newClient(t), make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var n int
	var wrong []string
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				r, err := do(client, http.MethodGet, url, "")
				mu.Lock()
				if err == nil && r.status == http.StatusOK && strings.Contains(r.body, want) {
					n++
				} else if len(wrong) < 5 {
					wrong = append(wrong, fmt.Sprintf("%s: %d %q %v", url, r.status, r.body, err))
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []string) {
		close(ended)
		wg.Wait()
		return n, wrong
	}
}

// goodMeanwhile does something bad while callers of the node's own version, and
// simulated ones of version 3, make calls, of which none may fail. The software is
// of version 2.
func goodMeanwhile(t *testing.T, l *Layer, bad func()) {
	t.Helper()
	native := goodCalls(t, versionURL(t, l, 2)+"/v2/keys/k", `"f2":"kept"`)
	simulated := goodCalls(t, versionURL(t, l, 3)+"/v3/keys/k", `"f3":"kept"`)
	bad()
	for _, stop := range []func() (int, []string){native, simulated} {
		n, wrong := stop()
		if n == 0 {
			t.Error("no good call was made")
		}
		for _, w := range wrong {
			t.Errorf("a good call failed: %s", w)
		}
	}
}

// goodLayer is a layer before software of version 2, with what answers version 1.
func goodLayer(t *testing.T, bad Object, change func(*Config)) *Layer {
	s := &state{values: map[string]string{"k": "kept"}}
	l := startLayer(t, bundle.ProtocolHTTP, change)
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, s))), HoldTimeout: time.Second, Objects: map[bundle.Version]Object{
		1: bad, 3: {Local: rename(t, 3, 2)},
	}})
	return l
}

func TestBadRules(t *testing.T) {
	rules, err := so.ParseRules([]byte(`
call "GET /jq" {
  answer {
    body = "{a: (.query.n | tonumber)}"
  }
}
call "PUT /keys/{key}" {
  next "PUT /v2/keys/{key}" {
    body = "{f2: (.body.value | ascii_downcase)}"
  }
}
call "GET /spoilt" {
  next "GET /nowhere" {}
  response "*" {
    body = ".body.value"
  }
}
default {
  deny {
    status = 404
    reason = "version 1 has no such call"
  }
}`), "bad.hcl")
	if err != nil {
		t.Fatal(err)
	}
	l := goodLayer(t, Object{Local: rules}, nil)
	goodMeanwhile(t, l, func() {
		client := newClient(t)
		for range 10 {
			for _, c := range []struct {
				method, path, body string
				status             int
				refusal, reason    string
			}{
				{"GET", "/never/matches", "", 404, so.RefusalDenied, "version 1 has no such call"},
				{"GET", "/jq?n=x", "", 500, so.RefusalError, "tonumber"},
				{"PUT", "/keys/k2", `{"value": 1}`, 500, so.RefusalError, "ascii_downcase"},
				{"PUT", "/keys/k2", `{"value": "cut`, 400, so.RefusalError, "JSON"},
				{"PUT", "/keys/k2", `{"value": "` + strings.Repeat("x", so.MaxBody) + `"}`, 413, so.RefusalError, "bytes"},
				{"GET", "/spoilt", "", 502, so.RefusalError, "JSON"},
			} {
				r := mustDo(t, client, c.method, versionURL(t, l, 1)+c.path, c.body)
				if r.status != c.status || r.refusal != c.refusal || !strings.Contains(r.body, c.reason) {
					t.Errorf("%s %s: %d %s %.300s, want %d %s: %q", c.method, c.path, r.status, r.refusal, r.body, c.status, c.refusal, c.reason)
				}
			}
		}
	})
	if c := l.Stats().Services["api"][1]; c.Denied != 10 || c.Errors != 50 {
		t.Errorf("counted %+v, want 10 denied and 50 errors", c)
	}
}

// Callers who send half a request and then nothing hold up nobody, and no drain.
func TestStalledCallers(t *testing.T) {
	l := goodLayer(t, Object{Local: rename(t, 1, 2)}, nil)
	halves := []string{
		"G", "GET /v2/keys/k HTTP/1.1\r\nHost: ", "PUT /v2/keys/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"PUT /v2/keys/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01",
	}
	goodMeanwhile(t, l, func() {
		const each = 20
		for v := bundle.Version(1); v <= 3; v++ {
			addr := strings.TrimPrefix(versionURL(t, l, v), "http://")
			for i := range each * len(halves) {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := io.WriteString(c, halves[i%len(halves)]); err != nil {
					t.Fatal(err)
				}
			}
		}
		// What is no HTTP may have been answered by then, and closed.
		eventually(t, "all are there", func() bool { return l.conns.Open() >= 3*each*int64(len(halves)-1) })
		eventually(t, "good calls are made", func() bool { return l.Stats().Services["api"][3].Calls > 50 })
	})
	// Those whose body was let in to the node, since its length is not known, are
	// cut; nobody else is waited for.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if n, err := l.Drain(ctx); n > 3*20*2 || n > 0 && err == nil {
		t.Errorf("%d calls were cut, %v", n, err)
	}
}

// circle is an object process that calls whom it answers for, and not next. It
// passes headers on if keep is set. Its address is set later, as its target is.
func circle(t *testing.T, keep bool) (addr string, aim func(string)) {
	var target atomic.Pointer[url.URL]
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{Transport: tr, Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(target.Load())
		if !keep {
			pr.Out.Header = http.Header{}
		}
	}}
	srv := httptest.NewServer(proxy)
	t.Cleanup(srv.Close)
	return addrOf(srv), func(to string) {
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		target.Store(u)
	}
}

// An object process that calls itself by way of the node's own address gets to an
// end, by the number of its calls, or, where it passes headers on, of hops; its
// caller is told, and there is room for others all the while.
func TestCircles(t *testing.T) {
	for name, c := range map[string]struct {
		keep   bool           // the object passes headers on
		at     bundle.Version // 2: the object's own callers; 1: through rules to it
		status int
		reason string
	}{
		"in bytes":                 {false, 2, 503, "calls itself"},
		"in bytes, headers kept":   {true, 2, 503, "calls itself"},
		"through rules":            {false, 1, 503, "calls itself"},
		"through rules, with hops": {true, 1, 508, "in a circle"},
	} {
		t.Run(name, func(t *testing.T) {
			object, aim := circle(t, c.keep)
			l := startLayer(t, bundle.ProtocolHTTP, func(cfg *Config) { cfg.Limits = Limits{Held: 10, Conns: 800, Replay: 1 << 10} })
			passes, err := so.ParseRules([]byte("default {\n  pass = true\n}\n"), "pass.hcl")
			if err != nil {
				t.Fatal(err)
			}
			s := &state{values: map[string]string{"k": "kept"}}
			apply(t, l, Routing{Native: 3, Backends: backends(addrOf(software(t, 3, s))), Objects: map[bundle.Version]Object{
				2: {Addrs: backends(object)}, 1: {Local: passes}, 4: {Local: rename(t, 4, 3)},
			}})
			aim(versionURL(t, l, c.at))
			native := goodCalls(t, versionURL(t, l, 3)+"/v3/keys/k", `"f3":"kept"`)
			simulated := goodCalls(t, versionURL(t, l, 4)+"/v4/keys/k", `"f4":"kept"`)
			for range 3 {
				r := mustDo(t, newClient(t), "GET", versionURL(t, l, c.at)+"/v1/keys/k", "")
				if r.status != c.status || r.refusal != so.RefusalError || !strings.Contains(r.body, c.reason) {
					t.Errorf("%d %s %.400s, want %d: %q", r.status, r.refusal, r.body, c.status, c.reason)
				}
			}
			for _, stop := range []func() (int, []string){native, simulated} {
				if n, wrong := stop(); n == 0 || len(wrong) > 0 {
					t.Errorf("%d good calls, %q", n, wrong)
				}
			}
			eventually(t, "all have ended", func() bool { return l.Stats().Services["api"][c.at].Open == 0 })
		})
	}
}

// The same over a raw protocol.
func TestRawCircle(t *testing.T) {
	var target atomic.Value
	object := tcpNode(t, func(c net.Conn) {
		up, err := net.Dial("tcp", target.Load().(string))
		if err != nil {
			stream.Reset(c)
			return
		}
		stream.Splice(c, up)
	})
	node := tcpNode(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	l := startLayer(t, bundle.ProtocolTCP, func(c *Config) { c.Limits = Limits{Held: 10, Conns: 200} })
	apply(t, l, Routing{Native: 2, Backends: backends(node.Addr().String()), Objects: map[bundle.Version]Object{1: {Addrs: backends(object.Addr().String())}}})
	addr := func(v bundle.Version) string { return l.Addresses()["api"].Versions[v] }
	target.Store(addr(1))
	for range 3 {
		c, err := net.Dial("tcp", addr(1))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err == nil {
			t.Error("a circle ended as if all were well")
		}
		c.Close()
		good, err := net.Dial("tcp", addr(2))
		if err != nil {
			t.Fatal(err)
		}
		_ = good.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(good, "x")
		if _, err := io.ReadFull(good, make([]byte, 1)); err != nil {
			t.Errorf("a good connection: %v", err)
		}
		good.Close()
	}
	eventually(t, "all have ended", func() bool { return l.Stats().InFlight == 0 && l.conns.Open() == 0 })
	if c := l.Stats().Services["api"][1]; c.Errors < 3 || c.Calls < 3*50 {
		t.Errorf("%+v, want three refusals after 50 rounds each", c)
	}
}

// Callers of a version that nobody serves are told so; its address, where there is
// none, refuses them.
func TestNobodyServes(t *testing.T) {
	l := goodLayer(t, Object{Local: so.Refuse("the whole of version 1 is gone")}, func(c *Config) {
		s := c.Services["api"]
		s.External = 9
		c.Services["api"] = s
	})
	goodMeanwhile(t, l, func() {
		for range 20 {
			r := mustDo(t, newClient(t), "GET", publicURL(l)+"/", "")
			if r.status != 501 || r.refusal != so.RefusalError || !strings.Contains(r.body, "no simulation object for callers of version 9") {
				t.Errorf("%+v", r)
			}
			if r := mustDo(t, newClient(t), "GET", versionURL(t, l, 1)+"/", ""); r.status != 501 || r.refusal != so.RefusalDenied || !strings.Contains(r.body, "gone") {
				t.Errorf("%+v", r)
			}
		}
	})
}
