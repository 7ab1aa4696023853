//go:build unix

package software

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/agent/account"
	"moult/agent/process"
	"moult/simlayer"
	"moult/store/bundle"
	"moult/testdata/kit"
	"moult/transforms"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a node whose software is a command of the shell, and ends with the test.
type node struct {
	t    *testing.T
	cfg  Config
	plan Plan
	told chan Event
}

const sleeper = "exec sleep 1000"

var errNoPlan = errors.New("no plan")

// newNode has version 1 be a script, whose health check is a program of its state
// folder.
func newNode(t *testing.T, script string) *node {
	t.Helper()
	n := &node{t: t, told: make(chan Event, 64)}
	health := bundle.Health{Exec: []string{"./ok"}, HealthyDeadline: bundle.Duration(20 * time.Second), DrainTimeout: bundle.Duration(time.Second)}
	n.cfg = Config{
		Data: t.TempDir(), Node: bundle.NodeID(bundle.Sum([]byte(t.TempDir()))), KernelName: "test",
		Log: slog.New(slog.DiscardHandler),
		Tell: func(e Event) error {
			n.told <- e
			return nil
		},
		Plan: func(v bundle.Version) (Plan, error) {
			if v != n.plan.Version {
				return Plan{}, errNoPlan
			}
			return n.plan, nil
		},
	}
	n.cfg.Own = func(bundle.Version) error { return nil }
	n.cfg.State = func(v bundle.Version) string { return filepath.Join(n.cfg.Data, fmt.Sprint(v)) }
	state := n.cfg.State(1)
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "ok"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.plan = Plan{Version: 1, Dir: state, Command: []string{"/bin/sh", "-c", script}, Services: []string{"api"}, Health: health}
	t.Cleanup(n.end)
	return n
}

// end ends whatever runs for the node.
func (n *node) end() {
	left, err := process.FindOrphans(n.cfg.Node.String())
	if err != nil {
		n.t.Error(err)
	}
	for _, h := range left {
		p, err := process.Adopt(h, process.Spec{})
		if err == nil {
			_, err = p.Stop(context.Background(), 0)
		}
		if err != nil && !errors.Is(err, process.ErrGone) {
			n.t.Error(err)
		}
	}
}

// agent is the life of one agent of the node, up to its close.
type agent struct {
	*Software
	close func()
}

func (n *node) agent() agent {
	n.t.Helper()
	left := Find(n.cfg.Data, n.cfg.Log)
	layer, err := simlayer.Start(simlayer.Config{Processes: left.Processes(), Log: n.cfg.Log})
	if err != nil {
		n.t.Fatal(err)
	}
	cfg := n.cfg
	cfg.Layer = layer
	a, open := agent{Software: New(cfg, left)}, true
	a.close = func() {
		if !open {
			return
		}
		open = false
		if err := errors.Join(a.Close(), layer.Close()); err != nil {
			n.t.Error(err)
		}
	}
	n.t.Cleanup(a.close)
	return a
}

func (n *node) launched(a agent) int {
	n.t.Helper()
	if err := a.Launch(n.t.Context(), 1); err != nil {
		n.t.Fatal(err)
	}
	return a.PID()
}

// next returns the next event, which must be of a type.
func next[E Event](n *node) E {
	n.t.Helper()
	select {
	case e := <-n.told:
		if want, ok := e.(E); ok {
			return want
		}
		n.t.Fatalf("told %+v", e)
	case <-time.After(20 * time.Second):
		n.t.Fatal("told nothing")
	}
	panic("unreachable")
}

// Software runs in its folder, is told of, and is the same after a restart of the
// agent.
func TestAdopt(t *testing.T) {
	n := newNode(t, sleeper)
	a := n.agent()
	pid := n.launched(a)
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != n.cfg.State(1) {
		t.Errorf("it runs in %s, %v; want %s", dir, err, n.cfg.State(1))
	}
	if e := next[Starting](n); e.Version != 1 {
		t.Errorf("told %+v", e)
	}
	ready := next[Ready](n)
	if ready.Version != 1 || ready.Backends["api"] == "" || len(ready.Processes) == 0 || ready.Processes[0] != pid {
		t.Errorf("told %+v of process %d", ready, pid)
	}
	a.close()
	if !kit.Alive(pid) {
		t.Fatal("it ended with the agent")
	}
	if got := n.launched(n.agent()); got != pid {
		t.Errorf("after a restart of the agent it is process %d, was %d", got, pid)
	}
	if again := next[Ready](n); again.Backends["api"] != ready.Backends["api"] {
		t.Errorf("told %+v, was %+v", again, ready)
	}
}

// A check asks software that was started before there was a user as who the software is:
// another could not come to its state.
func TestCheckOfFormerUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as another user")
	}
	n := newNode(t, sleeper)
	asked := filepath.Join(n.cfg.State(1), "asked")
	script := "#!/bin/sh\nid -u >" + asked + "\n"
	if err := os.WriteFile(filepath.Join(n.cfg.State(1), "ok"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	a := n.agent()
	pid := n.launched(a)
	a.close()
	if err := os.Remove(asked); err != nil {
		t.Fatal(err)
	}
	n.cfg.Account = &account.Account{Name: "nobody", UID: 65534, GID: 65534, Home: "/"}
	if got := n.launched(n.agent()); got != pid {
		t.Errorf("the software is process %d, was %d", got, pid)
	}
	if who, err := os.ReadFile(asked); err != nil || string(who) != "0\n" {
		t.Errorf("the check ran as user %q, %v", who, err)
	}
}

// An agent that has lost what it was told of the software takes it over by what
// it wrote down itself, and leaves it alone where that fails.
func TestAdoptWithoutPlan(t *testing.T) {
	n := newNode(t, sleeper)
	a := n.agent()
	pid := n.launched(a)
	a.close()

	blocked := filepath.Join(n.cfg.Data, "notify.sock", "x")
	notify := func(on bool) {
		t.Helper()
		path := filepath.Join(n.cfg.Data, RecordFile)
		data, err := os.ReadFile(path)
		var r record
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		r.Plan.Health.Notify, r.Plan.Health.MinHealthyTime, r.Sum = on, 0, bundle.Digest{}
		if err == nil {
			data, err = json.Marshal(r)
		}
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	notify(true)
	if err := os.MkdirAll(blocked, 0o700); err != nil { // nobody can listen there
		t.Fatal(err)
	}
	failing := n.agent()
	if err := failing.Launch(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "take over") {
		t.Errorf("launch = %v, want that it cannot be taken over", err)
	}
	if !kit.Alive(pid) {
		t.Fatal("software that could not be taken over was stopped")
	}
	failing.close()

	notify(false)
	n.plan = Plan{} // from here on nothing but the record says how it is started
	again := n.agent()
	if got := n.launched(again); got != pid {
		t.Errorf("without a plan it is process %d, was %d", got, pid)
	}
	if err := again.Probe(t.Context(), 1); err != nil || again.PID() != pid {
		t.Errorf("probe = %v, process %d", err, again.PID())
	}
	if err := again.Launch(t.Context(), 2); !errors.Is(err, errNoPlan) || !kit.Alive(pid) {
		t.Errorf("launch of a version without a plan = %v; what runs is alive: %v", err, kit.Alive(pid))
	}
}

// Software that no record names does not run beside a transform.
func TestStopWithoutRecord(t *testing.T) {
	n := newNode(t, sleeper)
	a := n.agent()
	pid := n.launched(a)
	a.close()
	if err := os.Remove(filepath.Join(n.cfg.Data, RecordFile)); err != nil {
		t.Fatal(err)
	}
	if err := n.agent().Stop(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if kit.Alive(pid) {
		t.Error("it still runs")
	}
}

// Software that ends at once, as it does where its port was taken meanwhile, is
// started once more, and not for ever.
func TestLaunchOnceMore(t *testing.T) {
	for _, c := range []struct {
		script, ok string
		starts     int
		good       bool
	}{
		{"echo x >> starts; [ $(wc -l < starts) = 2 ] && exec sleep 1000; exit 1", "[ $(wc -l < starts) = 2 ]", 2, true},
		{"echo x >> starts; exit 1", "false", 2, false},
	} {
		n := newNode(t, c.script)
		n.plan.Health.Exec = []string{"/bin/sh", "-c", c.ok}
		a := n.agent()
		if err := a.Launch(t.Context(), 1); (err == nil) != c.good {
			t.Errorf("%s: %v", c.script, err)
		}
		data, err := os.ReadFile(filepath.Join(n.cfg.State(1), "starts"))
		if n := strings.Count(string(data), "x"); n != c.starts || err != nil {
			t.Errorf("%s: started %d times, %v; want %d", c.script, n, err, c.starts)
		}
	}
}

// What is kept up is started again when it ends, and told of each time; once calls
// are to end it is let go of.
func TestKeep(t *testing.T) {
	n := newNode(t, sleeper)
	a := n.agent()
	a.Keep(1)
	next[Starting](n)
	first := next[Ready](n)
	a.Keep(1) // it is
	if err := syscall.Kill(first.Processes[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := next[Ended](n); e.Version != 1 || e.Exit.Signal == "" {
		t.Errorf("told %+v", e)
	}
	next[Starting](n)
	second := next[Ready](n)
	if second.Processes[0] == first.Processes[0] {
		t.Error("it was not started again")
	}
	if err := a.EndCalls(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	next[Draining](n)
	if !kit.Alive(second.Processes[0]) {
		t.Error("it ended before it was stopped")
	}
	if err := a.Stop(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if kit.Alive(second.Processes[0]) || a.PID() != 0 || len(Find(n.cfg.Data, n.cfg.Log).Processes()) != 0 {
		t.Error("it runs on")
	}
}

// recorded writes down which waits a layer is asked for.
type recorded struct {
	Layer
	order *[]string
}

func (r recorded) Finish(ctx context.Context) (int, error) {
	*r.order = append(*r.order, "finish")
	return r.Layer.Finish(ctx)
}

func (r recorded) Drain(ctx context.Context) (int, error) {
	*r.order = append(*r.order, "drain")
	return r.Layer.Drain(ctx)
}

// Callers reach the software until the calls that had begun have ended: only then is it
// told that they do not, and new ones are held.
func TestEndCallsHoldsLast(t *testing.T) {
	n := newNode(t, sleeper)
	var order []string
	n.cfg.Tell = func(e Event) error {
		order = append(order, fmt.Sprintf("%T", e))
		return nil
	}
	a := n.agent()
	a.cfg.Layer = recorded{a.cfg.Layer, &order}
	if err := a.EndCalls(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, ", "); got != "finish, software.Draining, drain" {
		t.Errorf("%s; want the calls that had begun ended, then the word, then new ones held", got)
	}
	// An agent that is being ended leaves its software to callers.
	order = nil
	ending, end := context.WithCancel(t.Context())
	end()
	if err := a.EndCalls(ending, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was cancelled: %v", err)
	}
	if got := strings.Join(order, ", "); got != "finish" {
		t.Errorf("the agent is being ended: %s; want no word that calls are held", got)
	}
}

// Software that ended while nobody kept it up is told of by whoever keeps it up next: by
// the next agent, and by this one where it ended after its probe. That it was stopped,
// or its machine, is no fault of its own.
func TestLost(t *testing.T) {
	for name, lose := range map[string]func(n *node, a agent, pid int) (next agent, told bool){
		"while no agent ran": func(n *node, a agent, pid int) (agent, bool) {
			a.close()
			kill(n, pid)
			return n.agent(), false
		},
		"after its probe": func(n *node, a agent, pid int) (agent, bool) {
			ended := a.proc.Done()
			kill(n, pid)
			<-ended
			return a, true
		},
		"stopped": func(n *node, a agent, pid int) (agent, bool) {
			if err := a.Stop(n.t.Context(), time.Second); err != nil {
				n.t.Fatal(err)
			}
			return a, false
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, sleeper)
			a := n.agent()
			pid := n.launched(a)
			next[Starting](n)
			next[Ready](n)
			a, told := lose(n, a, pid)
			a.Keep(1)
			if told {
				if e := next[Ended](n); e.Version != 1 || e.Exit.String() == "" {
					t.Errorf("told %+v", e)
				}
			}
			next[Starting](n)
			next[Ready](n)
		})
	}
}

// kill ends a process from outside, and returns when it has.
func kill(n *node, pid int) {
	n.t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(syscall.SIGKILL)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	for kit.Alive(pid) {
		runtime.Gosched()
	}
}

// TestRecordFlips: a record in which the disk has flipped a bit leads neither callers nor a
// signal elsewhere: it names nothing, or what it named.
func TestRecordFlips(t *testing.T) {
	r := record{
		Version: 2, Handle: process.Handle{PID: 4711}, Backends: map[string]string{"api": "127.0.0.1:4712"}, Egress: "127.0.0.1:4713",
		Plan: Plan{Version: 2, Dir: "/d", Command: []string{"./kv", "--state", "${state}"}, Services: []string{"api"}, Artifact: bundle.Sum([]byte("kv"))},
	}
	sealed, err := r.sealed()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseRecord(text); err != nil || !reflect.DeepEqual(got, sealed) {
		t.Fatalf("read back: %+v, %v", got, err)
	}
	for bit := range 8 * len(text) {
		flipped := bytes.Clone(text)
		flipped[bit/8] ^= 1 << (bit % 8)
		got, err := parseRecord(flipped)
		if got.Sum = sealed.Sum; err == nil && !reflect.DeepEqual(got, sealed) {
			t.Errorf("bit %d of byte %d, in %.20q: it is taken for %+v", bit%8, bit/8, text[bit/8:], got)
		}
	}
	// Another moult writes a field more, and takes the sum of that.
	later := bytes.Replace(text, []byte(`"version":`), []byte(`"later":"x","version":`), 1)
	zero := bytes.Replace(later, []byte(sealed.Sum.String()), []byte(bundle.Digest{}.String()), 1)
	later = bytes.Replace(later, []byte(sealed.Sum.String()), []byte(bundle.Sum(zero).String()), 1)
	if got, err := parseRecord(later); err != nil || got.Handle != sealed.Handle {
		t.Errorf("of another moult: %v, %v", got.Handle, err)
	}
	old := bytes.Replace(text, []byte(sealed.Sum.String()), []byte(bundle.Digest{}.String()), 1)
	if got, err := parseRecord(old); err != nil || got.Handle.PID != 4711 {
		t.Errorf("what an older moult wrote: %+v, %v", got, err)
	}
}

// Hooks run beside the software that was started, also under a later agent, with its addresses
// and its state; their answer is the hook's.
func TestHooks(t *testing.T) {
	n := newNode(t, sleeper)
	run := func(script string) []string { return []string{"/bin/sh", "-c", script} }
	n.plan.Hooks = bundle.Hooks{
		PreStop:   run(`echo "$MOULT_SERVICE_API" >"$MOULT_STATE/stop"; exit $(cat "$MOULT_STATE/exit")`),
		PostStart: run(`echo "$MOULT_SERVICE_API" >"$MOULT_STATE/start"`),
		Timeout:   bundle.Duration(time.Minute),
	}
	file := func(name string) string { return filepath.Join(n.cfg.State(1), name) }
	exits := func(code string) {
		if err := os.WriteFile(file("exit"), []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := n.agent()
	heeded := true
	stops := func(a agent) error { return a.PreStop(t.Context(), func(Veto) bool { return heeded }) }
	if err := stops(a); err != nil {
		t.Errorf("nothing runs, and its hook says %v", err)
	}
	n.launched(a)
	next[Starting](n)
	addr := next[Ready](n).Backends["api"]
	if err := a.PostStart(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if err := a.PostStart(t.Context(), 2); err == nil {
		t.Error("version 2 does not run, and its hook was run")
	}
	exits("21")
	if err := stops(a); !errors.Is(err, transforms.ErrLater) || strings.Contains(err.Error(), "transform") {
		t.Errorf("it asks for another time: %v", err)
	}
	a.close()

	a = n.agent() // which has not taken the software over yet
	exits("3")
	err := stops(a)
	if _, veto := errors.AsType[Veto](err); !veto || errors.Is(err, transforms.ErrLater) || !strings.Contains(err.Error(), "pre_stop of version 1") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("it fails: %v", err)
	}
	if again := next[Ready](n); again.Backends["api"] != addr {
		t.Errorf("while the hook runs it serves at %q; want %s", again.Backends["api"], addr)
	}
	if !a.Untouched(1) || a.Untouched(2) {
		t.Error("nobody has begun to stop it")
	}
	heeded = false
	if err := stops(a); err != nil || a.Untouched(1) {
		t.Errorf("its word does not count: %v; untouched %v", err, a.Untouched(1))
	}
	heeded = true
	a.close()
	a = n.agent()
	if err := stops(a); err != nil {
		t.Errorf("an earlier agent had begun to stop it, and its hook says %v", err)
	}
	for _, name := range []string{"start", "stop"} {
		if data, err := os.ReadFile(file(name)); err != nil || string(data) != addr+"\n" {
			t.Errorf("at the %s its service is at %q, %v; want %s", name, data, err, addr)
		}
	}
	if err := a.Stop(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if err := stops(a); err != nil {
		t.Errorf("it was stopped, and its hook says %v", err)
	}
	n.plan.Hooks.PostStart = run(`pid=$(cat "$MOULT_STATE/pid"); kill -9 $pid; while kill -0 $pid; do :; done`) // until it is known to have ended
	pid := n.launched(a)
	if err := os.WriteFile(file("pid"), fmt.Append(nil, pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.PostStart(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "after post_start") {
		t.Errorf("it has ended while its hook ran: %v", err)
	}
	n.plan.Hooks.PostStart, n.plan.Hooks.Timeout = run("exec sleep 1000"), bundle.Duration(100*time.Millisecond)
	n.launched(a)
	if err := a.PostStart(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "timeout, 100ms") {
		t.Errorf("it does not end: %v", err)
	}
}
