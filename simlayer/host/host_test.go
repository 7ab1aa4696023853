//go:build unix

package host

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/testdata/kit"
)

func rulesObject(t *testing.T, from, to int) Object {
	return Object{Version: bundle.Version(from), To: bundle.Version(to), Kind: KindRules, Path: step(t, from, to)}
}

func TestHostedChain(t *testing.T) {
	n := startNode(t, 3)
	h, _ := startHost(t, Config{})
	if got := h.Stats(); len(got) != 0 {
		t.Errorf("a host without objects has %v", got)
	}
	set(t, h, 3, n.addr,
		rulesObject(t, 1, 2), rulesObject(t, 2, 3), rulesObject(t, 5, 4), rulesObject(t, 4, 3),
		Object{Version: 6, To: 5, Kind: KindRefuse, Reason: "version 6 is too new"})
	for _, h2c := range []bool{false, true} {
		for _, c := range []struct {
			version bundle.Version
			call    string // method, path, body
			want    string
			refusal string
		}{
			{1, `PUT /v1/a {"f1":1}`, `200 {"r1":"a"}`, ""},
			{2, `PUT /v2/a {"f2":1}`, `200 {"r2":"a"}`, ""},
			{5, `PUT /v5/a {"f5":1}`, `200 {"r5":"a"}`, ""},
			{1, `PUT /v1/no2 {"f1":1}`, `501 {"error":"object 2 says no","moult":{"denied":true,"from":1,"to":3}}`, "denied"},
			{6, `GET /hello `, `501 {"error":"version 6 is too new","moult":{"denied":true,"from":6,"to":3}}`, "denied"},
		} {
			got, header, err := do(client(t, h.Addrs(c.version)["api"], h2c), strings.Fields(c.call)[0], strings.Fields(c.call)[1], strings.SplitN(c.call, " ", 3)[2])
			if err != nil || got != c.want || header.Get("Moult-Refusal") != c.refusal {
				t.Errorf("%s of version %d: %s %q %v, want %s %q", c.call, c.version, got, header.Get("Moult-Refusal"), err, c.want, c.refusal)
			}
		}
		proto := "HTTP/1.1"
		if h2c {
			proto = "HTTP/2.0"
		}
		resp, err := client(t, h.Addrs(1)["api"], h2c).Get("http://service.test/hello")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := proto + " hello service.test from 3"; string(body) != want || resp.Trailer.Get("X-End") != "yes" {
			t.Errorf("passed on: %q with trailers %v, want %q and X-End", body, resp.Trailer, want)
		}
	}
	kit.Until(t, "the figures", func() bool {
		s := statsOf(h, 1)
		return s.State == StateRunning && s.PID > 0 && s.Calls == 6 && s.Denied == 2 && s.Errors == 0 && s.Latency > 0 && s.InFlight == 0
	})
}

// load makes calls until stopped; it counts them by what became of them.
type load struct {
	ok, failed, refused atomic.Int64
	mu                  sync.Mutex
	wrong               []string
	stop                chan struct{}
	work                sync.WaitGroup
}

// startLoad has callers call, each over a connection of its own; check says what
// is wrong with an answer.
func startLoad(t *testing.T, callers int, call func(caller, n int) (string, http.Header, error), check func(caller, n int, got string) bool) *load {
	l := &load{stop: make(chan struct{})}
	for i := range callers {
		l.work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				got, header, err := call(i, n)
				switch {
				case err != nil:
					l.failed.Add(1)
					t.Logf("caller %d, call %d: %v", i, n, err)
				case check(i, n, got):
					l.ok.Add(1)
				case header.Get("Moult-Refusal") == "error":
					l.refused.Add(1)
				default:
					l.mu.Lock()
					l.wrong = append(l.wrong, got)
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// more waits until n more calls have succeeded.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.ok.Load() + n
	kit.Until(t, "calls that succeed", func() bool { return l.ok.Load() >= want })
}

func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.work.Wait()
	if len(l.wrong) > 0 {
		t.Errorf("%d wrong answers, such as %s", len(l.wrong), l.wrong[0])
	}
	t.Logf("%d calls succeeded, %d broke off, %d refused", l.ok.Load(), l.failed.Load(), l.refused.Load())
}

func putLoad(t *testing.T, addr string, version, callers int) *load {
	clients := make([]*http.Client, callers)
	for i := range clients {
		clients[i] = client(t, addr, i%2 == 1)
	}
	return startLoad(t, callers, func(i, n int) (string, http.Header, error) {
		return do(clients[i], "PUT", fmt.Sprintf("/v%d/%d-%d", version, i, n), fmt.Sprintf(`{"f%d":1}`, version))
	}, func(i, n int, got string) bool {
		return got == fmt.Sprintf(`200 {"r%d":"%d-%d"}`, version, i, n)
	})
}

// A change of what is next, and of objects further on, fails no call.
func TestNextChangesUnderLoad(t *testing.T) {
	two, three := startNode(t, 2), startNode(t, 3)
	h, _ := startHost(t, Config{})
	one, other := rulesObject(t, 1, 2), rulesObject(t, 2, 3)
	set(t, h, 2, two.addr, one)
	l := putLoad(t, h.Addrs(1)["api"], 1, 4)
	for range 5 {
		l.more(t, 20)
		set(t, h, 3, three.addr, one, other)
		l.more(t, 20)
		set(t, h, 2, two.addr, one, Object{Version: 3, To: 2, Kind: KindCompatible})
	}
	// The node goes away for a while; its callers wait.
	set(t, h, 2, "", one)
	before := l.ok.Load()
	set(t, h, 2, two.addr, one)
	l.more(t, 20)
	l.end(t)
	if l.failed.Load()+l.refused.Load() > 0 {
		t.Errorf("calls failed (%d before the node went away)", before)
	}
	if restarts := statsOf(h, 1).Restarts; restarts > 0 {
		t.Errorf("%d restarts", restarts)
	}
}

// The object host is killed: what was under way fails, and nothing later.
func TestKilledUnderLoad(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{MinPause: time.Millisecond})
	set(t, h, 2, n.addr, rulesObject(t, 1, 2))
	const callers, kills = 4, 3
	l := putLoad(t, h.Addrs(1)["api"], 1, callers)
	for range kills {
		l.more(t, 20)
		kill(t, h, 1)
		l.more(t, 20)
	}
	l.end(t)
	if l.refused.Load() > 0 {
		t.Error("callers were refused in a short pause")
	}
	if got := l.failed.Load(); got == 0 || got > callers*kills {
		t.Errorf("%d calls broke off, want those under way at %d kills: 1 to %d", got, kills, callers*kills)
	}
	if s := statsOf(h, 1); s.Restarts != kills || s.State != StateRunning {
		t.Errorf("%+v, want %d restarts", s, kills)
	}
}

// While the next start is put off, callers are told so.
func TestRefusedWhileResting(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{MinPause: time.Hour})
	object := rulesObject(t, 1, 2)
	set(t, h, 2, n.addr, object)
	for _, h2c := range []bool{false, true} {
		if got, _, err := do(client(t, h.Addrs(1)["api"], h2c), "PUT", "/v1/a", `{"f1":1}`); err != nil || got != `200 {"r1":"a"}` {
			t.Fatal(got, err)
		}
	}
	kill(t, h, 1)
	kit.Until(t, "resting", func() bool { return statsOf(h, 1).State == StateResting })
	for _, h2c := range []bool{false, true} {
		kit.Until(t, "a refusal", func() bool {
			got, header, err := do(client(t, h.Addrs(1)["api"], h2c), "PUT", "/v1/a", `{"f1":1}`)
			return err == nil && header.Get("Moult-Refusal") == "error" && header.Get("Retry-After") == "1" &&
				strings.HasPrefix(got, `503 {"error":"the simulation object for version 1 is not running: it ended: signal: killed; try again later"`)
		})
	}
	// One that is new is refused as well, at once.
	set(t, h, 2, n.addr, object, rulesObject(t, 3, 2))
	if got, _, err := do(client(t, h.Addrs(3)["api"], false), "GET", "/", ""); err != nil || !strings.HasPrefix(got, "503 ") {
		t.Error(got, err)
	}
	if s := statsOf(h, 1); s.Errors == 0 || s.Problem == "" {
		t.Errorf("%+v, want errors and a problem", s)
	}
}

func TestBadObjects(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{MinPause: time.Millisecond})
	set(t, h, 2, n.addr, rulesObject(t, 1, 2),
		Object{Version: 3, To: 2, Kind: KindRules, Path: rulesFile(t, "call {")},
		Object{Version: 4, To: 3, Kind: KindWasm, Path: writeFile(t, "wasm", "nonsense")},
		Object{Version: 5, To: 4, Kind: KindRules, Path: "/nowhere"})
	good := client(t, h.Addrs(1)["api"], false)
	for v, want := range map[bundle.Version]string{3: "rules file of version 3:1", 4: "not a WebAssembly module", 5: "no such file"} {
		got, header, err := do(client(t, h.Addrs(v)["api"], false), "GET", "/", "")
		if err != nil || !strings.HasPrefix(got, "503 ") || !strings.Contains(got, want) || header.Get("Moult-Refusal") != "error" {
			t.Errorf("object %d: %s %v, want %q", v, got, err, want)
		}
		kit.Until(t, "the problem", func() bool { return strings.Contains(statsOf(h, v).Problem, want) })
	}
	if got, _, err := do(good, "GET", "/spin", ""); err != nil || !strings.HasPrefix(got, "500 ") {
		t.Errorf("jq that does not end: %s %v", got, err)
	}
}

// jq that eats memory ends its process, which comes again, and not the machine.
func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs more memory than the limit that is tested")
	}
	n := startNode(t, 2)
	h, _ := startHost(t, Config{MinPause: time.Millisecond, Memory: 256 << 20})
	set(t, h, 2, n.addr, rulesObject(t, 1, 2))
	good := client(t, h.Addrs(1)["api"], false)
	// One allocation above the limit, so that no processor is too slow to reach it
	// within the time that jq has.
	if got, _, err := do(good, "GET", "/eat", ""); err == nil {
		t.Errorf("jq that eats memory: %s", got)
	}
	if got, _, err := do(good, "PUT", "/v1/a", `{"f1":1}`); err != nil || got != `200 {"r1":"a"}` {
		t.Errorf("after that: %s %v", got, err)
	}
	if s := statsOf(h, 1); s.Restarts != 1 {
		t.Errorf("%+v, want one restart", s)
	}
}

// A process that gives no sign of life is killed, and its callers go on.
func TestSilence(t *testing.T) {
	n := startNode(t, 2)
	h, l := startHost(t, Config{MinPause: time.Millisecond, Silence: 500 * time.Millisecond})
	set(t, h, 2, n.addr, rulesObject(t, 1, 2), Object{Version: 3, To: 2, Kind: KindWasm, Path: writeFile(t, "wasm", "stop")})
	if got, _, err := do(client(t, h.Addrs(3)["api"], false), "GET", "/", ""); err == nil {
		t.Errorf("the call that stops the process: %s", got)
	}
	if got, _, err := do(client(t, h.Addrs(1)["api"], false), "PUT", "/v1/a", `{"f1":1}`); err != nil || got != `200 {"r1":"a"}` {
		t.Errorf("after that: %s %v", got, err)
	}
	if !strings.Contains(l.String(), "no sign of life") {
		t.Error("the log does not say why")
	}
}

// The agent's death ends the object host.
func TestControlCloses(t *testing.T) {
	h, _ := startHost(t, Config{MinPause: time.Hour})
	set(t, h, 2, "", rulesObject(t, 1, 2))
	kit.Until(t, "running", func() bool { return statsOf(h, 1).State == StateRunning })
	h.worker.mu.Lock()
	conn := h.worker.conn
	h.worker.mu.Unlock()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "its end", func() bool { return statsOf(h, 1).State == StateResting })
	if s := statsOf(h, 1); !strings.Contains(s.Problem, "exit status 0") {
		t.Errorf("it ended with %q, want by itself", s.Problem)
	}
}

// A call that is under way when its object is no longer needed ends as it began.
func TestRemovedUnderWay(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{})
	set(t, h, 2, n.addr, rulesObject(t, 1, 2), Object{Version: 3, To: 2, Kind: KindWasm, Path: writeFile(t, "wasm", "slow")})
	in, out := io.Pipe()
	r, _ := http.NewRequest("POST", "http://service.test/hello", in)
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	c := client(t, h.Addrs(3)["api"], false)
	go func() {
		resp, err := c.Do(r)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		answered <- answer{string(data), err}
	}()
	if _, err := out.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the call", func() bool { s := statsOf(h, 3); return s.InFlight == 1 && s.Oldest > 0 })
	set(t, h, 2, n.addr, rulesObject(t, 1, 2))
	if h.Addrs(3) != nil {
		t.Error("an object that is not set has addresses")
	}
	out.Close()
	if a := <-answered; a.err != nil || !strings.Contains(a.text, "hello") {
		t.Errorf("%+v", a)
	}
}

// Objects that come and go, all of them too, leave nothing in the way of the next.
func TestComeAndGo(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{})
	past, program := rulesObject(t, 1, 2), execObject(t, 3, 2, "inherits")
	for range 5 {
		set(t, h, 2, n.addr, past, program)
		for v, want := range map[bundle.Version]string{1: "PUT /v1/a {\"f1\":1}", 3: "PUT /v2/a {\"f2\":1}"} {
			parts := strings.Fields(want)
			if got, _, err := do(client(t, h.Addrs(v)["api"], false), parts[0], parts[1], parts[2]); err != nil || !strings.HasPrefix(got, "200 ") {
				t.Fatal(v, got, err)
			}
		}
		set(t, h, 2, n.addr)
		if got := h.Stats(); len(got) > 0 {
			t.Fatalf("%+v without objects", got)
		}
	}
	entries, err := os.ReadDir(h.folder)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v %v", entries, err)
	}
}

func TestSetRefuses(t *testing.T) {
	h, _ := startHost(t, Config{})
	for want, s := range map[string]Objects{
		"native version 0":     {},
		"comes twice":          {Native: 2, List: []Object{{Version: 1, To: 2, Kind: KindCompatible}, {Version: 1, To: 2, Kind: KindCompatible}}},
		"the native version":   {Native: 2, List: []Object{{Version: 2, To: 2, Kind: KindCompatible}}},
		"want 2, which is":     {Native: 2, List: []Object{{Version: 1, To: 3, Kind: KindCompatible}}},
		"no object answers":    {Native: 3, List: []Object{{Version: 1, To: 2, Kind: KindCompatible}}},
		`kind "odd"`:           {Native: 2, List: []Object{{Version: 1, To: 2, Kind: "odd"}}},
		"no command":           {Native: 2, List: []Object{{Version: 1, To: 2, Kind: KindExec}}},
		"folder for its state": {Native: 2, List: []Object{{Version: 1, To: 2, Kind: KindExec, Argv: []string{"x"}}}},
		"no file":              {Native: 2, List: []Object{{Version: 1, To: 2, Kind: KindRules}}},
	} {
		if _, err := h.Set(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Set(t.Context(), Objects{Native: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := os.Stat(h.folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the sockets is still there: %v", err)
	}
	if _, err := Start(Config{Dir: "x", Services: []Service{{Name: "a-b", Protocol: "http"}, {Name: "a-b", Protocol: "http"}}}); err == nil {
		t.Error("a service twice was accepted")
	}
}

// When Set has taken the last object away, nothing of it runs that could write to its
// state still, although a call of it is under way.
func TestTakenAway(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{Grace: 100 * time.Millisecond})
	set(t, h, 2, n.addr, Object{Version: 1, To: 2, Kind: KindWasm, Path: writeFile(t, "slow.wasm", "slow"), State: t.TempDir()})
	body, more := io.Pipe()
	defer more.Close()
	called := make(chan error, 1)
	go func() {
		r, err := http.NewRequest("POST", "http://service.test/hello", body)
		if err == nil {
			_, err = client(t, h.Addrs(1)["api"], false).Do(r)
		}
		called <- err
	}()
	if _, err := more.Write([]byte("and then")); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the call", func() bool { return statsOf(h, 1).InFlight == 1 })
	pid := statsOf(h, 1).PID
	set(t, h, 2, n.addr)
	if kit.Alive(pid) {
		t.Errorf("process %d runs, and nobody needs it", pid)
	}
	more.Close()
	if err := <-called; err == nil {
		t.Error("the call was answered after the end of its object")
	}
}

// Who made the object host end is gone, so the others need not wait until its pause is
// over.
func TestRestEndsWithItsReason(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{MinPause: time.Hour})
	good, bad := rulesObject(t, 1, 2), Object{Version: 3, To: 2, Kind: KindWasm, Path: writeFile(t, "die.wasm", "die")}
	set(t, h, 2, n.addr, good, bad)
	if got, _, err := do(client(t, h.Addrs(3)["api"], false), "POST", "/hello", ""); err == nil && strings.HasPrefix(got, "200 ") {
		t.Fatalf("the bad object answers: %s", got)
	}
	kit.Until(t, "its end", func() bool { return statsOf(h, 1).State == StateResting })
	set(t, h, 2, n.addr, good, bad) // nothing new
	if s := statsOf(h, 1); s.State != StateResting || s.Restarts != 1 {
		t.Errorf("%+v: it is not in its pause any more", s)
	}
	set(t, h, 2, n.addr, good)
	kit.Until(t, "an answer", func() bool {
		got, _, err := do(client(t, h.Addrs(1)["api"], false), "GET", "/hello", "")
		return err == nil && strings.HasPrefix(got, "200 ")
	})
}

// What an object says of an answer that it cannot use is what its caller is told,
// also of a call that must not be sent twice.
func TestOwnWordOfAFailure(t *testing.T) {
	n := startNode(t, 2)
	h, _ := startHost(t, Config{})
	set(t, h, 2, n.addr, Object{Version: 1, To: 2, Kind: KindRules, Path: rulesFile(t, `
call "POST /hello" {
  next "POST /hello" {}
  response "*" {
    body = "error(\"it is of no use\")"
  }
}
default {
  pass = true
}`)})
	got, _, err := do(client(t, h.Addrs(1)["api"], false), "POST", "/hello", "")
	if err != nil || !strings.HasPrefix(got, "502 ") || strings.Contains(got, "went away") {
		t.Errorf("%s, %v", got, err)
	}
}
