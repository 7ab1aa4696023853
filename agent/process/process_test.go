//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/testdata/kit"
)

func TestLife(t *testing.T) {
	t.Parallel()
	var told Handle
	spec := newSpec(t, "http")
	spec.OnStart = func(h Handle) error { told = h; return nil }
	p := started(t, spec)
	if told != p.Handle() || told.PID == 0 {
		t.Errorf("OnStart got %+v, the handle is %+v", told, p.Handle())
	}
	if err := p.AwaitReady(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.AwaitHealthy(context.Background(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if (p.Exit() != Exit{}) {
		t.Errorf("exit while it runs: %+v", p.Exit())
	}
	exit, err := p.Stop(context.Background(), time.Minute)
	if err != nil || !exit.Known || exit.Code != 0 || exit.String() != "exit status 0" {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if got := p.LogTail(1); got != "bye" {
		t.Errorf("the log ends in %q", got)
	}
	again, err := p.Stop(context.Background(), time.Minute)
	if err != nil || again != exit {
		t.Errorf("stopped again: %+v, %v", again, err)
	}
}

func TestEndsBeforeReady(t *testing.T) {
	t.Parallel()
	p := started(t, newSpec(t, "fail"))
	err := p.AwaitReady(context.Background())
	var he *HealthError
	if !errors.As(err, &he) || he.Exit == nil || he.Exit.Code != 7 {
		t.Fatalf("error: %v", err)
	}
	if want := "it ended before it was ready: exit status 7"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	for n, want := range map[int]string{0: "", 1: "the port is in use", 2: "two\nthe port is in use", 9: "one\ntwo\nthe port is in use"} {
		if got := p.LogTail(n); got != want {
			t.Errorf("last %d lines: %q, want %q", n, got, want)
		}
	}
	// The next one's output begins after this one's.
	spec := p.spec
	spec.Argv = []string{"/bin/sh", "-c", "echo three"}
	next := started(t, spec)
	<-next.Done()
	if got := next.LogTail(9); got != "three" {
		t.Errorf("the next one's output: %q", got)
	}
}

func TestNeverReady(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "http")
	spec.Health.HTTP, spec.Health.HealthyDeadline = "/never", second/2
	p := started(t, spec)
	err := p.AwaitReady(context.Background())
	var he *HealthError
	if !errors.As(err, &he) || he.Exit != nil || !he.Ready {
		t.Fatalf("error: %v", err)
	}
	if !strings.HasPrefix(err.Error(), "it was not ready after ") {
		t.Errorf("error: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("the agent stops")
	cancel(stop)
	if err := p.AwaitReady(ctx); !errors.Is(err, stop) {
		t.Errorf("AwaitReady with an ended context: %v", err)
	}
	if err := p.AwaitHealthy(ctx, time.Second); !errors.Is(err, stop) {
		t.Errorf("AwaitHealthy with an ended context: %v", err)
	}
}

func TestReadinessKinds(t *testing.T) {
	for name, c := range map[string]struct {
		part   string
		health bundle.Health
	}{
		"http":   {"http", bundle.Health{HTTP: "/healthz"}},
		"tcp":    {"http", bundle.Health{TCP: true}},
		"exec":   {"hang", bundle.Health{Exec: []string{"/bin/sh", "-c", `test "$TEST_PROGRAM" = hang`}}},
		"notify": {"notify", bundle.Health{Notify: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := newSpec(t, c.part)
			spec.Health = c.health
			spec.Health.Interval, spec.Health.HealthyDeadline = second/20, 60*second
			spec.NotifySocket = filepath.Join(spec.Dir, "notify.sock")
			p := started(t, spec)
			if err := p.AwaitReady(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := p.AwaitHealthy(context.Background(), 20*time.Millisecond); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFailedChecksSayWhy(t *testing.T) {
	t.Parallel()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/ok", http.StatusFound)
		} else if r.URL.Path != "/ok" {
			http.Error(w, "index\n damaged", http.StatusInternalServerError)
		}
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	dir := t.TempDir()
	n, err := listenNotify(filepath.Join(dir, "n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer n.stop()
	if err := n.hear("STATUS=replaying"); err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	for want, c := range map[string]bundle.Health{
		"500 Internal Server Error: index damaged": {HTTP: "/x"},
		"302 Found": {HTTP: "/away"},
		"/bin/sh -c echo no; exit 4: exit status 4: no":      {Exec: []string{"/bin/sh", "-c", "echo no; exit 4"}},
		"./missing does not exist; check":                    {Exec: []string{"./missing"}},
		`READY=1 was not sent to the notify socket; its las`: {Notify: true},
		"no health check": {},
	} {
		var hears *notifier
		if c.Notify {
			hears = n
		}
		spec := Spec{Dir: dir, Health: c, HealthAddr: addr}
		if err := newCheck(spec, hears)(context.Background()); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), dir, "."), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	if err := checkHTTP(context.Background(), &net.Dialer{}, "http://"+addr+"/ok"); err != nil {
		t.Error(err)
	}
	if err := checkTCP(context.Background(), &net.Dialer{}, addr); err != nil {
		t.Error(err)
	}
	if err := checkTCP(context.Background(), &net.Dialer{}, kit.ClosedPort(t)); err == nil {
		t.Error("nobody listens: no error")
	}
}

// It is not parallel: a process that another test was just starting would have the program
// that is written here open for writing, and Linux starts none that is.
func TestCannotStart(t *testing.T) {
	for want, change := range map[string]func(s *Spec){
		"command is empty":         func(s *Spec) { s.Argv = nil },
		"./kv does not exist":      func(s *Spec) { s.Argv = []string{"./kv"} },
		"/kv does not exist":       func(s *Spec) { s.Argv = []string{"/kv"} },
		"is not executable":        func(s *Spec) { s.Argv = []string{"./plain"} },
		"is a folder":              func(s *Spec) { s.Argv = []string{"./folder"} },
		"is written ./no-such-kv":  func(s *Spec) { s.Argv = []string{"no-such-kv"} },
		`folder "." is miss`:       func(s *Spec) { s.Dir = "/none" },
		"exec format error":        func(s *Spec) { s.Argv = []string{"./garbage"} },
		"no file for its output":   func(s *Spec) { s.LogPath = "" },
		"open the log":             func(s *Spec) { s.LogPath = "/proc/none/x" },
		"no address to ask":        func(s *Spec) { s.HealthAddr = "" },
		"has 124 bytes, more than": func(s *Spec) { s.Health = bundle.Health{Notify: true}; s.NotifySocket = "/" + strings.Repeat("x", 123) },
		"no socket to hear":        func(s *Spec) { s.Health = bundle.Health{Notify: true} },
	} {
		spec := newSpec(t, "hang")
		if err := errors.Join(
			os.WriteFile(filepath.Join(spec.Dir, "plain"), nil, 0o644),
			os.WriteFile(filepath.Join(spec.Dir, "garbage"), []byte("\x7fgarbage"), 0o755),
			os.Mkdir(filepath.Join(spec.Dir, "folder"), 0o755),
		); err != nil {
			t.Fatal(err)
		}
		change(&spec)
		p, err := Start(spec)
		if err == nil {
			end(t, p)
		}
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), spec.Dir, "."), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestOnStartError(t *testing.T) {
	t.Parallel()
	var h Handle
	refused := errors.New("the disk is full")
	spec := newSpec(t, "hang")
	spec.OnStart = func(got Handle) error { h = got; return refused }
	if _, err := Start(spec); !errors.Is(err, refused) {
		t.Errorf("error: %v", err)
	}
	if _, err := Adopt(h, Spec{}); !errors.Is(err, ErrGone) {
		t.Errorf("it still runs: %v", err)
	}
}

// ints returns the numbers in the last line of the log.
func ints(t *testing.T, p *Process) (out []int) {
	t.Helper()
	for _, s := range regexp.MustCompile(`\d+`).FindAllString(p.LogTail(1), -1) {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func TestKilledAfterDrain(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "stubborn")
	spec.Health = bundle.Health{TCP: true, Interval: second / 20}
	p := started(t, spec)
	if err := p.AwaitReady(context.Background()); err != nil {
		t.Fatal(err)
	}
	family := append(ints(t, p), p.Handle().PID)
	if len(family) != 3 {
		t.Fatalf("log: %q", p.LogTail(9))
	}
	for _, pid := range family {
		if !kit.Alive(pid) {
			t.Fatalf("process %d is not alive to begin with", pid)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Stop(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop with an ended context: %v", err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			exit, err := p.Stop(context.Background(), 20*time.Millisecond)
			if err != nil || exit.Signal != "SIGKILL" || exit.Code != -1 || exit.Text != "ended by signal SIGKILL" {
				t.Errorf("exit %+v, %v", exit, err)
			}
		})
	}
	all.Wait()
	for _, pid := range family {
		if kit.Alive(pid) {
			t.Errorf("process %d survived", pid)
		}
	}
}

func TestChildLeftBehindIsKilled(t *testing.T) {
	t.Parallel()
	p := started(t, newSpec(t, "leave-child"))
	<-p.Done()
	for _, pid := range ints(t, p) {
		if kit.Alive(pid) {
			t.Errorf("process %d survived", pid)
		}
	}
	if exit := p.Exit(); exit.Code != 0 || !exit.Known {
		t.Errorf("exit %+v", exit)
	}
}

func TestCloseLeavesItRunning(t *testing.T) {
	t.Parallel()
	p := started(t, newSpec(t, "hang"))
	waits := make(chan error, 1)
	go func() { waits <- p.AwaitReady(context.Background()) }()
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-waits; !errors.Is(err, ErrClosed) {
		t.Errorf("AwaitReady: %v", err)
	}
	if _, err := p.Stop(context.Background(), time.Hour); !errors.Is(err, ErrClosed) {
		t.Errorf("Stop: %v", err)
	}
	again, err := Adopt(p.Handle(), p.spec)
	if err != nil {
		t.Fatal(err)
	}
	end(t, again)
}

func get(t *testing.T, addr, path string) string {
	t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// Whatever the check, and whether the software listens itself or was given the socket:
// software that accepts nobody is not ready, and one that does is. By exec and notify
// the software's author says how it is asked.
func TestChecksAskTheSoftware(t *testing.T) {
	t.Parallel()
	for name, health := range map[string]bundle.Health{
		"http": {HTTP: "/healthz", Interval: second / 20}, "tcp": {TCP: true, Interval: second / 20},
	} {
		for _, given := range []bool{false, true} {
			for part, want := range map[string]bool{"deaf": false, "http": true} {
				if runtime.GOOS != "linux" && name == "tcp" {
					continue // the kernel does not tell
				}
				t.Run(fmt.Sprintf("%s, socket given %v, %s", name, given, part), func(t *testing.T) {
					t.Parallel()
					spec := newSpec(t, part)
					spec.Health = health
					spec.Health.HealthyDeadline = 3 * second
					if want {
						spec.Health.HealthyDeadline = 60 * second
					}
					if given {
						l, err := net.Listen("tcp", spec.HealthAddr)
						if err != nil {
							t.Fatal(err)
						}
						f, err := l.(*net.TCPListener).File()
						l.Close()
						if err != nil {
							t.Fatal(err)
						}
						defer f.Close() // as the agent has it
						spec.Sockets = []Socket{{Name: "api", File: f}}
					}
					err := started(t, spec).AwaitReady(t.Context())
					if (err == nil) != want {
						t.Errorf("ready: %v, want %v", err, want)
					}
				})
			}
		}
	}
}

// Software that hangs is found by its check, also by one of TCP.
func TestHangs(t *testing.T) {
	t.Parallel()
	for name, health := range map[string]bundle.Health{"http": {HTTP: "/healthz"}, "tcp": {TCP: true}} {
		if runtime.GOOS != "linux" && name == "tcp" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := newSpec(t, "http")
			spec.Health = health
			spec.Health.Interval = second / 20
			p := started(t, spec)
			if err := p.AwaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(p.Handle().PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if err := p.AwaitHealthy(t.Context(), time.Hour); err == nil || p.checkOnce(t.Context()) == nil {
				t.Errorf("stopped software is taken for healthy: %v", err)
			}
			if err := syscall.Kill(p.Handle().PID, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if err := p.AwaitReady(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
