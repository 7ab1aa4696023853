package simlayer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// Callers of all versions at a node of version 3, through two objects at most.
func TestVersions(t *testing.T) {
	st := &state{values: map[string]string{}}
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	objects := map[bundle.Version]so.Object{
		1: rename(t, 1, 2), 2: rename(t, 2, 3), 4: rename(t, 4, 3), 5: so.Refuse("version 5 is too new"),
		7: so.Compatible(), // not reachable: 6 has none
	}
	apply(t, l, Routing{Native: 3, Backends: backends(addrOf(software(t, 3, st))), Objects: InProcess(objects), External: 1})
	if n := len(l.Addresses()["api"].Versions); n != 5 {
		t.Fatalf("addresses for %d versions: %v, want 1 to 5", n, l.Addresses())
	}
	c := newClient(t)
	for v := 1; v <= 4; v++ {
		url := versionURL(t, l, bundle.Version(v))
		path := fmt.Sprintf("/v%d/keys/a%%2Fb", v)
		value := fmt.Sprintf("by %d", v)
		if r := mustDo(t, c, "PUT", url+path, fmt.Sprintf(`{"f%d":%q}`, v, value)); r.status != 200 {
			t.Errorf("put by version %d: %d %s", v, r.status, r.body)
		}
		for w := 1; w <= 4; w++ {
			r := mustDo(t, c, "GET", versionURL(t, l, bundle.Version(w))+fmt.Sprintf("/v%d/keys/a%%2Fb", w), "")
			if want := fmt.Sprintf(`{"f%d":%q}`, w, value); strings.TrimSpace(r.body) != want {
				t.Errorf("version %d gets %s, want %s", w, r.body, want)
			}
		}
	}
	r := mustDo(t, c, "PUT", publicURL(l)+"/v1/keys/x", `{"f1":"no"}`)
	if want := `{"error":"version 2 has no no","moult":{"denied":true,"from":1,"to":3}}`; r.status != 501 || r.refusal != so.RefusalDenied || strings.TrimSpace(r.body) != want {
		t.Errorf("denied: %+v, want %s", r, want)
	}
	if r := mustDo(t, c, "GET", versionURL(t, l, 5)+"/x", ""); r.status != 501 || r.refusal != so.RefusalDenied || !strings.Contains(r.body, "too new") {
		t.Errorf("refused: %+v", r)
	}
	stats := l.Stats().Services["api"]
	if stats[1].Denied != 1 || stats[5].Denied != 1 || stats[3].Errors != 0 {
		t.Errorf("%+v, want one denied call of version 1 and one of 5", stats)
	}

	// External can be a version that nothing answers.
	apply(t, l, Routing{Native: 3, Backends: backends(addrOf(software(t, 3, st))), External: 9})
	if r := mustDo(t, c, "GET", publicURL(l)+"/x", ""); r.status != 501 || r.refusal != so.RefusalError || !strings.Contains(r.body, "no simulation object for callers of version 9") {
		t.Errorf("a version nobody serves: %+v", r)
	}
	if n := len(l.Addresses()["api"].Versions); n != 1 {
		t.Errorf("addresses for %d versions, want that of version 3 alone", n)
	}
}

// A kept connection to a version's address goes on when the node moves past it.
func TestListenerChangesMeaning(t *testing.T) {
	st := &state{values: map[string]string{"k": "v"}}
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(software(t, 1, st)))})
	conn, err := net.Dial("tcp", strings.TrimPrefix(versionURL(t, l, 1), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	br := bufio.NewReader(conn)
	ask := func() {
		t.Helper()
		fmt.Fprint(conn, "GET /v1/keys/k HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(resp.Body)
		if strings.TrimSpace(string(data)) != `{"f1":"v"}` {
			t.Fatalf("%d %s", resp.StatusCode, data)
		}
	}
	ask()
	apply(t, l, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, st))), Objects: InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)})})
	ask()
}

func TestPassesUnchanged(t *testing.T) {
	var seen *http.Request
	var body []byte
	node := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		seen = r
		w.Header().Set("Trailer", "X-Sum")
		w.Header()["Content-Type"] = nil
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
		w.Header().Set("X-Sum", "7")
	}))
	sock := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	node.Listener.Close()
	node.Listener = ln
	node.Start()
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends("unix:" + sock)})

	conn, err := net.Dial("tcp", l.Addresses()["api"].Public)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const uri = "/a|b/%2f/../c?x=1;y=%zz&"
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: some.host:99\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1\r\nAccept-Encoding: br\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: 5\r\n\r\n", uri)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil || len(data) != 100_000 || resp.StatusCode != http.StatusTeapot || resp.Trailer.Get("X-Sum") != "7" || len(resp.Header["Set-Cookie"]) != 2 {
		t.Errorf("got %v %d bytes, %d, %v, trailer %v", err, len(data), resp.StatusCode, resp.Header, resp.Trailer)
	}
	if ct, ok := resp.Header["Content-Type"]; ok {
		t.Errorf("a Content-Type %q that the node did not send", ct)
	}
	h := seen.Header
	if seen.RequestURI != uri || seen.Host != "some.host:99" || string(body) != "abc" || seen.Trailer.Get("X-T") != "5" ||
		h.Get("X-Forwarded-For") != "1.2.3.4" || h.Get("Forwarded") != "for=1" || h.Get("Accept-Encoding") != "br" || h.Get("User-Agent") != "" {
		t.Errorf("the node saw %s, host %s, %v, body %q, trailer %v", seen.RequestURI, seen.Host, h, body, seen.Trailer)
	}
}

// Both sides of a call may take turns: nothing waits for the whole.
func TestStreams(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		for s := bufio.NewScanner(r.Body); s.Scan(); {
			fmt.Fprintln(w, "echo", s.Text())
			_ = rc.Flush()
		}
	}))
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node))})
	in, out := io.Pipe()
	req, _ := http.NewRequest("POST", publicURL(l), in)
	go fmt.Fprintln(out, "first")
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s := bufio.NewScanner(resp.Body)
	for i, line := range []string{"first", "second", "third"} {
		if i > 0 {
			fmt.Fprintln(out, line)
		}
		if !s.Scan() || s.Text() != "echo "+line {
			t.Fatalf("%q, %v", s.Text(), s.Err())
		}
	}
	out.Close()
	if s.Scan() {
		t.Errorf("more: %q", s.Text())
	}
}

func TestUpgrade(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		line, _ := brw.ReadString('\n')
		fmt.Fprint(conn, "echo ", line)
		_, _ = brw.ReadString('\n')
	}))
	defer node.Close()
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node))})
	conn, err := net.Dial("tcp", l.Addresses()["api"].Public)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: line\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(err, resp)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := br.ReadString('\n'); line != "echo hello\n" {
		t.Fatal(line, err)
	}
	// The connection is a call in flight: a drain ends it, as the node does.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := l.Drain(ctx); n != 0 || err != nil {
		t.Errorf("%d calls cut, %v, want none", n, err)
	}
	if _, err := br.ReadString('\n'); err != io.EOF {
		t.Errorf("after the drain: %v, want the end", err)
	}
}

// Calls that are refused whatever the node is.
func TestRefusedByTheLayer(t *testing.T) {
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(kit.ClosedPort(t))})
	for _, c := range []struct{ raw, want string }{
		{"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "501"},
		{"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", "400"},
	} {
		conn, err := net.Dial("tcp", l.Addresses()["api"].Public)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, c.raw)
		_ = conn.(*net.TCPConn).CloseWrite()
		data, _ := io.ReadAll(conn)
		conn.Close()
		// Who has hung up in the middle of a call need not be told.
		if len(data) > 0 && !strings.Contains(string(data), c.want) {
			t.Errorf("%q: %s, want %s", c.raw, data, c.want)
		}
	}
}

func TestStartErrors(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	http1 := func(s Service) Config {
		s.Protocol = bundle.ProtocolHTTP
		return Config{Services: map[string]Service{"api": s}}
	}
	two := http1(Service{Public: "127.0.0.1:7000", First: 7001, Last: 7009})
	two.Services["web"] = Service{Public: "127.0.0.1:7009", Protocol: bundle.ProtocolHTTP}
	for _, c := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"port in use", http1(Service{Public: busy.Addr().String()}), []string{`service "api"`, busy.Addr().String() + " is in use", "stop the program"}},
		{"egress port in use", Config{Egress: busy.Addr().String(), Resolve: noPeers}, []string{"egress", "is in use"}},
		{"not our address", http1(Service{Public: "192.0.2.1:7000"}), []string{`service "api"`, "192.0.2.1:7000 is no address of this machine"}},
		{"no port", http1(Service{Public: "127.0.0.1"}), []string{`service "api"`, "want host:port"}},
		{"range", http1(Service{Public: "127.0.0.1:7000", First: 7009, Last: 7001}), []string{"want a range"}},
		{"public among versioned", http1(Service{Public: "127.0.0.1:7000", First: 6999, Last: 7001}), []string{"the public port 7000 is among them"}},
		{"services clash", two, []string{`services "api" and "web"`, "among the versioned ports"}},
		{"protocol", Config{Services: map[string]Service{"api": {Public: "127.0.0.1:0", Protocol: "sctp"}}}, []string{`protocol "sctp"`}},
		{"egress without Resolve", Config{Egress: "127.0.0.1:0"}, []string{"no Resolve"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := Start(c.cfg)
			if err == nil {
				l.Close()
				t.Fatal("started")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q in it", err, want)
				}
			}
		})
	}
}

func noPeers(dest string, _ bundle.Version) (string, bool, error) { return dest, false, nil }

// An Apply that fails leaves the old routing in force.
func TestApplyErrors(t *testing.T) {
	st := &state{values: map[string]string{"k": "v"}}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := busy.Addr().(*net.TCPAddr).Port
	good := software(t, 1, st)
	l := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		s := c.Services["api"]
		s.First, s.Last = port-1, port // version 2 has the busy one
		c.Services["api"] = s
	})
	if err := l.Apply(Routing{Native: 1, Backends: backends(addrOf(good))}); err != nil {
		t.Skipf("port %d is not free: %v", port-1, err)
	}
	for _, c := range []struct {
		name string
		r    Routing
		want string
	}{
		{"no version", Routing{}, "native version 0"},
		{"no backend", Routing{Native: 1}, `service "api": no backend`},
		{"bad backend", Routing{Native: 1, Backends: backends("nonsense")}, "want host:port"},
		{"unknown service", Routing{Native: 1, Backends: map[string]string{"x": "127.0.0.1:1"}}, "no such service"},
		{"itself", Routing{Native: 1, Backends: backends(l.Addresses()["api"].Public)}, "the layer's own address"},
		{"hold", Routing{Native: 1, Down: true, HoldTimeout: -1}, "hold timeout"},
		{"versioned port in use", Routing{Native: 1, Backends: backends(addrOf(good)), Objects: InProcess(map[bundle.Version]so.Object{2: so.Compatible()})}, "is in use"},
		{"one port for two versions", Routing{Native: 1, Backends: backends(addrOf(good)), Objects: InProcess(map[bundle.Version]so.Object{2: so.Compatible(), 3: so.Compatible()})}, "versions 1 and 3 both have port"},
	} {
		if err := l.Apply(c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if r := mustDo(t, newClient(t), "GET", versionURL(t, l, 1)+"/v1/keys/k", ""); r.status != 200 {
		t.Errorf("after the errors: %+v", r)
	}
	// Version 3 takes over the port of version 1.
	apply(t, l, Routing{Native: 3, Backends: backends(addrOf(software(t, 3, st)))})
	if r := mustDo(t, newClient(t), "GET", versionURL(t, l, 3)+"/v3/keys/k", ""); r.status != 200 {
		t.Errorf("a port that goes to another version: %+v", r)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Apply(Routing{Native: 1, Down: true}); err != ErrClosed {
		t.Errorf("Apply after Close: %v", err)
	}
}

func TestTooManyConnections(t *testing.T) {
	for _, protocol := range []string{bundle.ProtocolHTTP, bundle.ProtocolTCP} {
		l := startLayer(t, protocol, func(c *Config) { c.Limits = Limits{Held: 10, Conns: 2} })
		var conns []net.Conn
		for i := range 3 {
			c, err := net.Dial("tcp", l.Addresses()["api"].Public)
			if err == nil {
				defer c.Close()
				conns = append(conns, c)
			} else if i < 2 {
				t.Fatal(err)
			}
		}
		if len(conns) == 3 {
			if _, err := conns[2].Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: the third connection lives", protocol)
			}
		}
	}
}

// TestDrainLeavesNoConnection: a connection that the transport dialled and never
// used would make software that ends politely wait for a first call on it.
func TestDrainLeavesNoConnection(t *testing.T) {
	node := software(t, 1, &state{})
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, Routing{Native: 1, Backends: backends(addrOf(node))})
	b := l.gate.Routing().Backends["api"]
	unused, err := b.Transport(false).DialContext(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := unused.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("an unused connection after Drain: %v, want it closed", err)
	}
	if _, err := b.Transport(false).DialContext(t.Context(), "tcp", ""); !proxy.IsDialError(err) {
		t.Errorf("a dial that ends after Drain: %v, want it refused", err)
	}
}
