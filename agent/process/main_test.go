//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// quickExit is for children built with -race, which else take a second to end.
const quickExit = "GORACE=atexit_sleep_ms=0"

// The test binary is also the node software of the tests, and the agent that
// dies: TEST_PROGRAM says which part it plays.
func TestMain(m *testing.M) {
	if part := os.Getenv("TEST_PROGRAM"); part != "" {
		os.Exit(playPart(part))
	}
	// The tests wait for processes much more than they compute.
	if err := flag.Set("test.parallel", strconv.Itoa(8*runtime.GOMAXPROCS(0))); err != nil {
		panic(err) // there is no such flag any more
	}
	goleak.VerifyTestMain(m)
}

func playPart(part string) int {
	switch part {
	case "http":
		return serveHTTP()
	case "deaf":
		return deaf()
	case "fail":
		fmt.Println("one")
		fmt.Println("two")
		fmt.Fprintln(os.Stderr, "the port is in use")
		return 7
	case "hang":
		fmt.Println("hanging")
		return hang()
	case "stubborn":
		return stubborn()
	case "leave-child":
		fmt.Println("child", child("hang", &syscall.SysProcAttr{Setpgid: true}))
		return 0
	case "notify":
		return notify()
	case "check":
		fmt.Println("checked at", os.Getenv("TEST_ADDR"))
		if os.Getenv("TEST_FAIL") != "" {
			return 1
		}
		return 0
	case "lines":
		return writeLines()
	case "inherit":
		return serveInherited()
	case "agent":
		return runAgent()
	}
	fmt.Fprintln(os.Stderr, "unknown part", part)
	return 99
}

// serveHTTP is well-behaved software: it serves at TEST_ADDR, is healthy from
// the third request on, and ends at SIGTERM.
func serveHTTP() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	l, err := listen()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var calls atomic.Int64
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/pid":
			fmt.Fprint(w, os.Getpid())
		case r.URL.Path == "/say":
			fmt.Println("said something")
		case r.URL.Path == "/never" || calls.Add(1) < 3:
			http.Error(w, "still loading", http.StatusServiceUnavailable)
		}
	}))
	<-term
	fmt.Println("bye")
	return 0
}

// listen takes the socket that it is given, else it opens one at TEST_ADDR.
func listen() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") != "" {
		return net.FileListener(os.NewFile(3, "api"))
	}
	return net.Listen("tcp", os.Getenv("TEST_ADDR"))
}

// deaf listens, and accepts nobody.
func deaf() int {
	l, err := listen()
	if err != nil {
		return 1
	}
	defer l.Close()
	return hang()
}

// child runs another part and returns its process ID when it has begun.
func child(part string, attr *syscall.SysProcAttr) int {
	cmd := kit.Child("TEST_PROGRAM=" + part)
	cmd.SysProcAttr = attr
	if _, _, err := kit.Begin(cmd); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

// stubborn ignores SIGTERM, and has a child in its group and one in another
// group of its session.
func stubborn() int {
	signal.Ignore(syscall.SIGTERM)
	a := child("hang", nil)
	b := child("hang", &syscall.SysProcAttr{Setpgid: true})
	fmt.Println("children", a, b)
	l, err := net.Listen("tcp", os.Getenv("TEST_ADDR"))
	if err != nil {
		return 1
	}
	defer l.Close()
	go http.Serve(l, nil)
	return hang()
}

func notify() int {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, m := range []string{"STATUS=loading", "WATCHDOG=1\nnonsense", "READY=0", "READY=1\nSTATUS=serving"} {
		if _, err := c.Write([]byte(m)); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	c.Close()
	return hang()
}

// writeLines writes numbered lines until SIGTERM.
func writeLines() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	for i := 1; ; i++ {
		fmt.Printf("line %d %s\n", i, strings.Repeat("x", 80))
		select {
		case <-term:
			return 0
		default:
		}
	}
}

// runAgent starts software as an agent does, tells its handle, and waits to be
// killed; with TEST_DIE it is killed before it can tell.
func runAgent() int {
	var wire wireSpec
	if err := json.Unmarshal([]byte(os.Getenv("TEST_SPEC")), &wire); err != nil {
		fmt.Println(err)
		return 1
	}
	spec := Spec{
		Dir: wire.Dir, Argv: wire.Argv, Env: wire.Env, Marker: wire.Marker, LogPath: wire.LogPath,
		Health: wire.Health, HealthAddr: wire.HealthAddr, NotifySocket: wire.NotifySocket,
	}
	spec.OnStart = func(Handle) error {
		if os.Getenv("TEST_DIE") != "" {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			hang()
		}
		return nil
	}
	p, err := Start(spec)
	if err == nil {
		err = p.AwaitReady(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	data, err := json.Marshal(p.Handle())
	fmt.Println(string(data))
	if err != nil {
		return 1
	}
	return hang()
}

// wireSpec is how a Spec reaches runAgent.
type wireSpec struct {
	Dir                      string
	Argv, Env                []string
	Marker, LogPath          string
	Health                   bundle.Health
	HealthAddr, NotifySocket string
}

func agentSpec(t *testing.T, s Spec) string {
	t.Helper()
	data, err := json.Marshal(wireSpec{s.Dir, s.Argv, s.Env, s.Marker, s.LogPath, s.Health, s.HealthAddr, s.NotifySocket})
	if err != nil {
		t.Fatal(err)
	}
	return "TEST_SPEC=" + string(data)
}

// newSpec is the test binary playing a part, healthy by HTTP.
func newSpec(t *testing.T, part string, env ...string) Spec {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Dir: dir, Argv: []string{os.Args[0]},
		Env:     append([]string{"TEST_PROGRAM=" + part, "TEST_ADDR=" + addr, quickExit}, env...),
		LogPath: dir + "/log/node.log", Health: bundle.Health{HTTP: "/healthz", Interval: second / 20},
		HealthAddr: addr,
	}
}

const second = bundle.Duration(1e9)

// started starts a spec, and kills what is left of it at the test's end.
func started(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, p) })
	return p
}

func end(t *testing.T, p *Process) {
	t.Helper()
	if _, err := p.Stop(context.Background(), 0); err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// hang waits for a signal that kills. An empty select would not do: without cgo
// the runtime takes it for a deadlock.
func hang() int {
	for {
		time.Sleep(time.Hour)
	}
}
