package wasm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"moult/simlayer/so"
)

// goGuest builds testdata/wasm/kvnames.
var goGuest = sync.OnceValues(func() ([]byte, error) {
	out := filepath.Join(cacheDir, "kvnames.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, ".")
	cmd.Dir = "../../../testdata/wasm/kvnames"
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
})

// cGuest builds testdata/wasm/cnames; without a compiler there is none.
var cGuest = sync.OnceValues(func() ([]byte, error) {
	for _, tool := range []string{"clang", "wasm-ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: install clang and lld", err)
		}
	}
	out := filepath.Join(cacheDir, "names.wasm")
	cmd := exec.Command("clang", "--target=wasm32", "-O2", "-mbulk-memory", "-nostdlib", "-Wl,--no-entry", "-Wall", "-Werror", "-o", out, "names.c")
	cmd.Dir = "../../../testdata/wasm/cnames"
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
})

func openGo(t testing.TB, change func(*Config)) *Object {
	t.Helper()
	if raceDetector && testing.Short() {
		t.Skip("compiling a guest in Go takes half a minute under the race detector: run it without -short")
	}
	module, err := goGuest()
	if err != nil {
		t.Fatal(err)
	}
	return open(t, module, change)
}

func openC(t testing.TB, change func(*Config)) *Object {
	t.Helper()
	module, err := cGuest()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("no compiler for C: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return open(t, module, change)
}

// store is a node of version 2: keys and JSON values.
type store struct {
	mu     sync.Mutex
	values map[string]string
	calls  []string
}

func (s *store) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method+" "+r.URL.RequestURI())
	key, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		return reply(r, 404, `{"error":"no such path"}`), nil
	}
	if r.Method == "PUT" {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		if int64(len(data)) != r.ContentLength {
			return nil, fmt.Errorf("a body of %d bytes, but it says %d", len(data), r.ContentLength)
		}
		s.values[key] = string(data)
	}
	if v, ok := s.values[key]; ok {
		return reply(r, 200, v), nil
	}
	return reply(r, 404, `{"error":"not found"}`), nil
}

func reply(r *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// do makes a call and returns its status and body.
func do(t *testing.T, o so.Object, next http.RoundTripper, method, path, body string) (int, string) {
	t.Helper()
	resp, err := o.Answer(httptest.NewRequest(method, path, strings.NewReader(body)), next)
	if err != nil {
		r := so.AsRefusal(err)
		return r.Status, r.Reason
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ContentLength >= 0 && int64(len(data)) != resp.ContentLength {
		t.Errorf("%s %s: a body of %d bytes, but it says %d", method, path, len(data), resp.ContentLength)
	}
	return resp.StatusCode, string(data)
}

const nested = `{"name":"a \"quoted\" name","deep":{"name":[{"name":1}]},"list":["name"],"n":12345678901234567890}`

func TestRename(t *testing.T) {
	for _, g := range []struct {
		name, prefix string
		open         func(testing.TB, func(*Config)) *Object
	}{{"Go, encoding/json", "/v1/bench", openGo}, {"Go, scanner", "/scan/v1/bench", openGo}, {"C", "/v1/bench", openC}} {
		t.Run(g.name, func(t *testing.T) {
			o := g.open(t, nil)
			for i, body := range []string{nested, `{}`, `{"other":1}`, `{"name":"` + strings.Repeat("ä", 50_000) + `"}`} {
				s := &store{values: map[string]string{}}
				status, got := do(t, o, s, "PUT", fmt.Sprintf("%s%d", g.prefix, i), body)
				if status != 200 {
					t.Fatalf("%d %s", status, got)
				}
				stored := s.values[fmt.Sprintf("bench%d", i)]
				if want := strings.Replace(body, `"name"`, `"title"`, 1); !sameJSON(stored, want) {
					t.Errorf("the node got %.200s, want %.200s", stored, want)
				}
				if !sameJSON(got, body) {
					t.Errorf("the caller got %.200s, want %.200s", got, body)
				}
			}
		})
	}
}

func sameJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return string(p) == string(q)
}

// TestGoGuest goes through what an object can do: several calls to next, state,
// denials, and faults that end an instance but not the object.
func TestGoGuest(t *testing.T) {
	kv, err := OpenFileKV(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := openGo(t, func(c *Config) {
		c.State = kv
		c.Limits.CallTime = 5 * time.Second
	})
	s := &store{values: map[string]string{"a": `{"title":"A"}`, "b": `{"title":"B"}`}}
	down := errors.New("connection refused")
	steps := []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/a", "", 200, `{"name":"A"}`},
		{"POST", "/v1/swap?a=a&b=b", "", 200, `{"swapped":true}`},
		{"GET", "/v1/a", "", 200, `{"name":"B"}`},
		{"GET", "/v1/b", "", 200, `{"name":"A"}`},
		{"POST", "/v1/swap?a=a&b=none", "", 404, `GET /v2/none failed`},
		{"PUT", "/v1/a", `{"name":"C"}`, 200, `{"name":"C"}`},
		{"PUT", "/v1/a", `{"name":"D"}`, 200, `{"name":"D"}`},
		{"PUT", "/v1/a", `{`, 400, `unexpected end`},
		{"GET", "/v1/hits/a", "", 200, `{"hits":2}`},
		{"DELETE", "/v1/a", "", 405, "version 2 keeps all that it has ever had"},
		{"GET", "/v1/panic", "", 500, "panic: as asked for"},
		{"GET", "/v1/hits/a", "", 200, `{"hits":2}`},
		{"GET", "/elsewhere", "", 404, `no such path`},
	}
	for _, c := range steps {
		if status, body := do(t, o, s, c.method, c.path, c.body); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, status, body, c.status, c.want)
		}
	}
	if got := strings.Join(s.calls[1:5], ", "); got != "GET /v2/a, GET /v2/b, PUT /v2/a, PUT /v2/b" {
		t.Errorf("the swap made the calls %s", got)
	}
	fails := roundTripper(func(*http.Request) (*http.Response, error) { return nil, down })
	for _, path := range []string{"/v1/swap?a=a&b=b", "/v1/a"} {
		method := map[bool]string{true: "POST", false: "GET"}[strings.Contains(path, "swap")]
		if _, err := o.Answer(httptest.NewRequest(method, path, nil), fails); !errors.Is(err, down) {
			t.Errorf("%s: got %v, want that the node is down", path, err)
		}
	}
	if v, ok, _ := kv.Get("last"); !ok || string(v) != "a" {
		t.Errorf("the state has last = %q", v)
	}
}

// TestGoGuestSpins shows that a guest in Go, whose stack lies in its memory, is
// ended like any other, and that many calls at once share the state.
func TestGoGuestSpins(t *testing.T) {
	kv, err := OpenFileKV(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := openGo(t, func(c *Config) {
		c.State = kv
		c.Limits.Instances = 4
	})
	s := &store{values: map[string]string{}}
	var all sync.WaitGroup
	const writers, writes = 6, 5
	for range writers {
		all.Go(func() {
			for range writes {
				if status, body := do(t, o, s, "PUT", "/v1/shared", `{"name":"x"}`); status != 200 {
					t.Errorf("%d %s", status, body)
				}
			}
		})
	}
	all.Go(func() {
		if status, body := do(t, o, s, "GET", "/v1/spin", ""); status != 504 {
			t.Errorf("%d %s", status, body)
		}
	})
	all.Wait()
	if _, body := do(t, o, s, "GET", "/v1/hits/shared", ""); body != fmt.Sprintf(`{"hits":%d}`, writers*writes) {
		t.Errorf("%s, want %d", body, writers*writes)
	}
}

// TestManyCalls makes more calls at once than there are instances, with instances
// that fail between.
func TestManyCalls(t *testing.T) {
	a := newAsm()
	f := a.imp("http_handler", "read_body", "iii", "I")
	a.export("memory", 2, 0).export("handle_response", 0, a.fn("ii", "", 0))
	a.export("handle_request", 0, a.fn("", "I", 0, // trap if a body of one byte or more comes
		i32(0), i32(0), i32(64), callF(f), []byte{0xa7, 0x04, 0x40, 0x00, 0x0b}, i64(1)))
	o := open(t, a.bytes(), func(c *Config) {
		c.Limits.Instances = 3
		c.Log = slog.New(slog.DiscardHandler)
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 60 {
				body, want := "", 200
				if i%7 == 3 {
					body, want = "trap", 500
				}
				if status, text := do(t, o, node, "POST", "/", body); status != want {
					t.Errorf("%d %s, want %d", status, text, want)
				}
			}
		})
	}
	all.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.idle) > 3 || len(o.slots) != 0 {
		t.Errorf("%d instances are idle, %d slots taken", len(o.idle), len(o.slots))
	}
}

// TestBusy shows what becomes of calls when all instances are taken, and that Close
// waits for those that are being answered.
func TestBusy(t *testing.T) {
	o := open(t, pass(), func(c *Config) {
		c.Limits.Instances = 1
		c.Limits.WaitTime = 10 * time.Millisecond
	})
	inside, leave, ended := make(chan struct{}), make(chan struct{}), make(chan int)
	go func() {
		resp, err := o.Answer(httptest.NewRequest("GET", "/", nil), roundTripper(func(r *http.Request) (*http.Response, error) {
			close(inside)
			<-leave
			return node(r)
		}))
		if err != nil {
			t.Error(err)
			ended <- 0
			return
		}
		ended <- resp.StatusCode
	}()
	<-inside
	if status, reason := do(t, o, node, "GET", "/", ""); status != 503 || !strings.Contains(reason, "answers 1 calls at once") {
		t.Errorf("%d %s", status, reason)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("closing while a call is answered: %v", err)
	}
	close(leave)
	if status := <-ended; status != 200 {
		t.Errorf("the call in flight got %d", status)
	}
	for range 2 {
		if err := o.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if status, reason := do(t, o, node, "GET", "/", ""); status != 503 || !strings.Contains(reason, "is closed") {
		t.Errorf("%d %s", status, reason)
	}
}

// TestBodies are bodies that are too large, that do not come, and that pass
// untouched however large they are.
func TestBodies(t *testing.T) {
	reads := newAsm()
	f := reads.imp("http_handler", "read_body", "iii", "I")
	reads.handler(i32(0), i32(0), i32(64), callF(f), drop, i64(1))
	small := func(c *Config) { c.Limits.Body = 1000 }
	reader, passer := open(t, reads.bytes(), small), open(t, pass(), small)
	hasty := open(t, reads.bytes(), func(c *Config) { c.Limits.WaitTime = 10 * time.Millisecond })
	large := strings.Repeat("x", 5000)
	if status, reason := do(t, reader, node, "POST", "/", large); status != 413 {
		t.Errorf("a large body: %d %s", status, reason)
	}
	if status, body := do(t, passer, node, "POST", "/", large); status != 200 || body != large {
		t.Errorf("a large body that nobody reads: %d, %d bytes", status, len(body))
	}
	if status, body := do(t, reader, node, "POST", "/", large[:1000]); status != 200 || body != large[:1000] {
		t.Errorf("a body that is read: %d, %d bytes", status, len(body))
	}
	stalled, w := io.Pipe()
	defer w.Close()
	r := httptest.NewRequest("POST", "/", stalled)
	r.ContentLength = -1
	if _, err := hasty.Answer(r, node); so.AsRefusal(err).Status != 408 {
		t.Errorf("a body that does not come: %v", err)
	}
	r = httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("reset"))))
	r.ContentLength = 10
	if _, err := reader.Answer(r, node); so.AsRefusal(err).Status != 400 {
		t.Errorf("half a body: %v", err)
	}
}

// TestTrailers lets a guest read the trailers of an answer and add one.
func TestTrailers(t *testing.T) {
	a := newAsm()
	a.data = "XY1"
	enable := a.imp("http_handler", "enable_features", "i", "i")
	values := a.imp("http_handler", "get_header_values", "iiiii", "I")
	set := a.imp("http_handler", "set_header_value", "iiiii", "")
	a.export("memory", 2, 0)
	a.export("handle_request", 0, a.fn("", "I", 0, i32(6), callF(enable), drop, i64(1)))
	a.export("handle_response", 0, a.fn("ii", "", 0,
		// Set Y to the value of X, which is one byte and its NUL.
		i32(3), i32(0), i32(1), i32(16), i32(64), callF(values), drop,
		i32(3), i32(1), i32(1), i32(16), i32(1), callF(set)))
	o := open(t, a.bytes(), nil)
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X", "7")
	})
	s := httptest.NewServer(backend)
	defer s.Close()
	r := httptest.NewRequest("GET", "/", nil)
	resp, err := o.Answer(r, roundTripper(func(out *http.Request) (*http.Response, error) {
		out = out.Clone(out.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", s.Listener.Addr().String()
		return s.Client().Do(out)
	}))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "body" || resp.Trailer.Get("X") != "7" || resp.Trailer.Get("Y") != "7" || resp.ContentLength != -1 {
		t.Errorf("got %q, trailers %v, length %d: %v", body, resp.Trailer, resp.ContentLength, err)
	}
}
