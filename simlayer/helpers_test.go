package simlayer

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/simlayer/so"
	"moult/store/bundle"
)

func TestMain(m *testing.M) {
	if playRole() {
		return
	}
	goleak.VerifyTestMain(m)
}

// state is what the versions of the test software share: the transform between
// them is nothing.
type state struct {
	mu     sync.Mutex
	values map[string]string
}

func (s *state) get(k string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[k]
}

func (s *state) set(k, v string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[k] = v
}

// software is a program of version v: GET and PUT /vN/keys/{key} with {"fN": …}.
func software(t testing.TB, v int, s *state) *httptest.Server {
	field := fmt.Sprintf("f%d", v)
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, value any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value)
	}
	mux.HandleFunc(fmt.Sprintf("GET /v%d/keys/{key}", v), func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]string{field: s.get(r.PathValue("key"))})
	})
	mux.HandleFunc(fmt.Sprintf("PUT /v%d/keys/{key}", v), func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.set(r.PathValue("key"), body[field])
		answer(w, map[string]string{"set": body[field]})
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func addrOf(s *httptest.Server) string { return s.Listener.Addr().String() }

// rename is the rules that answer callers of one version of the software by
// another.
func rename(t testing.TB, from, to int) so.Object {
	text := fmt.Sprintf(`
call "GET /v%[1]d/keys/{key}" {
  next "GET /v%[2]d/keys/{key}" {}
  response "200" {
    body = "{f%[1]d: .body.f%[2]d}"
  }
}
call "PUT /v%[1]d/keys/{key}" {
  deny {
    when   = ".body.f%[1]d == \"no\""
    reason = "version %[2]d has no no"
  }
  next "PUT /v%[2]d/keys/{key}" {
    body = "{f%[2]d: .body.f%[1]d}"
  }
}
default {
  deny {
    reason = "version %[1]d has no such call"
  }
}`, from, to)
	r, err := so.ParseRules([]byte(text), "rename.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// startLayer starts a layer with one service "api".
func startLayer(t testing.TB, protocol string, change func(*Config)) *Layer {
	cfg := Config{
		Services: map[string]Service{"api": {Public: "127.0.0.1:0", Protocol: protocol}},
		Log:      testLog(t),
	}
	if change != nil {
		change(&cfg)
	}
	l, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func apply(t testing.TB, l *Layer, r Routing) {
	t.Helper()
	if err := l.Apply(r); err != nil {
		t.Fatal(err)
	}
}

func backends(addr string) map[string]string { return map[string]string{"api": addr} }

// newClient keeps connections alive, like most.
func newClient(t testing.TB) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// reply is what a caller got.
type reply struct {
	status  int
	header  http.Header
	body    string
	refusal string
}

func do(c *http.Client, method, url, body string) (reply, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(data), resp.Header.Get(so.RefusalHeader)}, err
}

func mustDo(t testing.TB, c *http.Client, method, url, body string) reply {
	t.Helper()
	r, err := do(c, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// eventually polls what a layer counts until it is as wanted.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never came: %s", what)
		}
	}
}

func versionURL(t testing.TB, l *Layer, v bundle.Version) string {
	t.Helper()
	addr := l.Addresses()["api"].Versions[v]
	if addr == "" {
		t.Fatalf("no address for version %d in %v", v, l.Addresses())
	}
	return "http://" + addr
}

func publicURL(l *Layer) string { return "http://" + l.Addresses()["api"].Public }
