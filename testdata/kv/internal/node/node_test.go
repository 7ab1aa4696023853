package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestEscapeKey(t *testing.T) {
	seen := map[string]string{}
	for _, key := range []string{"a", "A", "a.b", "a/b", "%41", "-_", "ä", " ", "\x00", strings.Repeat("/", MaxKey)} {
		name := EscapeKey(key)
		if other, ok := seen[strings.ToLower(name)]; ok {
			t.Errorf("%q and %q share a file name", key, other)
		}
		seen[strings.ToLower(name)] = key
		if got, err := UnescapeKey(name); err != nil || got != key {
			t.Errorf("UnescapeKey(%q) = %q, %v; want %q", name, got, err, key)
		}
	}
	for _, name := range []string{"", "A", "%", "%4", "%zz", "%61", "%2e%2E", "%FF", "a.json"} {
		if key, err := UnescapeKey(name); err == nil {
			t.Errorf("UnescapeKey(%q) = %q", name, key)
		}
	}
}

func TestParseConfig(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	ok := []string{"--listen", "127.0.0.1:0", "--state", "s"}
	c, err := ParseConfig("kv", ok, env(map[string]string{"KV_PEERS": "a:1, b:2", "HTTP_PROXY": "127.0.0.1:3128"}), io.Discard)
	if err != nil || len(c.Peers) != 2 || c.Peers[1] != "b:2" || c.Proxy.String() != "http://127.0.0.1:3128" {
		t.Errorf("%+v, %v", c, err)
	}
	for name, args := range map[string][]string{
		"nothing":   nil,
		"no state":  {"--listen", "a:1"},
		"no port":   {"--listen", "a", "--state", "s"},
		"bad peer":  append(ok[:4:4], "--peers", "a:1,b"),
		"surplus":   append(ok[:4:4], "serve"),
		"bad flag":  append(ok[:4:4], "--fast"),
		"bad drain": append(ok[:4:4], "--drain-timeout", "soon"),
		"bad fault": append(ok[:4:4], "--fail-every", "-1"),
	} {
		var out bytes.Buffer
		if _, err := ParseConfig("kv", args, env(nil), &out); err == nil || out.Len() == 0 {
			t.Errorf("%s: error %v, said %q", name, err, out.String())
		}
	}
	if _, err := ParseConfig("kv", ok, env(map[string]string{"HTTP_PROXY": "http://"}), io.Discard); err == nil {
		t.Error("a proxy without a host was taken")
	}
}

// Calls are counted, those that fail are told apart, and neither health checks nor questions
// about it count or fail.
func TestStats(t *testing.T) {
	h := counted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			Fail(w, http.StatusServiceUnavailable, errors.New("broken"))
			return
		}
		Answer(w, http.StatusOK, "done")
	}), 3)
	for i, c := range []struct {
		path string
		code int
		body string
	}{
		{"/stats", 200, `{"ok":0,"failed":0,"errors":0}`},
		{"/a", 200, `"done"`}, {"/healthz", 200, `"done"`}, {"/healthz", 200, `"done"`}, {"/broken", 503, `{"error":"broken"}`},
		{"/a", 500, `{"error":"this call fails, as --fail-every asks"}`}, {"/a", 200, `"done"`},
		{"/stats", 200, `{"ok":2,"failed":2,"errors":0.5}`},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
		if w.Code != c.code || strings.TrimSpace(w.Body.String()) != c.body {
			t.Errorf("call %d, %s: %d %s", i, c.path, w.Code, w.Body)
		}
	}
}

// A call that is under way when the end begins is answered.
func TestServeFinishesCalls(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	inside, release := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(inside)
		<-release
		Answer(w, http.StatusOK, "done")
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, h, DefaultDrain) }()
	got := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + ln.Addr().String())
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		got <- err
	}()
	<-inside
	stop()
	// The listener closes first: only then is the call let go.
	for {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if err := <-got; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestListen serves on a unix socket, and on one that this process was given:
// here, by itself.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := listen("unix:"+path, func(string) string { return "" })
	if err != nil || ln.Addr().Network() != "unix" || ln.Addr().String() != path {
		t.Fatalf("%v, %v", ln, err)
	}
	defer ln.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInherited$", "-test.v")
	given, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	f, err := given.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), "NODE_TEST_INHERITED="+given.Addr().String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestInherited is the child's part of TestListen.
func TestInherited(t *testing.T) {
	want := os.Getenv("NODE_TEST_INHERITED")
	if want == "" {
		t.Skip("TestListen starts it in a process of its own")
	}
	env := func(fds, pid string) func(string) string {
		return func(k string) string { return map[string]string{"LISTEN_FDS": fds, "LISTEN_PID": pid}[k] }
	}
	own := strconv.Itoa(os.Getpid())
	if _, err := listen("127.0.0.1:0", env("2", own)); err == nil {
		t.Error("two sockets were taken for one service")
	}
	ln, err := listen("127.0.0.1:0", env("1", "1"))
	if err != nil || ln.Addr().String() == want {
		t.Errorf("took what another process was given: %v, %v", ln, err)
	}
	ln, err = listen("127.0.0.1:0", env("1", own))
	if err != nil || ln.Addr().String() != want {
		t.Errorf("the given socket: %v, %v; want %s", ln, err, want)
	}
}

func TestRunExitCodes(t *testing.T) {
	p := Program{
		Name: "kv",
		Open: func(Config, *slog.Logger) (http.Handler, error) { return http.NotFoundHandler(), nil },
		Migrate: func(_ context.Context, from, to string) (int, error) {
			return 7, nil
		},
	}
	old, fresh := t.TempDir(), t.TempDir()
	env := map[string]string{"MOULT_OLD": old, "MOULT_NEW": fresh}
	same := map[string]string{"MOULT_OLD": old, "MOULT_NEW": old}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		code int
		out  string
	}{
		"help":                {[]string{"-h"}, nil, ExitOK, ""},
		"misuse":              {nil, nil, ExitMisuse, ""},
		"serve":               {[]string{"--listen", "127.0.0.1:0", "--state", old}, nil, ExitOK, "kv: listening on 127.0.0.1:"},
		"port in use or bad":  {[]string{"--listen", "127.0.0.1:99999", "--state", old}, nil, ExitFailed, ""},
		"migrate":             {[]string{"migrate"}, env, ExitOK, "kv: migrated 7 objects\n"},
		"migrate in place":    {[]string{"migrate"}, same, ExitFailed, ""},
		"migrate unset":       {[]string{"migrate"}, nil, ExitMisuse, ""},
		"migrate with a flag": {[]string{"migrate", "-x"}, env, ExitMisuse, ""},
	} {
		var stdout, stderr bytes.Buffer
		code := p.Run(ended, c.args, func(k string) string { return c.env[k] }, &stdout, &stderr)
		if code != c.code || !strings.HasPrefix(stdout.String(), c.out) || (code != ExitOK && stderr.Len() == 0) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", name, code, stdout.String(), stderr.String())
		}
	}
}
