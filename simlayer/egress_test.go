package simlayer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// peers resolves the public addresses of other layers, as a view does.
type peers struct {
	mu     sync.Mutex
	layers map[string]*Layer // by public address
}

func (p *peers) resolve(dest string, v bundle.Version) (string, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.layers[dest]
	if l == nil {
		return dest, false, nil
	}
	addr := l.Addresses()["api"].Versions[v]
	if addr == "" {
		return "", true, fmt.Errorf("it answers versions %d to %d", 2, 2)
	}
	return addr, true, nil
}

// egressPair is a node with an egress proxy, and a peer that runs version 2 and
// answers version 1.
func egressPair(t *testing.T) (node, peer *Layer, client *http.Client) {
	st := &state{values: map[string]string{"k": "v"}}
	peer = startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, peer, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, st))), Objects: InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)}), External: 2})
	p := &peers{layers: map[string]*Layer{peer.Addresses()["api"].Public: peer}}
	node = startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress = "127.0.0.1:0"
		c.Resolve = p.resolve
	})
	apply(t, node, Routing{Native: 1, Down: true})
	client = newClient(t)
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(node.EgressURL())
	return node, peer, client
}

// The node's calls to a peer's public address are answered for its own version,
// whatever version the peer runs and outside callers have.
func TestEgressToPeer(t *testing.T) {
	node, peer, c := egressPair(t)
	if r := mustDo(t, c, "GET", publicURL(peer)+"/v1/keys/k", ""); strings.TrimSpace(r.body) != `{"f1":"v"}` {
		t.Errorf("as version 1: %d %s", r.status, r.body)
	}
	apply(t, node, Routing{Native: 2, Down: true})
	if r := mustDo(t, c, "PUT", publicURL(peer)+"/v2/keys/k", `{"f2":"w"}`); r.status != 200 {
		t.Errorf("as version 2: %d %s", r.status, r.body)
	}
	apply(t, node, Routing{Native: 3, Down: true})
	r := mustDo(t, c, "GET", publicURL(peer)+"/v3/keys/k", "")
	if r.status != 502 || r.refusal != so.RefusalError || !strings.Contains(r.body, peer.Addresses()["api"].Public) || !strings.Contains(r.body, "version 3") {
		t.Errorf("as version 3: %d %s, want a 502 that names the peer and the version", r.status, r.body)
	}
	stats := peer.Stats().Services["api"]
	if stats[1].Calls != 1 || stats[2].Calls != 1 {
		t.Errorf("the peer counted %+v", stats)
	}
	if s := node.Stats().Egress; s.Calls != 3 || s.Errors != 1 {
		t.Errorf("the node counted %+v", s)
	}
}

// While new software starts, its calls are its own version's, not those of the
// version whose callers the node still answers.
func TestEgressVersion(t *testing.T) {
	node, peer, c := egressPair(t)
	apply(t, node, Routing{Native: 1, Egress: 2, Down: true})
	if r := mustDo(t, c, "GET", publicURL(peer)+"/v2/keys/k", ""); strings.TrimSpace(r.body) != `{"f2":"v"}` {
		t.Errorf("as version 2: %d %s", r.status, r.body)
	}
	if stats := peer.Stats().Services["api"]; stats[2].Calls != 1 {
		t.Errorf("the peer counted %+v", stats)
	}
	if err := node.Apply(Routing{Native: 1, Egress: bundle.MaxVersion + 1, Down: true}); err == nil {
		t.Error("a version that there is not was taken")
	}
}

// Before the first routing nobody knows what version the node's calls have: they
// wait, and none leaves without a label.
func TestEgressBeforeRouting(t *testing.T) {
	peer := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, peer, Routing{Native: 2, Backends: backends(addrOf(software(t, 2, &state{values: map[string]string{"k": "v"}}))), Objects: InProcess(map[bundle.Version]so.Object{1: rename(t, 1, 2)}), External: 2})
	p := &peers{layers: map[string]*Layer{peer.Addresses()["api"].Public: peer}}
	node := startLayer(t, bundle.ProtocolHTTP, func(c *Config) { c.Egress, c.Resolve = "127.0.0.1:0", p.resolve })
	c := newClient(t)
	c.Transport.(*http.Transport).Proxy = http.ProxyURL(node.EgressURL())
	result := make(chan string)
	go func() {
		r, err := do(c, "GET", publicURL(peer)+"/v1/keys/k", "")
		result <- fmt.Sprint(r.status, " ", strings.TrimSpace(r.body), " ", err)
	}()
	eventually(t, "the call waits", func() bool { return node.out.Waiting() == 1 })
	apply(t, node, Routing{Native: 1, Down: true})
	if got := <-result; got != `200 {"f1":"v"} <nil>` {
		t.Errorf("the call that waited: %s", got)
	}
	if stats := peer.Stats().Services["api"]; stats[1].Calls != 1 {
		t.Errorf("the peer counted %+v", stats)
	}
}

func TestEgressAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := Config{Egress: taken.Addr().String(), Resolve: (&peers{}).resolve}
	if _, err := Start(cfg); !errors.Is(err, ErrEgress) {
		t.Errorf("Start = %v, want ErrEgress", err)
	}
	cfg = Config{Services: map[string]Service{"api": {Public: taken.Addr().String(), Protocol: bundle.ProtocolHTTP}}}
	if _, err := Start(cfg); err == nil || errors.Is(err, ErrEgress) {
		t.Errorf("Start on a taken public address = %v, want another error", err)
	}
}

func TestEgressElsewhere(t *testing.T) {
	node, _, c := egressPair(t)
	var seen *http.Request
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		data, _ := io.ReadAll(r.Body)
		_, _ = w.Write(data)
	}))
	defer web.Close()
	r := mustDo(t, c, "POST", web.URL+"/a%2Fb?c;d", "body")
	if r.body != "body" || seen.RequestURI != "/a%2Fb?c;d" || seen.Host != addrOf(web) || seen.Header.Get("X-Forwarded-For") != "" {
		t.Errorf("%+v; the server saw %s, host %s, %v", r, seen.RequestURI, seen.Host, seen.Header)
	}
	if r := mustDo(t, c, "GET", "http://"+kit.ClosedPort(t), ""); r.status != 502 || !strings.Contains(r.body, "connection refused") {
		t.Errorf("nobody there: %+v", r)
	}
	plain := newClient(t)
	if r := mustDo(t, plain, "GET", node.EgressURL().String()+"/x", ""); r.status != 400 || !strings.Contains(r.body, "whole URL") {
		t.Errorf("not as a proxy: %+v", r)
	}
	if r := mustDo(t, c, "GET", node.EgressURL().String()+"/x", ""); r.status != http.StatusLoopDetected {
		t.Errorf("the proxy by itself: %+v", r)
	}
	tls := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
	defer tls.Close()
	secure := tls.Client()
	secure.Transport.(*http.Transport).Proxy = http.ProxyURL(node.EgressURL())
	if r := mustDo(t, secure, "GET", tls.URL, ""); r.body != "secret" {
		t.Errorf("TLS by CONNECT: %+v", r)
	}
	if _, err := do(secure, "GET", (&url.URL{Scheme: "https", Host: kit.ClosedPort(t)}).String(), ""); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("CONNECT to nobody: %v", err)
	}
}

func TestEgressConnectToPeer(t *testing.T) {
	node, peer, _ := egressPair(t)
	conn := dialLayer(t, node.EgressURL().Host)
	// The caller need not wait for the answer before it goes on.
	fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\nGET /v1/keys/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", peer.Addresses()["api"].Public)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	resp, err = http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := io.ReadAll(resp.Body); strings.TrimSpace(string(data)) != `{"f1":"v"}` {
		t.Errorf("through the tunnel: %d %s", resp.StatusCode, data)
	}
	// Close ends tunnels that stand open.
	idle := dialLayer(t, node.EgressURL().Host)
	fmt.Fprintf(idle, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", peer.Addresses()["api"].Public)
	if _, err := http.ReadResponse(bufio.NewReader(idle), &http.Request{Method: "CONNECT"}); err != nil {
		t.Fatal(err)
	}
	node.Close()
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel lives")
	}
}

// A call to a peer whose agent is away for a moment waits for it.
func TestEgressWaitsForPeer(t *testing.T) {
	addr := kit.ClosedPort(t)
	var up sync.Map // what the peer's address is
	up.Store("addr", addr)
	node := startLayer(t, bundle.ProtocolHTTP, func(c *Config) {
		c.Egress = "127.0.0.1:0"
		c.Resolve = func(string, bundle.Version) (string, bool, error) {
			a, _ := up.Load("addr")
			return a.(string), true, nil
		}
	})
	apply(t, node, Routing{Native: 1, Down: true})
	c := newClient(t)
	c.Transport.(*http.Transport).Proxy = http.ProxyURL(node.EgressURL())
	type result struct {
		reply
		err error
	}
	results := make(chan result)
	const calls = 2
	for range calls {
		go func() {
			r, err := do(c, "PUT", "http://peer:7000/", strings.Repeat("x", 100_000))
			results <- result{r, err}
		}()
	}
	eventually(t, "the calls wait", func() bool { return node.out.Waiting() == calls })
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Host, " ", n)
	}))
	defer web.Close()
	up.Store("addr", addrOf(web))
	for range calls {
		if r := <-results; r.err != nil || r.body != "peer:7000 100000" {
			t.Errorf("%+v", r)
		}
	}
	apply(t, node, Routing{Native: 1, Down: true, HoldTimeout: time.Millisecond})
	up.Store("addr", addr)
	if r := mustDo(t, c, "GET", "http://peer:7000/", ""); r.status != 502 || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, "the peer at peer:7000") {
		t.Errorf("a peer that stays away: %+v", r)
	}
}

// The end of a layer ends what the node's calls upgraded to.
func TestCloseEndsEgressUpgrades(t *testing.T) {
	node, _, _ := egressPair(t)
	ended := make(chan error, 1)
	web := tcpNode(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		if _, err := http.ReadRequest(br); err != nil {
			ended <- err
			return
		}
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, err := br.ReadByte()
		ended <- err
	})
	conn := dialLayer(t, node.EgressURL().Host)
	fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", web.Addr())
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(err, resp)
	}
	node.Close()
	if err := <-ended; !errors.Is(err, io.EOF) && err == nil {
		t.Errorf("the upgraded connection: %v", err)
	}
}
