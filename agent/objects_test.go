package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/swarm"
	"moult/simlayer"
	"moult/simlayer/host"
	"moult/simlayer/so/wasm"
	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// objectsBench is a bench whose service speaks lines over TCP, and whose releases
// have programs for simulation objects.
type objectsBench struct {
	*bench
	exe      string
	artifact bundle.Artifact
}

func newObjectsBench(t *testing.T, running bundle.Version) *objectsBench {
	t.Helper()
	cfg := benchConfig(t)
	api := cfg.Services["api"]
	api.Protocol = bundle.ProtocolTCP
	cfg.Services["api"] = api
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &objectsBench{bench: newBench(t, cfg, running), exe: exe}
	b.fetch = swarm.NewFetcher(nobody{}, swarm.FetcherOptions{Log: b.log}) // what is packed is here
	b.pack(`cp "$MOULT_FUTURE_STATE/end" "$MOULT_NEW/" && cp "$MOULT_OLD/data" "$MOULT_NEW/" && echo first > "$MOULT_PAST_STATE/log"`)
	return b
}

// nobody has anything to fetch from.
type nobody struct{}

func (nobody) Peers() []swarm.Peer { return nil }

func (nobody) Get(context.Context, bundle.NodeID, string) (*http.Response, error) {
	return nil, errors.New("there is nobody")
}

// pack makes an artifact whose program "migrate" is a script of the shell.
func (b *objectsBench) pack(script string) {
	b.t.Helper()
	dir := b.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "migrate"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	var tar bytes.Buffer
	if _, err := archive.Pack(b.t.Context(), &tar, dir, ""); err != nil {
		b.t.Fatal(err)
	}
	chunk := bundle.Chunk{Digest: bundle.Sum(tar.Bytes()), Length: int64(tar.Len())}
	b.artifact = bundle.Artifact{Platform: b.platform, Digest: chunk.Digest, Length: chunk.Length, Chunks: []bundle.Chunk{chunk}}
	as, err := b.Depot.Begin(b.artifact)
	if err != nil {
		b.t.Fatal(err)
	}
	defer as.Close()
	if err := as.Put(chunk.Digest, tar.Bytes()); err != nil {
		b.t.Fatal(err)
	}
	if _, err := as.Finish(); err != nil {
		b.t.Fatal(err)
	}
}

// brings makes release v known, with programs for both objects. Slow ones do not
// end before they may.
func (b *objectsBench) brings(v bundle.Version, slow ...string) {
	b.releases(v, v, func(_ bundle.Version, cu *bundle.ClassUpgrade) {
		cu.Services["api"] = bundle.Service{Protocol: bundle.ProtocolTCP}
		cu.Artifacts = []bundle.Artifact{b.artifact}
		cu.Health.DrainTimeout = bundle.Duration(20 * time.Second)
		cu.Transform = bundle.Transform{Exec: []string{"./migrate"}, Timeout: bundle.Duration(20 * time.Second)}
		if v > 1 {
			object := bundle.Simulation{Kind: bundle.SimulateExec, Exec: append([]string{b.exe, objectCommand}, slow...)}
			cu.Past, cu.Future = object, object
		}
	})
}

// serves starts software of a version: a node that says its name.
func (b *objectsBench) serves(v bundle.Version, name string) {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan(); {
					fmt.Fprintln(c, name+": "+in.Text())
				}
			}()
		}
	}()
	b.software(v)
	b.live.backends = map[string]string{"api": ln.Addr().String()}
}

func (b *objectsBench) at(v bundle.Version) string { return b.layer.Addresses()["api"].Versions[v] }

// until routes, as the loop does after each event, until good.
func (b *objectsBench) until(what string, good func() bool) {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for done := false; ; {
		b.do(func() {
			b.route()
			b.check()
			done = good()
		})
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			var have string
			b.do(func() { have = fmt.Sprintf("answers %v, objects %+v", b.answers(), b.objects.Status()) })
			b.t.Fatalf("not in time: %s; %s", what, have) // not in the loop, which would end
		}
	}
}

// check reports callers that are led to an object which is not as it should be.
func (b *objectsBench) check() {
	b.t.Helper()
	if wrong := misled(b.routed, b.objects.InForce()); wrong != "" {
		b.t.Error(wrong)
	}
}

// misled says which callers are let in to an object that is not in force, or whose
// calls go elsewhere than to the node.
func misled(routed simlayer.Routing, inForce host.Objects) string {
	if routed.Down {
		return ""
	}
	for v, o := range routed.Objects {
		if o.Local != nil {
			continue
		}
		if len(o.Addrs) == 0 || !slices.ContainsFunc(inForce.List, func(o host.Object) bool { return o.Version == v }) {
			return fmt.Sprintf("callers of version %d are let in to an object that does not run", v)
		}
		if node := inForce.Node["api"]; node != routed.Backends["api"] {
			return fmt.Sprintf("callers of version %d are let in to an object that calls %q, and the node is at %q", v, node, routed.Backends["api"])
		}
	}
	return ""
}

func (b *objectsBench) answered(v bundle.Version) func() bool {
	return func() bool { return !b.routed.Down && slices.Contains(b.answers(), v) }
}

func (b *objectsBench) asks(addr, line, want string) {
	b.t.Helper()
	if got, err := askLine(addr, line); got != want || err != nil {
		b.t.Errorf("%q: answered %q, %v; want %q", line, got, err, want)
	}
}

// changing reports whether a change of the objects is under way, asWanted whether none
// is to come.
func (b *objectsBench) changing() bool {
	done, _ := b.objects.Following()
	return done != nil
}

func (b *objectsBench) asWanted() bool {
	done, err := b.objects.Following()
	return done == nil && err == nil
}

// runs reports whether the object for callers of v has a process.
func (b *objectsBench) runs(v bundle.Version) bool {
	for _, s := range b.objects.Processes() {
		if s.Version == v && s.State == host.StateRunning {
			return true
		}
	}
	return false
}

// Objects come and go while the node serves: no caller of its own version waits,
// callers of others are let in when their object is there, and are led away before
// it goes. The loop goes on meanwhile.
func TestObjectsComeAndGo(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() {
		b.brings(1)
		b.serves(1, "n")
		b.route()
	})
	held := func() {
		if b.routed.Down {
			t.Error("callers of the node's own version are held for the sake of others")
		}
	}
	b.do(func() { held(); b.brings(2, "slow"); b.route(); held() })
	b.until("callers of version 2 are answered", func() bool { held(); return slices.Contains(b.answers(), 2) })
	b.asks(b.at(2), "a", "by object: n: a")
	b.until("the object runs", func() bool { return b.runs(2) })

	state := b.Slots.Objects().FutureState(2)
	b.do(func() {
		b.freeze(2)
		b.route()
		held()
		if got := b.answers(); !slices.Equal(got, run(1, 1)) || !b.changing() {
			t.Errorf("release 2 is frozen: callers of %v are answered, a change is under way: %v", got, b.changing())
		}
	})
	b.do(held) // the object takes its time, the loop does not
	b.may(state)
	b.until("the object has ended", func() bool { return b.asWanted() })
	if log := b.read(filepath.Join(state, "log")); log != "a\n" {
		t.Errorf("the state of the object is %q", log)
	}
}

// may lets a slow object end.
func (b *objectsBench) may(state string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(state, "go"), nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *objectsBench) read(path string) string {
	b.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.t.Error(err)
	}
	return string(data)
}

// While the node is drained, calls that are under way reach it through objects as
// before. Then the objects with state end. When the old version is rolled back to,
// at another address, they are back with their state, and those who waited get
// through.
func TestObjectsOnTheWayDownAndBack(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() { b.brings(1); b.brings(2); b.serves(1, "old") })
	b.until("callers of version 2 are answered", b.answered(2))
	under, err := net.Dial("tcp", b.at(2))
	if err != nil {
		t.Fatal(err)
	}
	defer under.Close()
	if got, err := askLineOver(under, "first"); got != "by object: old: first" {
		t.Fatalf("answered %q, %v", got, err)
	}
	attempt := upgrade.State{Phase: upgrade.Draining, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1}
	b.do(func() { b.in(attempt); b.route() })
	b.do(func() {
		if b.routed.Down {
			t.Error("new calls are held before those that had begun have ended")
		}
	})
	if got, err := askLineOver(under, "second"); got != "by object: old: second" {
		t.Errorf("while the node is drained, a call is answered %q, %v", got, err)
	}
	drained := make(chan error, 1)
	go func() { drained <- b.stopSoftware(b.t.Context()) }()
	b.until("new calls are held", func() bool { return !b.node.GateFor(attempt).Open })
	waiting, err := net.Dial("tcp", b.at(2))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	under.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		if stats := b.objects.Processes(); len(stats) != 0 {
			t.Errorf("the node is down, and there are objects: %+v", stats)
		}
		attempt.Phase, attempt.Step = upgrade.RollingBack, 2
		b.in(attempt)
		b.route()
		b.serves(1, "new")
		b.route()
		if !b.routed.Down {
			t.Error("callers are let in before the roll-back has ended")
		}
		b.in(upgrade.State{Phase: upgrade.Held, Version: 1, Running: 1, Served: true, EndedRelease: 2, EndedCount: 1, Step: 3})
		b.route()
		if !b.routed.Down {
			t.Error("callers are let in before their object has begun")
		}
	})
	b.until("callers of version 2 are answered again", b.answered(2))
	if got, err := askLineOver(waiting, "third"); got != "by object: new: third" {
		t.Errorf("who had waited is answered %q, %v", got, err)
	}
	if log := b.read(filepath.Join(b.Slots.Objects().FutureState(2), "log")); log != "first\nsecond\nthird\n" {
		t.Errorf("the object's state is %q", log)
	}
}

// When the software starts again at another address, by itself or as another
// version, nobody is let in before the objects call it there; nor does an address
// for callers close meanwhile.
func TestObjectsFollowTheNode(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() { b.brings(1); b.brings(2); b.serves(1, "old") })
	b.until("callers of version 2 are answered", b.answered(2))
	b.asks(b.at(2), "a", "by object: old: a")
	b.do(func() { b.serves(1, "new") }) // the loop was not told that the old one had ended
	b.until("callers are let in again", func() bool {
		if !slices.Contains(b.answers(), 2) {
			t.Error("an address is closed")
		}
		return !b.routed.Down
	})
	b.asks(b.at(2), "b", "by object: new: b")
	b.do(func() { b.stops(); b.route() })
	b.until("the objects know that nobody is there", func() bool { return len(b.objects.InForce().Node) == 0 })

	if err := b.Slots.Create(2); err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		b.serves(2, "second")
		b.holds()
		b.in(upgrade.State{Phase: upgrade.Probing, Version: 1, Running: 2, Served: true, Goal: 2, Path: []bundle.Version{2}, Done: 1, Step: 5})
		b.route()
		b.step(node.LetIn{})
	})
	b.until("callers of version 1 are answered", func() bool {
		if got := b.answers(); !slices.Equal(got, run(1, 2)) {
			t.Errorf("on the way to version 2, callers of %v are answered", got)
		}
		return !b.routed.Down
	})
	b.asks(b.at(1), "c", "by object: second: c")
	b.asks(b.at(2), "d", "second: d")
}

// The check that other tests rely on finds what is wrong.
func TestMisled(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() { b.brings(1); b.brings(2); b.serves(1, "n") })
	b.until("callers of version 2 are answered", b.answered(2))
	b.do(func() {
		moved := b.objects.InForce()
		moved.Node = map[string]string{"api": "127.0.0.1:1"}
		for _, set := range []host.Objects{{}, moved} {
			if misled(b.routed, set) == "" {
				t.Errorf("with %+v nothing is wrong", set)
			}
		}
	})
}

// A transform begins when the future object has ended, gets its state, and makes
// the past object's first.
func TestTransformStates(t *testing.T) {
	b := newObjectsBench(t, 1)
	if err := b.Slots.Create(1); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.Slots.Path(1), "data"), []byte("data\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do(func() { b.brings(1); b.brings(2, "slow"); b.serves(1, "n") })
	b.until("callers of version 2 are answered", b.answered(2))
	b.asks(b.at(2), "a", "by object: n: a")
	b.until("the object runs", func() bool { return b.runs(2) })
	state := b.Slots.Objects().FutureState(2)

	down := upgrade.State{Phase: upgrade.Transforming, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1}
	b.do(func() { b.in(down); b.stops(); b.objects.Part(); b.route() })
	made := make(chan error, 1)
	go func() { made <- b.transform(b.t.Context(), upgrade.Transform{Step: 1, From: 1, To: 2}) }()
	b.until("the object is asked to end", func() bool { return b.changing() })
	if _, err := os.Stat(filepath.Join(state, "end")); err == nil {
		t.Error("the object has ended already: the test shows nothing")
	}
	b.until("the transform waits", func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "awaitObjects") || len(made) > 0
	})
	if len(made) > 0 {
		t.Fatalf("the transform did not wait for the object to end: %v", <-made)
	}
	b.may(state)
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"end": "the end\n", "data": "data\n"} {
		if got := b.read(filepath.Join(b.Slots.Path(2), file)); got != want {
			t.Errorf("the new slot has %q in %s", got, file)
		}
	}
	b.do(func() {
		b.in(upgrade.State{Phase: upgrade.Current, Version: 2, Running: 2, Served: true, Step: 9})
		b.serves(2, "m")
	})
	b.until("callers of version 1 are answered", b.answered(1))
	b.asks(b.at(1), "b", "by object: m: b")
	past, err := b.Slots.Objects().Past(2)
	if err != nil {
		t.Fatal(err)
	}
	if log := b.read(filepath.Join(past, "log")); log != "first\nb\n" {
		t.Errorf("the state of the past object is %q", log)
	}
	b.may(past)
}

// What a wasm object has promised to keep, and a crash has kept from its files, is there
// when the transform reads them, and nothing half made is.
func TestTransformAfterCrash(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.pack(`cd "$MOULT_FUTURE_STATE" && for f in $(ls -A); do echo "$f=$(cat $f)"; done > "$MOULT_NEW/seen"`)
	if err := b.Slots.Create(1); err != nil {
		t.Fatal(err)
	}
	state, err := b.Slots.Objects().Future(2)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := wasm.OpenFileKV(state)
	if err != nil {
		t.Fatal(err)
	}
	// The disk fails in the middle of a batch, after it was promised.
	bad := filepath.Join(state, "b")
	if err := os.MkdirAll(filepath.Join(bad, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := kv.Apply([]wasm.Op{{Kind: wasm.Set, Key: "a", Value: []byte("1")}, {Kind: wasm.Set, Key: "b", Value: []byte("2")}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(bad), os.WriteFile(filepath.Join(state, ".c.tmp-1"), []byte("ha"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bad); err == nil {
		t.Fatal("nothing is missing: the test shows nothing")
	}
	b.do(func() {
		b.brings(1)
		b.brings(2)
		cu := b.node.Manifests()[2].Classes[b.cfg.Class]
		cu.Past = bundle.Simulation{Kind: bundle.SimulateCompatible}
		cu.Future = bundle.Simulation{Kind: bundle.SimulateWasm, Wasm: bundle.Chunk{Digest: bundle.Sum([]byte("module")), Length: 6}}
		b.node.Manifests()[2].Classes[b.cfg.Class] = cu
		b.in(upgrade.State{Phase: upgrade.Transforming, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1})
	})
	if err := b.transform(t.Context(), upgrade.Transform{Step: 1, From: 1, To: 2}); err != nil {
		t.Fatal(err)
	}
	if got := b.read(filepath.Join(b.Slots.Path(2), "seen")); got != "a=1\nb=2\n" {
		t.Errorf("the transform has seen %q", got)
	}
}

// What an agent that was killed has left running of its objects ends before the next
// one begins.
func TestObjectsLeftOver(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("processes are found by their environment, which can be read on Linux only")
	}
	cfg := benchConfig(t)
	left := exec.Command("sleep", "600")
	left.Env = []string{"MOULT_OBJECTS_OF=" + filepath.Join(cfg.Data, "run")}
	other := exec.Command("sleep", "600")
	other.Env = []string{"MOULT_OBJECTS_OF=" + filepath.Join(cfg.Data, "run2")}
	for _, c := range []*exec.Cmd{left, other} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill() })
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	newBench(t, cfg, 1)
	if err := left.Wait(); err == nil || left.ProcessState.Exited() {
		t.Errorf("it ended by itself: %v", err)
	}
	select {
	case <-ended:
		t.Error("the object of another agent was ended")
	default:
	}
	if err := other.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
}

// How long objects wait for the node follows what the release on the way says.
func TestObjectsHold(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() { b.brings(1); b.brings(2); b.serves(1, "n") })
	b.until("the object is in force", func() bool { return len(b.objects.InForce().List) > 0 && b.asWanted() })
	if got := b.objects.InForce().Hold; got != b.loop.answering.Hold {
		t.Errorf("objects wait for %v, want %v", got, b.loop.answering.Hold)
	}
	b.do(func() {
		cu := b.node.Manifests()[2].Classes[b.cfg.Class]
		cu.Schedule.HoldTimeout = bundle.Duration(7 * time.Second)
		b.node.Manifests()[2].Classes[b.cfg.Class] = cu
		b.in(upgrade.State{Phase: upgrade.Waiting, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1})
	})
	b.until("objects wait for as long as callers", func() bool { return b.objects.InForce().Hold == 7*time.Second && b.routed.HoldTimeout == 7*time.Second })
}

// Where no process can be run, callers of the node's own version do not notice,
// and it is said once.
func TestObjectsCannotRun(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() {
		b.brings(1)
		b.brings(2)
		b.serves(1, "n")
		b.cfg.Services["no name"] = b.cfg.Services["api"] // which no host takes
	})
	b.until("it is said, and callers are let in", func() bool { return b.alarmed("simulation objects cannot be run") > 0 && !b.routed.Down })
	b.do(func() {
		for range 5 {
			b.route()
		}
		if n := b.alarmed("simulation objects cannot be run"); n != 1 || !slices.Equal(b.answers(), run(1, 1)) {
			t.Errorf("%d alarms, callers of %v are answered", n, b.answers())
		}
		delete(b.cfg.Services, "no name")
	})
	b.until("callers of version 2 are answered", b.answered(2))
	b.asks(b.at(2), "a", "by object: n: a")
}

// A release without software for this machine has no object that could run here.
func TestNoProgramForPlatform(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() {
		b.artifact.Platform = bundle.Platform{OS: "plan9", Arch: "mips"}
		b.brings(1)
		b.brings(2)
		b.serves(1, "n")
		b.route()
		if o := b.routed.Objects[2]; o.Local == nil {
			t.Errorf("the object is %+v", o)
		}
	})
}

// Nobody is let in while what an object runs from is still being checked, and its
// callers would be refused: as after the agent's restart, and when the node has just
// become another version.
func TestObjectsFoundBeforeCallers(t *testing.T) {
	b := &objectsBench{bench: newBench(t, benchConfig(t), 1)}
	module, err := b.Depot.PutBlob([]byte("no module, but who is told so is answered"))
	if err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		b.releases(1, 2, func(v bundle.Version, cu *bundle.ClassUpgrade) {
			if v == 2 {
				cu.Future = bundle.Simulation{Kind: bundle.SimulateWasm, Wasm: module}
			}
		})
		b.httpNode(1)
		b.route()
		if !b.routed.Down {
			t.Error("callers are let in before the module was looked for")
		}
	})
	b.until("callers are let in", func() bool {
		if !b.routed.Down && !slices.Contains(b.answers(), 2) {
			t.Error("callers of version 1 are let in, and those of version 2 refused")
		}
		return !b.routed.Down
	})
}

// The module of the past object is compiled before the node goes down.
func TestCompileAhead(t *testing.T) {
	b := newBench(t, benchConfig(t), 1)
	module, err := b.Depot.PutBlob([]byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x04\x01\x02\x00\x0b"))
	if err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		b.releases(1, 3, func(v bundle.Version, cu *bundle.ClassUpgrade) {
			if v == 2 {
				cu.Past = bundle.Simulation{Kind: bundle.SimulateWasm, Wasm: module}
			}
		})
	})
	b.compileAhead(t.Context(), []bundle.Version{2, 3})
	made, err := filepath.Glob(filepath.Join(b.cfg.Data, "cache", "*", "sums.json"))
	if err != nil || len(made) != 1 {
		t.Errorf("compiled: %q, %v", made, err)
	}
}

// Whoever waits for the objects is told why they cannot be had.
func TestAwaitObjects(t *testing.T) {
	b := newObjectsBench(t, 1)
	if err := b.awaitObjects(t.Context()); err != nil {
		t.Errorf("nothing is wanted: %v", err)
	}
	b.do(func() { b.brings(1); b.brings(2); b.serves(1, "n"); b.cfg.Services["no name"] = b.cfg.Services["api"] })
	b.until("the object is found", func() bool { return b.alarmed("simulation objects cannot be run") > 0 })
	if err := b.awaitObjects(t.Context()); err == nil || !strings.Contains(err.Error(), "no name") {
		t.Errorf("awaitObjects = %v", err)
	}
	b.do(func() { delete(b.cfg.Services, "no name") })
	b.until("the object runs", b.answered(2))
	if err := b.awaitObjects(t.Context()); err != nil {
		t.Error(err)
	}
}

// What a copy of the state would lack is told while the node is up, and only where the
// state is copied.
func TestStateThatCannotBeCopied(t *testing.T) {
	b := newObjectsBench(t, 1)
	b.do(func() { b.brings(2); b.releases(3, 3) })
	out := filepath.Join(b.Slots.Path(1), "out")
	if err := os.MkdirAll(b.Slots.Path(1), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hosts", out); err != nil {
		t.Fatal(err)
	}
	if err := b.keepsState(b.Slots.Path(1), 1, 3); err == nil || !strings.Contains(err.Error(), "release 3 copies the state: "+out) {
		t.Errorf("a release without a transform program: %v, want the file's name", err)
	}
	if err := b.keepsState(b.Slots.Path(1), 1, 2); err != nil {
		t.Errorf("a release with one: %v", err)
	}
}
