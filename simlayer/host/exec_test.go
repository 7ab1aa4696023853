//go:build unix

package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/simlayer/stream"
	"moult/store/bundle"
	"moult/testdata/kit"
	"moult/testdata/line/line1"
	"moult/testdata/line/line2"
	"moult/testdata/line/lineload"
)

func execObject(t *testing.T, from, to bundle.Version, args ...string) Object {
	return Object{
		Version: from, To: to, Kind: KindExec, Dir: t.TempDir(), State: t.TempDir(),
		Argv: append([]string{os.Args[0], "test-object"}, args...), Env: os.Environ(),
	}
}

var tcpLine = []Service{{Name: "line", Protocol: bundle.ProtocolTCP}}

// startLine1 and startLine2 are nodes of line.
func startLine1(t *testing.T) (string, *line1.Store) {
	s, err := line1.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return serveLine(t, func(c net.Conn) func(func()) error { return s.Answer(c) }, s), s
}

func startLine2(t *testing.T) (string, *line2.Store) {
	s, err := line2.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return serveLine(t, func(c net.Conn) func(func()) error { return s.Answer(c) }, s), s
}

func serveLine(t *testing.T, open func(net.Conn) func(func()) error, store io.Closer) string {
	ln, err := stream.Listen(t.Context(), anyPort)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for answer := open(c); answer(func() {}) == nil; {
				}
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); store.Close() })
	return ln.Addr().String()
}

// A program answers callers of the version before, and one those of the version
// after, in a protocol that this project knows nothing of; it is killed under load,
// and what is next changes.
func TestExecBothWays(t *testing.T) {
	one, oneStore := startLine1(t)
	two, _ := startLine2(t)
	for _, c := range []struct {
		name    string
		native  bundle.Version
		node    string
		object  Object
		version int
	}{
		{"past", 2, two, execObject(t, 1, 2, "line2", "past"), 1},
		{"future", 1, one, execObject(t, 2, 1, "line2", "future"), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, _ := startHost(t, Config{Services: tcpLine, MinPause: time.Millisecond})
			set(t, h, c.native, c.node, c.object)
			addr := h.Addrs(c.object.Version)["line"]
			l := lineload.Start(lineload.Config{Addrs: []string{addr}, Version: c.version, Workers: 4, Prefix: c.name})
			more := func() {
				want := l.Calls() + 50
				kit.Until(t, "calls", func() bool { return l.Calls() >= want })
			}
			more()
			for range 3 {
				kill(t, h, c.object.Version)
				more()
			}
			set(t, h, c.native, "", c.object) // the node is away for new connections
			set(t, h, c.native, c.node, c.object)
			more()
			if got := h.Addrs(c.object.Version)["line"]; got != addr {
				t.Errorf("the address changed from %s to %s", addr, got)
			}
			r := l.Stop()
			t.Logf("%d calls, %d sent again, longest %v", r.Calls, r.Again, r.Longest)
			if len(r.Wrong) > 0 {
				t.Errorf("wrong: %v", r.Wrong)
			}
		})
	}
	// What cannot be simulated is denied in the protocol's own words.
	h, _ := startHost(t, Config{Services: tcpLine})
	set(t, h, 1, one, execObject(t, 2, 1, "line2", "future"))
	conn, err := net.Dial("tcp", h.Addrs(2)["line"])
	if err != nil {
		t.Fatal(err)
	}
	c := line2.NewClient(conn)
	defer c.Close()
	for want, err := range map[string]error{
		"denied: version 1 cannot keep": c.Put("k", "two\nlines"),
		"denied: version 1 cannot del":  c.Delete("k"),
	} {
		var refused line1.Refused
		if !errors.As(err, &refused) || !strings.HasPrefix(string(refused), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := c.Put("k", "plain"); err != nil {
		t.Fatal(err)
	}
	if got, _ := oneStore.Get("k"); got != "plain" {
		t.Errorf("version 1 has %q", got)
	}
}

// The numbers that the future object gives go on over its own death, and over the
// upgrade.
func TestExecState(t *testing.T) {
	one, store := startLine1(t)
	h, _ := startHost(t, Config{Services: tcpLine, MinPause: time.Millisecond})
	o := execObject(t, 2, 1, "line2", "future")
	set(t, h, 1, one, o)
	var last uint64
	for range 3 {
		conn, err := net.Dial("tcp", h.Addrs(2)["line"])
		if err != nil {
			t.Fatal(err)
		}
		c := line2.NewClient(conn)
		c.Last = last
		if err := c.Put("k", "v"); err != nil {
			t.Fatal(err)
		}
		last = c.Last
		c.Close()
		pid := kill(t, h, 2)
		kit.Until(t, "its end", func() bool { return statsOf(h, 2).PID != pid })
	}
	old, migrated := t.TempDir(), t.TempDir()
	s, err := line1.Open(old)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := store.Get("k")
	if err := errors.Join(s.Set("k", v), s.Close(), line2.Migrate(old, o.State, migrated)); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(migrated, "log"))
	if err != nil || !strings.Contains(string(log), "4:3001,1:k,1:v,") || last >= 3001 {
		t.Errorf("after number %d, the migrated log is %q (%v)", last, log, err)
	}
}

// get calls what answers version 1 by HTTP.
func get(t *testing.T, h *Host) (string, http.Header, error) {
	return do(client(t, h.Addrs(1)["api"], false), "GET", "/hello", "")
}

func TestExecThatListensByItself(t *testing.T) {
	n := startNode(t, 2)
	h, l := startHost(t, Config{})
	set(t, h, 2, n.addr, execObject(t, 1, 2, "own"))
	for range 3 {
		if got, _, err := get(t, h); err != nil || !strings.HasPrefix(got, "200 HTTP/1.1 hello") {
			t.Fatal(got, err)
		}
	}
	kit.Until(t, "the log to say that there is one hop more", func() bool { return strings.Contains(l.String(), "address of its own") })
	// It comes again, at another address.
	kill(t, h, 1)
	kit.Until(t, "an answer", func() bool { got, _, err := get(t, h); return err == nil && strings.HasPrefix(got, "200 ") })
}

// Programs that are of no use: their callers are told why, and others go on.
func TestBadExec(t *testing.T) {
	n := startNode(t, 2)
	for name, c := range map[string]struct {
		change func(*Object)
		want   string
	}{
		"exits":   {nil, "exit status 3; it wrote: there is no config"},
		"never":   {func(o *Object) { o.StartTimeout = 300 * time.Millisecond }, "took no caller of service"},
		"deaf":    {func(o *Object) { o.StartTimeout = 300 * time.Millisecond }, "took no caller of service"},
		"stalls":  {func(o *Object) { o.StartTimeout = 100 * time.Millisecond }, "took no caller of service"},
		"crashes": {nil, "panic: crashed by a caller"},
		"eats":    {func(o *Object) { o.Memory = 200 << 20 }, "it ended: "},
		"missing": {func(o *Object) { o.Argv = []string{"./missing"} }, "./missing: no such file or directory"},
		"noDir":   {func(o *Object) { o.Dir = "/nowhere" }, "/nowhere: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "eats" && raceEnabled {
				t.Skip("the race detector needs more memory than the limit that is tested")
			}
			h, _ := startHost(t, Config{MinPause: time.Hour, Grace: 100 * time.Millisecond})
			bad := execObject(t, 1, 2, name)
			if c.change != nil {
				c.change(&bad)
			}
			set(t, h, 2, n.addr, bad, execObject(t, 3, 2, "inherits"))
			kit.Until(t, "a refusal that says why", func() bool {
				got, header, err := get(t, h)
				return err == nil && strings.HasPrefix(got, "503 ") && strings.Contains(got, "version 1 is not running") && strings.Contains(got, c.want) &&
					header.Get("Moult-Refusal") == "error" && header.Get("Retry-After") == "1"
			})
			if s := statsOf(h, 1); s.State != StateResting || s.Restarts != 1 || !strings.Contains(s.Problem, c.want) || s.Errors == 0 {
				t.Errorf("%+v, want %q", s, c.want)
			}
			if got, _, err := do(client(t, h.Addrs(3)["api"], false), "GET", "/hello", ""); err != nil || !strings.HasPrefix(got, "200 ") {
				t.Errorf("another object: %s %v", got, err)
			}
		})
	}
}

// Raw connections to an object that rests are reset, not left waiting.
func TestRawRefused(t *testing.T) {
	h, _ := startHost(t, Config{MinPause: time.Hour, Services: tcpLine})
	set(t, h, 2, "", execObject(t, 1, 2, "exits"))
	kit.Until(t, "resting", func() bool { return statsOf(h, 1).State == StateResting })
	c, err := net.Dial("tcp", h.Addrs(1)["line"])
	if err == nil { // or it was faster
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// A program that ends at once is started again and again.
func TestCrashLoop(t *testing.T) {
	h, _ := startHost(t, Config{MinPause: time.Millisecond})
	set(t, h, 2, "", execObject(t, 1, 2, "exits"))
	kit.Until(t, "restarts", func() bool { return statsOf(h, 1).Restarts >= 3 })
}

// A program that writes without end neither waits nor fills the log.
func TestFlood(t *testing.T) {
	n := startNode(t, 2)
	h, l := startHost(t, Config{})
	set(t, h, 2, n.addr, execObject(t, 1, 2, "flood"))
	kit.Until(t, "more than is logged", func() bool { return strings.Contains(l.String(), "linesLeftOut") })
	for range 20 {
		if got, _, err := get(t, h); err != nil || !strings.HasPrefix(got, "200 ") {
			t.Fatal(got, err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	text := l.String()
	lines := strings.Count(text, "a simulation object writes\"")
	if lines > 500 { // ten times as many as may be logged at once
		t.Errorf("%d lines in the log", lines)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if len(line) > 4<<10 {
			t.Fatalf("a line of %d bytes", len(line))
		}
	}
}

// What a program starts ends with it, also out of its session.
func TestStrays(t *testing.T) {
	h, l := startHost(t, Config{})
	set(t, h, 2, "", execObject(t, 1, 2, "forks"))
	var pid int
	kit.Until(t, "the fork", func() bool {
		_, after, ok := strings.Cut(l.String(), "forked ")
		if ok {
			pid, _ = strconv.Atoi(after[:strings.IndexAny(after, "\"\n")])
		}
		return ok
	})
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the fork %d: %v", pid, err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if kit.Alive(pid) {
		t.Errorf("process %d lives on", pid)
	}
}

// An exec object of UDP.
func TestPackets(t *testing.T) {
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			echo.WriteTo(buf[:n], from)
		}
	}()
	h, _ := startHost(t, Config{Services: []Service{{Name: "api", Protocol: protocolUDP}}})
	set(t, h, 2, echo.LocalAddr().String(), execObject(t, 1, 2, "udp"))
	c, err := net.Dial("udp", h.Addrs(1)["api"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 100)
	kit.Until(t, "an answer", func() bool {
		c.Write([]byte("hello"))
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		return err == nil && string(buf[:n]) == "HELLO"
	})
}

// A chain through all kinds: callers of 1 by exec, 2 compatible, 3 rules, 4 exec.
func TestMixedChain(t *testing.T) {
	n := startNode(t, 5)
	h, _ := startHost(t, Config{})
	list := []Object{
		execObject(t, 1, 2, "inherits"),
		{Version: 2, To: 3, Kind: KindCompatible},
		rulesObject(t, 3, 4),
		execObject(t, 4, 5, "inherits"),
	}
	list[2].Path = step(t, 3, 5)
	set(t, h, 5, n.addr, list...)
	for v := bundle.Version(1); v <= 3; v++ {
		got, _, err := do(client(t, h.Addrs(v)["api"], false), "PUT", "/v3/k", `{"f3":1}`)
		if err != nil || got != `200 {"r3":"k"}` {
			t.Errorf("version %d: %s %v", v, got, err)
		}
	}
}

// An agent that is killed takes its objects' processes along; what escapes is
// ended by the next one.
func TestAgentDies(t *testing.T) {
	dir := t.TempDir()
	rules := step(t, 1, 2)
	agent := exec.Command(os.Args[0], "test-object", "agent", dir, rules)
	agent.Stderr = os.Stderr
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var hostPID, execPID int
	if _, scanErr := fmt.Sscan(line, &hostPID, &execPID); err != nil || scanErr != nil {
		t.Fatal(line, err, scanErr)
	}
	kit.Until(t, "the program's own child", func() bool {
		_, err := os.Stat(filepath.Join(dir, "forked"))
		return err == nil
	})
	agent.Process.Kill()
	agent.Wait()
	kit.Until(t, "the end of both", func() bool { return !kit.Alive(hostPID) && !kit.Alive(execPID) })
	// The next agent finds the folder of the sockets, and the stray, whether it has a
	// use for that object or not.
	stray := "MOULT_STATE=" + dir
	if n := marked(t, stray); n != 1 {
		t.Errorf("%d processes are left, want the stray", n)
	}
	if err := EndLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	if n := marked(t, stray); n != 0 {
		t.Errorf("%d processes are left that write to the object's state", n)
	}
	h, err := Start(Config{Dir: dir, Services: api})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	set(t, h, 2, "", Object{Version: 1, To: 2, Kind: KindRules, Path: rules})
	kit.Until(t, "running", func() bool { return statsOf(h, 1).State == StateRunning })
}

// marked counts the processes with an entry in their environment.
func marked(t *testing.T, entry string) (n int) {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range environments {
		// One that is gone by now has none.
		if env, err := os.ReadFile(path); err == nil && slices.Contains(strings.Split(string(env), "\x00"), entry) {
			n++
		}
	}
	return n
}

// Callers wait while next is away, as long as Hold says.
func TestHoldForNext(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{})
	objects := []Object{rulesObject(t, 1, 2), execObject(t, 3, 2, "inherits")}
	for _, hold := range []time.Duration{time.Hour, 300 * time.Millisecond} { // it may change
		if _, err := h.Set(t.Context(), Objects{Native: 2, Hold: hold, List: objects}); err != nil {
			t.Fatal(err)
		}
	}
	if got, header, err := get(t, h); err != nil || !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "did not take calls for 300ms") || header.Get("Retry-After") != "1" {
		t.Errorf("%s %v", got, err)
	}
	if _, _, err := do(client(t, h.Addrs(3)["api"], false), "POST", "/hello", "x"); err == nil {
		t.Error("a program's call of nobody succeeded")
	}
	// One that gets there in time succeeds.
	h2, _ := startHost(t, Config{})
	objects = []Object{objects[0], execObject(t, 3, 2, "inherits")} // with a state of its own
	set(t, h2, 2, "", objects...)
	type result struct {
		text string
		err  error
	}
	results := make(chan result, 2)
	for _, v := range []bundle.Version{1, 3} {
		c := client(t, h2.Addrs(v)["api"], false)
		go func() {
			got, _, err := do(c, "GET", "/hello", "")
			results <- result{got, err}
		}()
	}
	kit.Until(t, "a call that waits", func() bool { return statsOf(h2, 1).InFlight == 1 })
	set(t, h2, 2, n.addr, objects...)
	for range 2 {
		if r := <-results; r.err != nil || !strings.HasPrefix(r.text, "200 ") {
			t.Errorf("%+v", r)
		}
	}
}
