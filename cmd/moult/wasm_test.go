//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/simlayer/so/wasm"
	"moult/testdata/kit"
	"moult/testdata/kv/kvload"
)

var compiling sync.Once
var compiledFiles = fstest.MapFS{}

// compiled is the guest as each agent would compile it for itself, which takes longer
// than all else in these tests: the agents find it in their caches. TestObserve leaves
// it to its agent.
func compiled(t *testing.T, guest string) fs.FS {
	t.Helper()
	compiling.Do(func() {
		dir := t.TempDir()
		module, err := os.ReadFile(guest)
		if err == nil {
			err = wasm.Compile(t.Context(), module, dir, slog.New(slog.DiscardHandler))
		}
		if err == nil {
			err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				data, err := os.ReadFile(filepath.Join(dir, path))
				compiledFiles[path] = &fstest.MapFile{Data: data, Mode: 0o600}
				return err
			})
		}
		if err != nil {
			t.Error(err)
		}
	})
	if len(compiledFiles) == 0 {
		t.Fatal("the guest is not compiled")
	}
	return compiledFiles
}

// wasmCluster starts n nodes without peers at version 1, and adds env to their agents'
// environments when they are up.
func wasmCluster(t *testing.T, n int, k kind, env ...string) *testCluster {
	t.Helper()
	c := newCluster(t, n)
	peers := regexp.MustCompile(`KV_PEERS = ".*"`)
	c.edit(func(_ *cluster.Agent, config string) string { return peers.ReplaceAllString(config, `KV_PEERS = ""`) })
	c.use(k, "")
	guest := filepath.Join(c.dir, "kvtypes.wasm") // both objects of the release
	kit.Guest(t, guest, "kvtypes")
	for _, a := range c.Agents {
		if err := os.CopyFS(filepath.Join(a.Data, "cache"), compiled(t, guest)); err != nil {
			t.Fatal(err)
		}
	}
	c.options.CheckWasm = nil // it is compiled already
	c.up(c.Agents)
	c.formed(n)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[0], 1, n)
	if len(env) > 0 {
		for _, a := range c.Agents {
			c.kill(a)
		}
		c.up(c.Agents, env...)
		c.settledAt(c.Agents[0], 1, n)
	}
	return c
}

// wasmRelease injects release 2, with the guest for both objects. spoil changes what
// its author wrote.
func (c *testCluster) wasmRelease(spoil ...string) {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), 2)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	spec := strings.NewReplacer(`rules = "rules/past-2.hcl"`, `wasm = "kvtypes.wasm"`, `rules = "rules/future-2.hcl"`, `wasm = "kvtypes.wasm"`, `"rolling"`, `"manual"`).Replace(string(text))
	spec = strings.NewReplacer(spoil...).Replace(wavePattern.ReplaceAllString(spec, ""))
	if err := c.inject(c.Agents[0], c.bundle(2, spec)); err != nil {
		c.t.Fatal(err)
	}
	for _, a := range c.Agents {
		c.until(a, "every node to answer callers of version 2", func(s control.Status) bool { return cluster.Answering(s, 2) == len(c.Agents) })
	}
}

// typedCalls are calls of both versions at one node.
type typedCalls struct {
	ctx      context.Context
	one, two *kvload.Client
}

func (c *testCluster) typed(a *cluster.Agent) typedCalls {
	c.t.Helper()
	calls := typedCalls{ctx: c.t.Context()}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var err error
	if calls.one, err = kvload.NewClient(1, "http://"+a.Versioned(1), plain); err == nil {
		calls.two, err = kvload.NewClient(2, "http://"+a.Versioned(2), plain)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return calls
}

const typedKeys = 10

// image is a value with a type that version 1 cannot keep.
func image(i int) kvload.Value {
	return kvload.Value{Data: []byte{0xff, byte(i), 0}, Type: "image/png"}
}

// write writes images as a caller of version 2, and replaces some of them as one of
// version 1.
func (t typedCalls) write() error {
	for i := range typedKeys {
		if _, err := t.two.Put(t.ctx, fmt.Sprintf("image é %d", i), image(i), nil); err != nil {
			return err
		}
		if _, err := t.two.Put(t.ctx, fmt.Sprintf("text %d", i), image(i), nil); err != nil {
			return err
		}
		if _, err := t.one.Put(t.ctx, fmt.Sprintf("text %d", i), kvload.Value{Data: []byte("text"), Type: "text/plain"}, nil); err != nil {
			return err
		}
	}
	return nil
}

// wrong says what callers of both versions find that is not as it was written.
func (t typedCalls) wrong() (wrong []string) {
	check := func(c *kvload.Client, version int, key string, want kvload.Value) {
		got, err := c.Get(t.ctx, key)
		if err != nil || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
			wrong = append(wrong, fmt.Sprintf("a caller of version %d finds %s to be %q of type %s, %v; want %q of type %s", version, key, got.Data, got.Type, err, want.Data, want.Type))
		}
	}
	for i := range typedKeys {
		key, text := fmt.Sprintf("image é %d", i), kvload.Value{Data: []byte("text"), Type: "text/plain"}
		check(t.two, 2, key, image(i))
		// What version 1 has seen as text it goes on to see.
		check(t.one, 1, key, kvload.Value{Data: base64.StdEncoding.AppendEncode(nil, image(i).Data), Type: "text/plain"})
		check(t.one, 1, fmt.Sprintf("text %d", i), text)
		check(t.two, 2, fmt.Sprintf("text %d", i), text)
	}
	return wrong
}

// TestWasm upgrades nodes whose simulation objects keep state: what callers of
// version 2 wrote at a node of version 1, with what that could not keep, is there
// after the upgrade, and so is what callers of version 1 had seen of it. Agents are
// killed on the way.
func TestWasm(t *testing.T) {
	inMixed(t)
	eachKind(t, func(t *testing.T, k kind) {
		if k.egress != "proxy" && k.egress != "auto" {
			t.Skip("the nodes have no peers, so their egress makes no difference: see " + portable.String())
		}
		c := wasmCluster(t, 2, k)
		c.inUse(k)
		n1, n2 := c.Agents[0], c.Agents[1]
		l := c.loads()
		defer l.stop()
		l.alone = true
		l.begin("clients of version 1", "one", 1, func(a *cluster.Agent) string { return a.Versioned(1) })
		c.wasmRelease()
		l.begin("clients of version 2", "two", 2, func(a *cluster.Agent) string { return a.Versioned(2) })
		l.flow(50)
		for _, a := range c.Agents {
			c.wroteTyped(a)
		}
		c.typedAre(n1, "with the future object")
		c.upgrade(n1, 2)
		c.typedAre(n1, "after the upgrade")
		c.typedAre(n2, "with the future object")
		c.stillBinary(n1)
		l.flow(50)
		c.upgrade(n2, 2)
		c.typedAre(n2, "after the upgrade")
		l.flow(50)
		l.end(authors(t))
	})
}

func (c *testCluster) wroteTyped(a *cluster.Agent) {
	c.t.Helper()
	if err := c.typed(a).write(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) typedAre(a *cluster.Agent, when string) {
	c.t.Helper()
	for _, wrong := range c.typed(a).wrong() {
		c.t.Errorf("%s, at %s: %s", when, a.Name, wrong)
	}
}

// stillBinary checks that callers of version 1 are shown only what they had seen:
// what else is binary is denied.
func (c *testCluster) stillBinary(a *cluster.Agent) {
	c.t.Helper()
	calls := c.typed(a)
	for _, key := range []string{"image é 0", "new"} {
		v := image(0)
		v.Data = append(v.Data, 1)
		if _, err := calls.two.Put(calls.ctx, key, v, nil); err != nil {
			c.t.Fatal(err)
		}
		_, err := calls.one.Get(calls.ctx, key)
		if s, ok := errors.AsType[*kvload.StatusError](err); !ok || s.Refusal != "denied" || !strings.Contains(s.Reason(), "the value is binary") {
			c.t.Errorf("a caller of version 1 reads a binary value that it has not seen before: %v", err)
		}
	}
	if _, err := calls.two.Put(calls.ctx, "image é 0", image(0), nil); err != nil {
		c.t.Fatal(err)
	}
}

// TestWasmCatches gives the release transforms that leave out the state of one
// object: that is noticed.
func TestWasmCatches(t *testing.T) {
	inMixed(t)
	t.Parallel()
	for variable, version := range map[string]int{"MOULT_FUTURE_STATE": 2, "MOULT_PAST_STATE": 1} {
		t.Run(variable, func(t *testing.T) {
			t.Parallel()
			c := wasmCluster(t, 1, portable)
			c.wasmRelease(`exec = ["./kv",`, `exec = ["env", "-u", "`+variable+`", "./kv",`)
			a := c.Agents[0]
			c.wroteTyped(a)
			c.typedAre(a, "with the future object")
			c.upgrade(a, 2)
			wrong := strings.Join(c.typed(a).wrong(), "\n")
			if want := fmt.Sprintf("a caller of version %d finds image", version); !strings.Contains(wrong, want) {
				t.Errorf("the transform goes without %s, and all that is noticed is: %s", variable, wrong)
			}
		})
	}
}

// TestWasmCrash kills the agent at points of the upgrade, with state of both objects
// in play: afterwards it is wholly old, or wholly new.
func TestWasmCrash(t *testing.T) {
	inCrash(t)
	t.Parallel()
	for _, point := range []string{"draining.done", "transforming.saved", "transforming.done", "probing.saved"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			c := wasmCluster(t, 1, portable, "MOULT_FAILPOINT="+point)
			a := c.Agents[0]
			c.wasmRelease()
			c.wroteTyped(a)
			if code, _, errs := c.command(a, "start", "--trust", c.trustDir(), a.Name); code != exitDone {
				t.Fatalf("start: exit code %d, %s", code, errs)
			}
			if !c.dies(a) {
				t.Fatalf("the agent did not reach %s", point)
			}
			c.wholeObjects(a)
			c.up(c.Agents)
			c.settledAt(a, 2, 1)
			c.typedAre(a, "after a crash")
		})
	}
	t.Run("while the future object answers", func(t *testing.T) {
		t.Parallel()
		c := wasmCluster(t, 1, portable)
		a := c.Agents[0]
		c.wasmRelease()
		c.wroteTyped(a)
		c.kill(a)
		c.up(c.Agents)
		c.until(a, "the agent to answer callers of version 2", func(s control.Status) bool {
			return cluster.Answering(s, 2) == 1 && len(s.Local.Objects) == 1 && s.Local.Objects[0].State == control.ObjectRunning
		})
		c.typedAre(a, "after a crash")
	})
}

// wholeObjects checks what a crash has left: the state of the future object, and, if
// and only if there is a new slot, the first state of the past object.
func (c *testCluster) wholeObjects(a *cluster.Agent) {
	c.t.Helper()
	count := func(side, prefix string) int {
		names, err := filepath.Glob(filepath.Join(a.Data, "objects", "2", side, prefix+"*"))
		if err != nil {
			c.t.Fatal(err)
		}
		return len(names)
	}
	if n := count("future", "types-"); n != 2*typedKeys {
		c.t.Errorf("the future object has the types of %d keys, want %d", n, 2*typedKeys)
	}
	_, err := os.Stat(filepath.Join(a.Data, "state", "2"))
	want := 0
	if err == nil {
		want = typedKeys
	}
	if n := count("past", "shown-"); n != want {
		c.t.Errorf("the past object has the values of %d keys, want %d; the new slot: %v", n, want, err)
	}
}
