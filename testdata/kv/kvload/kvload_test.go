package kvload

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"moult/testdata/kv/internal/node"
	"moult/testdata/kv/kv1"
	"moult/testdata/kv/kv2"
	"moult/testdata/kv/kv3"
)

// cluster starts nodes of one version that are each other's peers. wrap, unless
// it is nil, stands between clients and the first node.
func cluster(t *testing.T, version, nodes int, wrap func(http.Handler) http.Handler) []Target {
	t.Helper()
	open := map[int]func(node.Config, *slog.Logger) (http.Handler, error){1: kv1.Open, 2: kv2.Open, 3: kv3.Open}[version]
	var targets []Target
	var servers []*httptest.Server
	var peers []string
	for i := range nodes {
		s := httptest.NewUnstartedServer(nil)
		t.Cleanup(s.Close)
		servers = append(servers, s)
		peers = append(peers, s.Listener.Addr().String())
		targets = append(targets, Target{Name: fmt.Sprintf("n%d", i+1), URL: "http://" + peers[i]})
	}
	for i, s := range servers {
		others := slices.Concat(peers[:i], peers[i+1:])
		h, err := open(node.Config{State: t.TempDir(), NoSync: true, Peers: others}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && wrap != nil {
			h = wrap(h)
		}
		s.Config.Handler = h
		s.Start()
	}
	return targets
}

// run runs a load until it has made some calls.
func run(t *testing.T, c Config, calls int64) *Result {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			s := l.Snapshot()
			if s.OK+s.Failed+s.Denied >= calls || ctx.Err() != nil {
				return
			}
		}
	}()
	return l.Run(ctx)
}

func TestHealthyNodesPass(t *testing.T) {
	for version := 1; version <= 3; version++ {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			c := DefaultConfig()
			c.Version, c.Rate, c.Workers, c.Repair = version, 0, 2, true
			c.Targets = cluster(t, version, 3, nil)
			r := run(t, c, 400)
			if r.Failed != 0 || r.Denied != 0 || r.OK < 400 || r.MaxLatency <= 0 || r.Slowest == "" {
				t.Errorf("%+v", r)
			}
		})
	}
}

// inProcess answers calls without a network.
type inProcess struct{ http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	p.ServeHTTP(rec, r)
	return rec.Result(), nil
}

func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := kv1.Open(node.Config{State: t.TempDir(), NoSync: true}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c := DefaultConfig()
		c.Rate, c.Workers, c.Transport = 100, 2, inProcess{h}
		c.Targets = []Target{{"n1", "http://n1"}, {"n2", "http://n2"}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := Run(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		// Four workers begin within 40 ms, and make a last round of reads.
		last := int64(4 * (keysPerWorker + 3))
		if r.OK < 1000-4+last || r.OK > 1000+4+last {
			t.Errorf("%d calls, want about %d", r.OK, 1000+last)
		}
	})
}

// edit changes answers on their way back.
func edit(when func(*http.Request) bool, change func(*httptest.ResponseRecorder)) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !when(r) {
				h.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			change(rec)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		})
	}
}

// few is true of some calls of a method, the first ones not among them: a
// worker has to have written before anything can be wrong.
func few(method string) func(*http.Request) bool {
	var n atomic.Int64
	return func(r *http.Request) bool {
		if r.Method != method {
			return false
		}
		i := n.Add(1)
		return i > 10 && i%5 == 0
	}
}

// conditional is true of conditional writes.
func conditional(r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte(`"if_revision"`))
}

func replace(old, with string) func(*httptest.ResponseRecorder) {
	return func(rec *httptest.ResponseRecorder) {
		rec.Body = bytes.NewBufferString(strings.ReplaceAll(rec.Body.String(), old, with))
	}
}

func answer(code int, header string) func(*httptest.ResponseRecorder) {
	return func(rec *httptest.ResponseRecorder) {
		rec.Code = code
		rec.Body = bytes.NewBufferString(`{"error":"planted"}`)
		if header != "" {
			rec.Header().Set(RefusalHeader, header)
		}
	}
}

// noContradiction are faults by which calls fail, and nothing that was acknowledged is missing.
var noContradiction = []string{
	"a field too many", "the wrong key is acknowledged", "an error", "a refusal that is no denial", "a plain read is denied",
	"a node that has revisions denies a condition",
}

// Each planted fault of a node, or of what stands before it, must be counted.
func TestFaultsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		wrap  func(http.Handler) http.Handler
		since int    // version of the clients that can notice
		says  string // in one of the errors
	}{
		"an acknowledged write is lost":                {loseWrites, 1, "the last acknowledged"},
		"a read is answered from a cache":              {cacheReads, 1, "the last acknowledged"},
		"a value is changed":                           {edit(few("GET"), replace("✓", "?")), 1, "has the value"},
		"a value loses a character":                    {edit(few("GET"), replace(`\u2028`, "")), 1, "has the value"},
		"a field too many":                             {edit(few("GET"), replace(`{"key":`, `{"extra":1,"key":`)), 1, "unknown field"},
		"the wrong key is acknowledged":                {edit(few("PUT"), replace(`{"key":"`, `{"key":"x`)), 1, "the answer is about key"},
		"an error":                                     {edit(few("PUT"), answer(502, "")), 1, "502 Bad Gateway: "},
		"a refusal that is no denial":                  {edit(few("GET"), answer(503, "error")), 1, "Moult-Refusal: error"},
		"a plain read is denied":                       {edit(few("GET"), answer(501, "denied")), 1, "Moult-Refusal: denied"},
		"a key is left out of the list":                {edit(few("GET"), replace(`é",`, `e",`)), 1, "exists: true"},
		"a condition is ignored":                       {dropCondition, 2, "was carried out"},
		"a condition never holds":                      {edit(conditional, answer(409, "")), 2, "was refused, but"},
		"a revision is made up":                        {edit(few("GET"), replace(`"revision":`, `"revision":7`)), 2, "is at revision"},
		"a deleted key comes back":                     {keepDeleted, 2, "or was deleted"},
		"a node that has revisions denies a condition": {edit(few("PUT"), answer(501, "denied")), 2, "Moult-Refusal: denied"},
	} {
		for version := c.since; version <= 3; version++ {
			t.Run(fmt.Sprintf("%s/v%d", name, version), func(t *testing.T) {
				config := DefaultConfig()
				config.Version, config.Rate = version, 0
				config.Targets = cluster(t, version, 1, c.wrap)
				r := run(t, config, 100)
				if r.Failed == 0 || !strings.Contains(strings.Join(r.Errors, "\n"), c.says) {
					t.Errorf("want an error that says %q: %+v", c.says, r)
				}
				if wrong := !slices.Contains(noContradiction, name); wrong != (r.Wrong > 0) {
					t.Errorf("%d answers contradict what was acknowledged: %+v", r.Wrong, r)
				}
			})
		}
	}
}

// loseWrites acknowledges some writes without carrying them out.
func loseWrites(h http.Handler) http.Handler {
	chosen := few("PUT")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !chosen(r) {
			h.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		key := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		if r.URL.Path == "/set" {
			rest := body[len(`{"key":"`):]
			key = string(rest[:bytes.IndexByte(rest, '"')])
			fmt.Fprintf(w, `{"key":"%s"}`, key)
			return
		}
		fmt.Fprintf(w, `{"key":"%s","revision":2}`, key)
	})
}

// cacheReads answers reads of a key with what it was at first.
func cacheReads(h http.Handler) http.Handler {
	cache := map[string]*httptest.ResponseRecorder{}
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" {
			h.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		rec := cache[r.URL.String()]
		mu.Unlock()
		if rec == nil {
			rec = httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code == http.StatusOK {
				mu.Lock()
				cache[r.URL.String()] = rec
				mu.Unlock()
			}
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	})
}

// dropCondition carries conditional writes out as plain ones. The condition is
// the last field of their bodies.
func dropCondition(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			body, _ := io.ReadAll(r.Body)
			if i := bytes.Index(body, []byte(`,"if_revision"`)); i > 0 {
				body = append(body[:i:i], '}')
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		h.ServeHTTP(w, r)
	})
}

// keepDeleted acknowledges deletes without carrying them out.
func keepDeleted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "DELETE" {
			h.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, `{"key":"%s","revision":2}`, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	})
}

func TestConfigIsChecked(t *testing.T) {
	good := DefaultConfig()
	good.Targets = []Target{{"n1", "http://127.0.0.1:1"}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no target":   func(c *Config) { c.Targets = nil },
		"version":     func(c *Config) { c.Version = 4 },
		"URL":         func(c *Config) { c.Targets = []Target{{"n1", "127.0.0.1:1"}} },
		"name twice":  func(c *Config) { c.Targets = append(c.Targets, c.Targets[0]) },
		"long prefix": func(c *Config) { c.Prefix = strings.Repeat("p", maxKey-maxSuffix) },
		"no workers":  func(c *Config) { c.Workers = 0 },
		"rate":        func(c *Config) { c.Rate = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// drop breaks off the connection of some calls on connections that had carried
// calls before: before the call is carried out, after it, or amid its answer.
type drop struct {
	before, amid bool
	when         func(*http.Request) bool
}

func (d drop) wrap(h http.Handler) http.Handler {
	var used sync.Map // remote addresses
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, again := used.LoadOrStore(r.RemoteAddr, true); !again || !d.when(r) {
			h.ServeHTTP(w, r)
			return
		}
		if !d.before {
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		if d.amid {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
		}
		_ = c.Close()
	})
}

// A call whose connection ends without an answer is sent again, whether it was
// carried out or not, and the load knows what that looks like; one that was
// answered in part is not, nor is any write without Resend.
func TestResend(t *testing.T) {
	for name, c := range map[string]struct {
		drop   drop
		method string // of the calls whose connection is dropped
		resend bool
		fails  bool
	}{
		"not carried out":         {drop: drop{before: true}, resend: true},
		"carried out":             {resend: true},
		"a delete, carried out":   {method: http.MethodDelete, resend: true},
		"answered in part":        {drop: drop{amid: true}, method: http.MethodPut, resend: true, fails: true},
		"a write, not allowed":    {drop: drop{before: true}, method: http.MethodPut, fails: true},
		"reads need no allowance": {drop: drop{before: true}, method: http.MethodGet},
	} {
		for version := 1; version <= 3; version++ {
			if version == 1 && c.method == http.MethodDelete {
				continue // it has none
			}
			t.Run(fmt.Sprintf("%s/v%d", name, version), func(t *testing.T) {
				var n atomic.Int64
				c.drop.when = func(r *http.Request) bool {
					return (c.method == "" || c.method == r.Method) && (c.method == http.MethodDelete || n.Add(1)%3 == 0)
				}
				config := DefaultConfig()
				config.Version, config.Rate, config.Resend = version, 0, c.resend
				config.Targets = cluster(t, version, 1, c.drop.wrap)
				r := run(t, config, 400)
				if !c.fails && (r.Failed != 0 || r.Resent == 0) {
					t.Errorf("want calls that were sent again and none that failed: %+v", r)
				}
				if c.fails && (r.Failed == 0 || r.Resent != 0) {
					t.Errorf("want calls that failed and none that was sent again: %+v", r)
				}
			})
		}
	}
}
