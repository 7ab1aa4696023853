package dial

import (
	"context"
	"errors"
	"fmt"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/agent/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent answers as a test says. The socket and the protocol are the agent's own.
type agent struct {
	control.Backend // what is not asked here
	t               *testing.T
	path            string
	server          *control.Server

	mu    sync.Mutex
	where map[string]string
	asked int
}

func (a *agent) Resolve(_ context.Context, address string) (control.Resolved, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	switch to, isPeer := a.where[address]; {
	case !isPeer:
		return control.Resolved{Address: address, Version: 2}, nil
	case to == "":
		return control.Resolved{}, control.Refused(fmt.Errorf("node n3 at %s does not answer callers of version 2", address), "")
	default:
		return control.Resolved{Address: to, Peer: true, Version: 2}, nil
	}
}

func (a *agent) say(address, to string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.where[address] = to
}

func (a *agent) questions() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

func (a *agent) start() {
	a.t.Helper()
	l, err := control.ListenUnix(a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	a.server = control.Serve(l, a, slog.New(slog.DiscardHandler))
}

func (a *agent) stop() {
	a.t.Helper()
	if err := a.server.Close(); err != nil {
		a.t.Error(err)
	}
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "moult-") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agent{t: t, path: filepath.Join(dir, "s"), where: map[string]string{}}
	a.start()
	t.Cleanup(a.stop)
	return a
}

// peer tells its name to who connects.
func peer(t *testing.T, name string) (addr string, stop func()) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " for ", r.Host) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), s.Close
}

// call calls by HTTP, each time by a new connection.
func call(d *Dialer, addr string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := c.Get("http://" + addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

func want(t *testing.T, what string, d *Dialer, addr, want string) {
	t.Helper()
	if got, err := call(d, addr); err != nil || got != want {
		t.Errorf("%s: %q, %v, want %q", what, got, err, want)
	}
}

func TestDial(t *testing.T) {
	a := newAgent(t)
	one, _ := peer(t, "one")
	elsewhere, _ := peer(t, "elsewhere")
	a.say("peer.example:7000", one)
	a.say("peer.example:7001", "")
	t.Setenv(SocketVariable, a.path)
	d := New()
	want(t, "a peer", d, "peer.example:7000", "one for peer.example:7000")
	want(t, "no peer", d, elsewhere, "elsewhere for "+elsewhere)
	if _, err := call(d, "peer.example:7001"); err == nil || !strings.Contains(err.Error(), "does not answer callers of version 2") {
		t.Errorf("a peer without an address for the version: %v", err)
	}
	conn, err := Context(t.Context(), "tcp", "peer.example:7000")
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.RemoteAddr().String(); got != one {
		t.Errorf("Context dialled %s, want %s", got, one)
	}
	conn.Close()
	if conn, err = d.DialContext(t.Context(), "unix", a.path); err != nil {
		t.Errorf("another network: %v", err)
	} else {
		conn.Close()
	}
	t.Setenv(SocketVariable, "")
	want(t, "without an agent", New(), elsewhere, "elsewhere for "+elsewhere)
	if _, err := Context(t.Context(), "tcp", "peer.example:7000"); err == nil {
		t.Error("a name that there is not was dialled")
	}
}

// What was said is kept, and asked for anew when it is old or leads nowhere.
func TestAnswersAreKept(t *testing.T) {
	a := newAgent(t)
	one, stop := peer(t, "one")
	a.say("peer.example:7000", one)
	d := &Dialer{Socket: a.path, TTL: time.Hour}
	for range 5 {
		want(t, "kept", d, "peer.example:7000", "one for peer.example:7000")
	}
	if n := a.questions(); n != 1 {
		t.Errorf("%d questions, want 1", n)
	}
	two, _ := peer(t, "two")
	a.say("peer.example:7000", two)
	want(t, "one still answers", d, "peer.example:7000", "one for peer.example:7000")
	stop()
	want(t, "one is gone", d, "peer.example:7000", "two for peer.example:7000")
	if n := a.questions(); n != 2 {
		t.Errorf("%d questions, want 2", n)
	}
	short := &Dialer{Socket: a.path, TTL: 1}
	want(t, "old", short, "peer.example:7000", "two for peer.example:7000")
	want(t, "old", short, "peer.example:7000", "two for peer.example:7000")
	if n := a.questions(); n != 4 {
		t.Errorf("%d questions, want 4", n)
	}
}

// While the agent is away the last answers serve on; what is not known waits for
// it, and is never dialled unlabelled.
func TestAgentAway(t *testing.T) {
	a := newAgent(t)
	one, _ := peer(t, "one")
	a.say("peer.example:7000", one)
	d := &Dialer{Socket: a.path, TTL: 1}
	want(t, "known", d, "peer.example:7000", "one for peer.example:7000")
	a.stop()
	want(t, "away", d, "peer.example:7000", "one for peer.example:7000")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	public, _ := peer(t, "unlabelled")
	if conn, err := d.DialContext(ctx, "tcp", public); err == nil || !strings.Contains(err.Error(), a.path) {
		t.Errorf("an address that is not known: %v, %v", conn, err)
	}
	a.say(public, one)
	back := make(chan string)
	go func() {
		got, err := call(d, public)
		back <- fmt.Sprint(got, err)
	}()
	a.start()
	if got := <-back; got != "one for "+public+"<nil>" {
		t.Errorf("when it is back: %s", got)
	}
}

// A socket that is not an agent's is an error, not memory without bound.
func TestBadAgent(t *testing.T) {
	for what, serve := range map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := fmt.Fprint(w, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		},
		"not JSON":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") },
		"no address": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		"old agent":  http.NotFound,
	} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: serve}}
		s.Start()
		d := &Dialer{Socket: l.Addr().String()}
		_, err = d.DialContext(t.Context(), "tcp", "peer.example:7000")
		var said *agentError
		if !errors.As(err, &said) {
			t.Errorf("%s: %v", what, err)
		}
		s.Close()
	}
}

func TestAnswersAreBounded(t *testing.T) {
	var d Dialer
	for i := range maxAnswers + 100 {
		d.keep(fmt.Sprintf("peer:%d", i), "x:1")
	}
	if n := len(d.answers); n != maxAnswers {
		t.Errorf("%d answers are kept, want %d", n, maxAnswers)
	}
	if _, ok := d.answers[fmt.Sprintf("peer:%d", maxAnswers+99)]; !ok {
		t.Error("the last is not kept")
	}
}

// Whoever copies dial.go has all that it takes.
func TestCopyable(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || !slices.Equal(files, []string{"dial.go", "dial_test.go"}) {
		t.Errorf("the files are %q, %v", files, err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "dial.go", nil, parser.ImportsOnly)
	if err != nil || len(f.Imports) == 0 {
		t.Fatalf("its imports: %v, %v", f.Imports, err)
	}
	for _, imp := range f.Imports {
		path := strings.Trim(imp.Path.Value, `"`)
		if p, err := build.Import(path, "", build.FindOnly); err != nil || !p.Goroot {
			t.Errorf("it imports %s, which is not of the standard library: %v", path, err)
		}
	}
}
