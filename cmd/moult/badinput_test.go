//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/simlayer"
	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// badObjectCommand makes the test binary be an exec object that does wrong.
const badObjectCommand = "bad-object"

func badObject(what string) int {
	switch what {
	case "never":
		select {}
	case "exits":
		fmt.Fprintln(os.Stderr, "there is no config")
		return 3
	}
	// It calls whom it answers for, and not next.
	target, err := url.Parse(os.Getenv("BAD_TARGET"))
	if err != nil {
		return 1
	}
	ln, err := net.FileListener(os.NewFile(3, "api"))
	if err != nil {
		return 1
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 100},
	}
	fmt.Fprintln(os.Stderr, http.Serve(ln, proxy))
	return 1
}

// wasmModule is a module whose handle_request has this code; "" is one without.
func wasmModule(code string) []byte {
	section := func(id byte, content string) string {
		return string([]byte{id, byte(len(content))}) + content
	}
	const header = "\x00asm\x01\x00\x00\x00"
	if code == "" {
		return []byte(header)
	}
	name := func(s string) string { return string([]byte{byte(len(s))}) + s }
	body := func(code string) string { return name("\x00" + code + "\x0b") }
	return []byte(header +
		section(1, "\x02"+"\x60\x00\x01\x7e"+"\x60\x02\x7f\x7f\x00") + // () -> i64, (i32, i32)
		section(3, "\x02\x00\x01") +
		section(5, "\x01\x00\x01") + // one page of memory
		section(7, "\x03"+name("memory")+"\x02\x00"+name("handle_request")+"\x00\x00"+name("handle_response")+"\x00\x01") +
		section(10, "\x02"+body(code)+body("")))
}

// badPlace is a node of version 3 behind a layer, with the good object of version
// 4 in the process of those that are to be bad.
type badPlace struct {
	t     *testing.T
	layer *simlayer.Layer
	host  *host.Host
	node  string
	dir   string
}

const goodRules = `
call "GET /v4/key" {
  next "GET /v3/key" {}
  response "200" {
    body = "{f4: (.body.f3 | ascii_upcase | ascii_downcase)}"
  }
}
default {
  deny {
    reason = "no"
  }
}
`

func newBadPlace(t *testing.T) *badPlace {
	t.Helper()
	dir, err := os.MkdirTemp("", "moult-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"f3":"kept"}`) }))
	t.Cleanup(node.Close)
	p := &badPlace{t: t, node: node.Listener.Addr().String(), dir: dir}
	p.layer, err = simlayer.Start(simlayer.Config{
		Services: map[string]simlayer.Service{"api": {Public: "127.0.0.1:0", Protocol: bundle.ProtocolHTTP}},
		Limits:   simlayer.Limits{Held: 100, Conns: 800, Replay: 1 << 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.host, err = host.Start(host.Config{
		Dir: dir, Services: []host.Service{{Name: "api", Protocol: bundle.ProtocolHTTP}}, Grace: 100 * time.Millisecond, MinPause: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.layer.Close(), p.host.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *badPlace) file(name string, data []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// set puts objects beside the good one; none of them is in the agent's process.
func (p *badPlace) set(bad ...host.Object) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	list := append(bad, host.Object{Version: 4, To: 3, Kind: host.KindRules, Path: p.file("good.hcl", []byte(goodRules))})
	node := map[string]string{"api": p.node}
	ended, err := p.host.Set(ctx, host.Objects{Native: 3, Node: node, Hold: time.Second, List: list})
	if err != nil {
		p.t.Fatal(err)
	}
	<-ended
	r := simlayer.Routing{Native: 3, Backends: node, Objects: map[bundle.Version]simlayer.Object{}, HoldTimeout: 5 * time.Second}
	for _, o := range list {
		r.Objects[o.Version] = simlayer.Object{Addrs: p.host.Addrs(o.Version)}
	}
	if err := p.layer.Apply(r); err != nil {
		p.t.Fatal(err)
	}
}

func (p *badPlace) url(v bundle.Version) string {
	return "http://" + p.layer.Addresses()["api"].Versions[v]
}

// good calls the node and the good object until stop, which says what went wrong.
func (p *badPlace) good() (stop func() (answered map[bundle.Version]int, wrong []string)) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered := map[bundle.Version]int{}
	var wrong []string
	for _, v := range []bundle.Version{3, 4} {
		at, want := fmt.Sprintf("%s/v%d/key", p.url(v), v), fmt.Sprintf(`{"f%d":"kept"}`, v)
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
			defer client.CloseIdleConnections()
			for { // at least once, however short the time was
				got, err := answer(client.Get(at))
				mu.Lock()
				if err == nil && string(bytes.TrimSpace(got)) == want {
					answered[v]++
				} else {
					wrong = append(wrong, fmt.Sprintf("%s: %q %v", at, got, err))
				}
				mu.Unlock()
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	return func() (map[bundle.Version]int, []string) {
		close(ended)
		wg.Wait()
		return answered, wrong
	}
}

// program is an exec object of version 2 that does wrong.
func (p *badPlace) program(what string, env ...string) host.Object {
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	patience := 20 * time.Second
	if what == "never" {
		patience = 300 * time.Millisecond
	}
	return host.Object{
		Version: 2, To: 3, Kind: host.KindExec, Dir: p.dir, State: p.dir, Argv: []string{exe, badObjectCommand, what},
		Env: append(os.Environ(), env...), StartTimeout: patience,
	}
}

// refused calls as a caller of version v until the refusal is as wanted, which may
// take some calls where a process has to be found out first.
func (p *badPlace) refused(v bundle.Version, status int, reason string) {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	var last string
	for range 5 {
		resp, err := client.Get(p.url(v) + "/v1/key")
		if err != nil {
			last = err.Error()
			continue
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == status && resp.Header.Get(so.RefusalHeader) == so.RefusalError && strings.Contains(string(data), reason) {
			return
		}
		last = fmt.Sprintf("%s %q %.400s %v", resp.Status, resp.Header.Get(so.RefusalHeader), data, err)
	}
	p.t.Errorf("got %s, want %d: %q", last, status, reason)
}

// TestBadObjectProcesses puts objects that do wrong in processes beside a node, as
// the agent does: each fails its own callers with a reason, and callers of the node,
// and of a good object, notice nothing. simlayer/badinput_test.go lists what else is
// tested, and where.
func TestBadObjectProcesses(t *testing.T) {
	inCluster(t)
	t.Parallel()
	p := newBadPlace(t)
	p.set()
	const loop = "\x03\x40\x0c\x00\x0b\x42\x00"
	rules := func(name, text string) host.Object {
		return host.Object{Version: 2, To: 3, Kind: host.KindRules, Path: p.file(name+".hcl", []byte(text))}
	}
	const short, long = 200 * time.Millisecond, 10 * time.Second
	guest := func(name, code string, timeout time.Duration) host.Object {
		return host.Object{Version: 2, To: 3, Kind: host.KindWasm, Path: p.file(name+".wasm", wasmModule(code)), Timeout: timeout}
	}
	for _, c := range []struct {
		name   string
		object host.Object
		status int
		reason string
	}{
		{"rules that do not parse", rules("cut", "call {"), 503, "rules file of version 2:1"},
		{"jq without end", rules("spins", "default {\n  answer {\n    body = \"def spin: spin; spin\"\n  }\n}\n"), 500, "not done after 1s"},
		{"wasm without exports", guest("none", "", short), 503, `no function \"handle_request\"`},
		{"wasm that loops", guest("loops", loop, short), 504, "did not end within"},
		{"wasm that recurses", guest("recurses", "\x10\x00", long), 500, "stack overflow"},
		{"wasm that grows", guest("grows", "\x03\x40\x41\x01\x40\x00\x1a\x0c\x00\x0b\x42\x00", short), 504, "did not end within"},
		{"wasm that traps", guest("traps", "\x00", short), 500, "unreachable"},
		{"a program that never listens", p.program("never"), 503, "took no caller of service"},
		{"a program that exits", p.program("exits"), 503, "exit status 3; it wrote: there is no config"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			p.set(c.object)
			p.meanwhile(func() { p.refused(2, c.status, c.reason) })
		})
	}
	t.Run("a circle", func(t *testing.T) {
		p.t = t
		p.set(p.program("circle", "BAD_TARGET="+p.url(2)))
		p.meanwhile(func() { p.refused(2, 503, "calls itself") })
	})
	t.Run("a circle through rules", func(t *testing.T) {
		p.t = t
		pass := host.Object{Version: 1, To: 2, Kind: host.KindRules, Path: p.file("pass.hcl", []byte("default {\n  pass = true\n}\n"))}
		other := p.program("circle")
		p.set(pass, other) // so that there is an address for version 1
		other.Env = append(other.Env, "BAD_TARGET="+p.url(1))
		p.set(pass, other)
		p.meanwhile(func() { p.refused(1, 508, "in a circle") })
	})
}

// meanwhile does something while good calls are made, of which none may fail.
func (p *badPlace) meanwhile(bad func()) {
	p.t.Helper()
	stop := p.good()
	bad()
	if what := unwell(stop()); what != "" {
		p.t.Error(what)
	}
}

// unwell says what is wrong with good calls; "" if nothing.
func unwell(answered map[bundle.Version]int, wrong []string) string {
	switch {
	case len(wrong) > 0:
		return fmt.Sprintf("%d good calls failed, as %s", len(wrong), wrong[0])
	case answered[3] == 0 || answered[4] == 0:
		return fmt.Sprintf("good calls answered: %v", answered)
	}
	return ""
}

// TestBadObjectsCatch shows that the calls of the test above notice what goes wrong.
func TestBadObjectsCatch(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts processes; run without -short")
	}
	p := newBadPlace(t)
	p.set()
	list := []host.Object{{Version: 4, To: 3, Kind: host.KindRefuse, Reason: "planted"}}
	if _, err := p.host.Set(t.Context(), host.Objects{Native: 3, Node: map[string]string{"api": p.node}, Hold: time.Second, List: list}); err != nil {
		t.Fatal(err)
	}
	if unwell(p.good()()) == "" {
		t.Error("a good object that refuses all was not noticed")
	}
}
