package kv1

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"moult/testdata/kv/internal/node"
)

func start(t *testing.T, c node.Config) *httptest.Server {
	t.Helper()
	c.NoSync = true
	if c.State == "" {
		c.State = t.TempDir()
	}
	h, err := Open(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// call returns "status body".
func call(t *testing.T, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status[:3] + " " + strings.TrimSpace(string(got))
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestProtocol(t *testing.T) {
	srv := start(t, node.Config{})
	want(t, call(t, "GET", srv.URL+"/list", ""), `200 {"keys":[]}`)
	want(t, call(t, "GET", srv.URL+"/get?k=a", ""), `404 {"error":"not found"}`)
	want(t, call(t, "PUT", srv.URL+"/set", `{"key":"a/ä %","value":"1 \u0000 ✓"}`), `200 {"key":"a/ä %"}`)
	want(t, call(t, "PUT", srv.URL+"/set", `{"key":"A","value":""}`), `200 {"key":"A"}`)
	want(t, call(t, "GET", srv.URL+"/get?k="+url.QueryEscape("a/ä %"), ""), `200 {"key":"a/ä %","value":"1 \u0000 ✓"}`)
	want(t, call(t, "GET", srv.URL+"/get?k=A", ""), `200 {"key":"A","value":""}`)
	want(t, call(t, "GET", srv.URL+"/get?k=a", ""), `404 {"error":"not found"}`)
	want(t, call(t, "GET", srv.URL+"/list", ""), `200 {"keys":["A","a/ä %"]}`)
	want(t, call(t, "GET", srv.URL+"/healthz", ""), `200 {"status":"ok"}`)
}

func TestRefusals(t *testing.T) {
	srv := start(t, node.Config{})
	for name, c := range map[string]struct{ method, path, body string }{
		"no key":         {"GET", "/get", ""},
		"long key":       {"GET", "/get?k=" + strings.Repeat("k", node.MaxKey+1), ""},
		"dots":           {"GET", "/get?k=..", ""},
		"key not UTF-8":  {"GET", "/get?k=%ff", ""},
		"no value":       {"PUT", "/set", `{"key":"a"}`},
		"body not JSON":  {"PUT", "/set", "key=a"},
		"body not UTF-8": {"PUT", "/set", "{\"key\":\"a\",\"value\":\"\xff\"}"},
		"unknown field":  {"PUT", "/set", `{"key":"a","value":"b","revision":1}`},
		"two values":     {"PUT", "/set", `{"key":"a","value":"b"} {}`},
		"large value":    {"PUT", "/set", `{"key":"a","value":"` + strings.Repeat("v", node.MaxValue+1) + `"}`},
		"endless body":   {"PUT", "/set", `{"key":"a","value":"` + strings.Repeat("v", node.MaxBody) + `"}`},
	} {
		if got := call(t, c.method, srv.URL+c.path, c.body); !strings.HasPrefix(got, `400 {"error":"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
	want(t, call(t, "GET", srv.URL+"/list", ""), `200 {"keys":[]}`)
}

func TestValuesOutliveTheNode(t *testing.T) {
	c := node.Config{State: t.TempDir()}
	srv := start(t, c)
	want(t, call(t, "PUT", srv.URL+"/set", `{"key":"a.b","value":"1"}`), `200 {"key":"a.b"}`)
	srv.Close()
	if err := os.WriteFile(filepath.Join(c.State, "tmp", "new-1"), []byte("half a val"), 0o644); err != nil {
		t.Fatal(err)
	}
	srv = start(t, c)
	want(t, call(t, "GET", srv.URL+"/get?k=a.b", ""), `200 {"key":"a.b","value":"1"}`)
	if left, err := os.ReadDir(filepath.Join(c.State, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if data, err := os.ReadFile(filepath.Join(c.State, "keys", "a%2Eb")); err != nil || !bytes.Equal(data, []byte("1")) {
		t.Errorf("file: %q, %v", data, err)
	}
}

func TestReadRepair(t *testing.T) {
	a := start(t, node.Config{})
	var proxied atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied.Add(1)
		if r.URL.Host == "" || r.Header.Get("Kv-Repair") != "1" {
			t.Errorf("not a repair through a proxy: %s %v", r.URL, r.Header)
		}
		r.RequestURI = ""
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	defer proxy.Close()
	proxyURL, _ := url.Parse(proxy.URL)
	b := start(t, node.Config{Peers: []string{a.Listener.Addr().String()}, Proxy: proxyURL})
	want(t, call(t, "GET", b.URL+"/get?k=x%2Fy", ""), `404 {"error":"not found"}`)
	want(t, call(t, "PUT", a.URL+"/set", `{"key":"x/y","value":"1"}`), `200 {"key":"x/y"}`)
	want(t, call(t, "GET", b.URL+"/get?k=x%2Fy", ""), `200 {"key":"x/y","value":"1"}`)
	want(t, call(t, "GET", b.URL+"/list", ""), `200 {"keys":["x/y"]}`)
	a.Close()
	want(t, call(t, "GET", b.URL+"/get?k=x%2Fy", ""), `200 {"key":"x/y","value":"1"}`)
	if got := call(t, "GET", b.URL+"/get?k=z", ""); !strings.HasPrefix(got, "503 ") {
		t.Errorf("a miss that is not certain: %s", got)
	}
	if proxied.Load() != 3 {
		t.Errorf("%d calls through the proxy, want 3", proxied.Load())
	}
}

// What a client wrote while a repair was under way must win.
func TestRepairKeepsNewerWrites(t *testing.T) {
	s, err := OpenStore(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set("k", "client's"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Adopt("k", "peer's"); err != nil || got != "client's" {
		t.Errorf("Adopt: %q, %v", got, err)
	}
	if got, err := s.Get("k"); err != nil || got != "client's" {
		t.Errorf("Get: %q, %v", got, err)
	}
}
