//go:build unix

package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/host/guests"
	"moult/simlayer/proxy"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// TestMain lets the test binary be what Config.Program starts, and the exec
// objects of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case CommandName:
			os.Exit(mainWith(os.Args[2:], os.Stderr, map[string]guests.Opener{KindWasm: openTest}))
		case "test-object":
			os.Exit(testObject(os.Args[2]))
		}
	}
	// The race detector would let every process end a second later.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// openTest stands in for wasm: the file names what the object does.
func openTest(ctx context.Context, o guests.Opening) (so.Object, error) {
	switch string(o.Data) {
	case "slow":
		return slowObject{}, nil
	case "die":
		return dieObject{}, nil
	case "stop": // the process gives no sign of life any more
		return stopObject{}, nil
	}
	return guests.OpenWasm(ctx, o)
}

type dieObject struct{}

func (dieObject) Answer(*http.Request, http.RoundTripper) (*http.Response, error) {
	os.Exit(1)
	return nil, nil
}

type stopObject struct{}

func (stopObject) Answer(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	<-r.Context().Done() // it may take effect a little later
	return nil, so.Deny(0, "never said")
}

// slowObject answers when the caller has said enough.
type slowObject struct{}

func (slowObject) Answer(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	out := r.WithContext(r.Context())
	out.Body, out.ContentLength, out.Method = http.NoBody, 0, "GET"
	return next.RoundTrip(out)
}

// rules is a rules object of one call, with body as the jq of its answer.
func rulesFile(t *testing.T, text string) string {
	t.Helper()
	return writeFile(t, "rules.hcl", text)
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// step are rules from one version's paths and fields to another's.
func step(t *testing.T, from, to int) string {
	return rulesFile(t, fmt.Sprintf(`
call "PUT /v%[1]d/{key}" {
  deny {
    when   = ".params.key == \"no%[1]d\""
    reason = "object %[1]d says no"
  }
  next "PUT /v%[2]d/{key}" {
    body = "{f%[2]d: .body.f%[1]d}"
  }
  response "*" {
    body = "{r%[1]d: .body.r%[2]d}"
  }
}
call "GET /spin" {
  answer {
    body = "def spin: spin; spin"
  }
}
call "GET /eat" {
  answer {
    body = "\"x\" * 500000000"
  }
}
default {
  pass = true
}`, from, to))
}

// node is a node's software of one version of the protocol of step.
type node struct {
	addr string
	mu   sync.Mutex
	keys map[string]int
}

func startNode(t *testing.T, version int) *node {
	t.Helper()
	n := &node{keys: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc(fmt.Sprintf("PUT /v%d/{key}", version), func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(data), fmt.Sprintf(`"f%d":`, version)) {
			http.Error(w, "bad body "+string(data), http.StatusBadRequest)
			return
		}
		n.mu.Lock()
		n.keys[r.PathValue("key")]++
		n.mu.Unlock()
		fmt.Fprintf(w, `{"r%d": %q}`, version, r.PathValue("key"))
	})
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-End")
		fmt.Fprintf(w, "%s hello %s from %d", r.Proto, r.Host, version)
		w.Header().Set("X-End", "yes")
	})
	ln, err := stream.Listen(t.Context(), anyPort)
	if err != nil {
		t.Fatal(err)
	}
	srv := proxy.NewServer(mux, slog.New(slog.DiscardHandler))
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { srv.Close(); done.Wait() })
	n.addr = ln.Addr().String()
	return n
}

var api = []Service{{Name: "api", Protocol: bundle.ProtocolHTTP}}

// logs collects what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func startHost(t *testing.T, cfg Config) (*Host, *logs) {
	t.Helper()
	l := &logs{}
	cfg.Dir = t.TempDir()
	if cfg.Services == nil {
		cfg.Services = api
	}
	cfg.Log = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%.8000s", l)
		}
	})
	return h, l
}

func set(t *testing.T, h *Host, native bundle.Version, addr string, list ...Object) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := Objects{Native: native, Node: map[string]string{}, List: list}
	for _, service := range h.cfg.Services {
		if addr != "" {
			s.Node[service.Name] = addr
		}
	}
	ended, err := h.Set(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	<-ended
}

// client makes calls to what answers a version.
func client(t testing.TB, addr string, h2c bool) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(!h2c)
	p.SetUnencryptedHTTP2(h2c)
	tr := &http.Transport{
		Protocols:   &p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return attach.Dial(ctx, addr) },
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// do returns "status body", and the response's headers.
func do(c *http.Client, method, path, body string) (string, http.Header, error) {
	r, err := http.NewRequest(method, "http://service.test"+path, strings.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(data))), resp.Header, err
}

func statsOf(h *Host, v bundle.Version) Stats {
	for _, s := range h.Stats() {
		if s.Version == v {
			return s
		}
	}
	return Stats{}
}

// kill kills the process of what answers a version, once it runs, and returns its
// number.
func kill(t *testing.T, h *Host, v bundle.Version) (pid int) {
	t.Helper()
	kit.Until(t, "running", func() bool { pid = statsOf(h, v).PID; return pid != 0 })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}
