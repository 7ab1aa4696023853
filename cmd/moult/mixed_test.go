//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
	"moult/store/bundle/build"
	"moult/testdata/kv"
	"moult/testdata/kv/kvload"
)

// bundle builds a bundle of the release spec in text; its paths are taken from
// the cluster's folder.
func (c *testCluster) bundle(v bundle.Version, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, fmt.Sprintf("spec-%d.hcl", v))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	spec, err := build.Load(path)
	if err != nil {
		c.t.Fatal(err)
	}
	folder := c.openTrust()
	defer folder.Close()
	out := filepath.Join(c.dir, fmt.Sprintf("release-%d.moult", v))
	if _, err := build.Build(c.t.Context(), spec, folder, out, c.options); err != nil {
		c.t.Fatal(err)
	}
	return out
}

// wavePattern is the canary of the demo's releases, which a manual rollout has not.
var wavePattern = regexp.MustCompile(`(?s)\n *wave \{.*?\}`)

// manual injects a release of the sample system whose nodes the operator starts.
//
// spoil is what its author did wrong to its rules, from one text to another.
func (c *testCluster) manual(v bundle.Version, spoil ...string) {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), v)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(spoil) > 0 {
		c.spoil(v, strings.NewReplacer(spoil...))
	}
	text = bytes.Replace(text, []byte(`"rolling"`), []byte(`"manual"`), 1)
	if err := c.inject(c.Agents[0], c.bundle(v, string(wavePattern.ReplaceAll(text, nil)))); err != nil {
		c.t.Fatal(err)
	}
}

// spoil changes the rules of a release, and takes their examples out: with them,
// spoilt rules would not be signed.
func (c *testCluster) spoil(v bundle.Version, change *strings.Replacer) {
	c.t.Helper()
	for _, kind := range []string{"past", "future"} {
		path := filepath.Join(c.dir, "rules", fmt.Sprintf("%s-%d.hcl", kind, v))
		data, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		rules, _, _ := strings.Cut(string(data), "\nexample ")
		if err := os.WriteFile(path, []byte(change.Replace(rules)), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
}

// upgrade starts the upgrade of one node by hand and waits until it has settled.
func (c *testCluster) upgrade(a *cluster.Agent, v bundle.Version) {
	c.t.Helper()
	if code, _, errs := c.command(c.Agents[0], "start", "--trust", c.trustDir(), a.Name); code != exitDone {
		c.t.Fatalf("start %s: exit code %d, %s", a.Name, code, errs)
	}
	for _, at := range c.Agents {
		c.until(at, fmt.Sprintf("%s at version %d", a.Name, v), func(s control.Status) bool {
			n := node(s, a.Name)
			return n.Version == v && n.Phase == "current"
		})
	}
}

// loads are clients that call all the time, and what they find.
type loads struct {
	c       *testCluster
	ctx     context.Context
	stop    context.CancelFunc
	results chan loadResult
	running []*kvload.Load
	alone   bool // the nodes are not each other's peers
	back    bool // nodes may go back
	fails   bool // calls may fail, but none of the answers is wrong
}

type loadResult struct {
	name string
	*kvload.Result
}

func (c *testCluster) loads() *loads {
	ctx, stop := context.WithCancel(c.t.Context())
	return &loads{c: c, ctx: ctx, stop: stop, results: make(chan loadResult, 8)}
}

// begin starts clients of one version at every node, at the address that at
// gives. One prefix has the keys of clients that know of each other's values.
func (l *loads) begin(name, prefix string, version int, at func(*cluster.Agent) string) {
	l.c.t.Helper()
	l.run(name, l.config(prefix, version, at))
}

func (l *loads) config(prefix string, version int, at func(*cluster.Agent) string) kvload.Config {
	cfg := kvload.DefaultConfig()
	cfg.Version, cfg.Rate, cfg.Repair, cfg.Workers, cfg.Prefix = version, 60, !l.alone, 2, prefix
	cfg.Back = l.back
	for _, a := range l.c.Agents {
		cfg.Targets = append(cfg.Targets, kvload.Target{Name: a.Name, URL: "http://" + at(a)})
	}
	return cfg
}

func (l *loads) run(name string, cfg kvload.Config) {
	l.c.t.Helper()
	load, err := kvload.New(cfg)
	if err != nil {
		l.c.t.Fatal(err)
	}
	l.running = append(l.running, load)
	go func() { l.results <- loadResult{name, load.Run(l.ctx)} }()
}

// versioned starts clients of one version at the versioned addresses, once
// every node answers them.
func (l *loads) versioned(version int) {
	l.c.t.Helper()
	for _, a := range l.c.Agents {
		l.c.until(a, fmt.Sprintf("every node to answer callers of version %d", version), func(s control.Status) bool {
			return cluster.Answering(s, bundle.Version(version)) == len(l.c.Agents)
		})
	}
	l.begin(fmt.Sprintf("clients of version %d", version), "load", version, func(a *cluster.Agent) string { return a.Versioned(version) })
}

// flow waits until every client has made n more calls since now.
func (l *loads) flow(n int64) {
	l.c.t.Helper()
	var goals []int64
	total := func(load *kvload.Load) int64 { s := load.Snapshot(); return s.OK + s.Failed + s.Denied }
	for _, load := range l.running {
		goals = append(goals, total(load)+n)
	}
	l.c.until(l.c.Agents[0], "calls to go on", func(control.Status) bool {
		for i, load := range l.running {
			if total(load) < goals[i] {
				return false
			}
		}
		return true
	})
}

// end ends the clients and checks what they found. Denied calls must have been
// denied in the words of one of reasons. It returns the first failures of each load.
func (l *loads) end(reasons []string) (failures []string) {
	l.c.t.Helper()
	l.stop()
	for range l.running {
		r := <-l.results
		failures = append(failures, r.Errors...)
		l.c.t.Logf("%s: %d ok, %d failed, %d denied, %d sent again, %d asked to try again; the slowest took %d ms: %s",
			r.name, r.OK, r.Failed, r.Denied, r.Resent, r.Retried, r.MaxLatency.Milliseconds(), r.Slowest)
		if r.Wrong > 0 || r.Failed > 0 && !l.fails || r.OK == 0 {
			l.c.t.Errorf("%s: %d calls failed of %d, and %d were answered wrongly\n%s", r.name, r.Failed, r.Failed+r.OK, r.Wrong, strings.Join(r.Errors, "\n"))
		}
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			l.c.t.Logf("  denied %d times: %s", r.Reasons[reason], reason)
			if !slices.Contains(reasons, reason) {
				l.c.t.Errorf("%s: denied with a reason that no author wrote: %q", r.name, reason)
			}
		}
	}
	return failures
}

// authors returns the reasons that stand in the rules of the sample system.
func authors(t *testing.T) (reasons []string) {
	t.Helper()
	for _, name := range []string{"past-2", "future-2", "past-3", "future-3"} {
		data, err := kv.Files.ReadFile("rules/" + name + ".hcl")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`reason += "(.*)"`).FindAllSubmatch(data, -1) {
			reasons = append(reasons, string(m[1]))
		}
	}
	if len(reasons) < 6 {
		t.Fatalf("the rules give the reasons %q only", reasons)
	}
	return reasons
}

// pairs checks every caller at every node as they stand now: clients of all
// versions up to the newest, and the nodes themselves, which call each other for
// keys that they miss. versions has each node's version, by the order of the
// agents. It returns what was wrong.
func (c *testCluster) pairs(round string, versions ...int) (wrong []string) {
	c.t.Helper()
	p := pairing{c: c, ctx: c.t.Context(), reasons: authors(c.t), http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	for i, callee := range c.Agents {
		for v := 1; v <= slices.Max(versions); v++ {
			p.what = fmt.Sprintf("%s: client of version %d at %s of version %d", round, v, callee.Name, versions[i])
			p.clientPair(fmt.Sprintf("%s/v%d %s", round, v, callee.Name), v, callee, versions[i])
		}
		for j, caller := range c.Agents {
			if i == j {
				continue
			}
			p.what = fmt.Sprintf("%s: %s of version %d calls %s of version %d", round, caller.Name, versions[j], callee.Name, versions[i])
			p.nodePair(fmt.Sprintf("%s/%s>%s", round, caller.Name, callee.Name), caller, versions[j], callee, versions[i])
		}
	}
	return p.wrong
}

// holds is pairs for a test in which nothing may be wrong.
func (c *testCluster) holds(round string, versions ...int) {
	c.t.Helper()
	for _, wrong := range c.pairs(round, versions...) {
		c.t.Error(wrong)
	}
}

// pairing is one round of pairs.
type pairing struct {
	c       *testCluster
	ctx     context.Context
	http    *http.Client
	reasons []string
	what    string // is being checked
	wrong   []string
}

func (p *pairing) bad(format string, args ...any) {
	p.wrong = append(p.wrong, p.what+": "+fmt.Sprintf(format, args...))
}

func (p *pairing) client(a *cluster.Agent, version int) *kvload.Client {
	p.c.t.Helper()
	client, err := kvload.NewClient(version, "http://"+a.Versioned(version), p.http)
	if err != nil {
		p.c.t.Fatal(err)
	}
	return client
}

// awkward is a value that is easily mangled.
func awkward(key string) kvload.Value {
	return kvload.Value{Data: []byte(key + ` "\a\\/b" <&> é✓ 1e400` + "\n\u2028"), Type: "text/plain"}
}

// binary is a value that version 1 cannot keep.
var binary = kvload.Value{Data: []byte{0xff}, Type: "application/octet-stream"}

func (p *pairing) put(c *kvload.Client, key string, v kvload.Value) {
	if _, err := c.Put(p.ctx, key, v, nil); err != nil {
		p.bad("%v", err)
	}
}

func (p *pairing) get(c *kvload.Client, key string) {
	want := awkward(key)
	if got, err := c.Get(p.ctx, key); err != nil || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
		p.bad("got %q of type %q, %v; want %q", got.Data, got.Type, err, want.Data)
	}
}

// denied checks that a call was denied with the author's reason.
func (p *pairing) denied(err error, status int, says string) {
	s, ok := errors.AsType[*kvload.StatusError](err)
	if !ok || s.Status != status || s.Refusal != "denied" || !strings.Contains(s.Reason(), says) || !slices.Contains(p.reasons, s.Reason()) {
		p.bad("want status %d and the author's reason, with %q in it: %v", status, says, err)
	}
}

// clientPair writes and reads as a client of a version at one node, and is
// denied what its version and the node's do not share.
func (p *pairing) clientPair(key string, version int, a *cluster.Agent, native int) {
	client, own := p.client(a, version), p.client(a, native)
	p.put(client, key, awkward(key))
	p.get(client, key)
	p.get(own, key)
	if keys, err := client.List(p.ctx); err != nil || !slices.Contains(keys, key) {
		p.bad("it is not in the list of %d keys, %v", len(keys), err)
	}
	switch {
	case version >= 2 && native == 1:
		one := int64(1)
		_, err := client.Put(p.ctx, key, awkward(key), &one)
		p.denied(err, http.StatusNotImplemented, "keeps no revisions")
		_, err = client.Put(p.ctx, key, binary, nil)
		p.denied(err, http.StatusNotImplemented, "keeps plain text only")
		p.denied(client.Delete(p.ctx, key), http.StatusNotImplemented, "cannot delete")
	case version == 1 && native >= 2:
		p.put(own, key+" bin", binary)
		_, err := client.Get(p.ctx, key+" bin")
		p.denied(err, http.StatusNotAcceptable, "the value is binary")
	}
}

// nodePair has one node call another for a key that only that one has: no other
// node can have answered.
func (p *pairing) nodePair(key string, caller *cluster.Agent, version int, callee *cluster.Agent, native int) {
	p.put(p.client(callee, native), key, awkward(key))
	p.get(p.client(caller, version), key)
	if version != 1 || native == 1 {
		return
	}
	// What the callee denies, the caller has no value for; it does not take a
	// refusal for one.
	p.put(p.client(callee, native), key+" bin", binary)
	_, err := p.client(caller, version).Get(p.ctx, key+" bin")
	if s, ok := errors.AsType[*kvload.StatusError](err); !ok || s.Status != http.StatusNotFound || s.Refusal != "" {
		p.bad("want 404 of the node itself for what it cannot be given: %v", err)
	}
}

// TestMixed takes a cluster from version 1 over 2 to 3, node by node, with nodes
// of all three versions at once on the way and clients of all three calling every
// node, at the versioned and at the public addresses, from the first to the last.
func TestMixed(t *testing.T) {
	inMixed(t)
	eachKind(t, func(t *testing.T, k kind) {
		c := newCluster(t, 3)
		c.use(k, "    external_version = 1\n")
		n1, n2, n3 := c.Agents[0], c.Agents[1], c.Agents[2]
		c.up(c.Agents)
		c.formed(3)
		c.releaseAt(n1, 1, spec{})
		c.settledAt(n1, 1, 3)
		c.inUse(k)

		l := c.loads()
		defer l.stop()
		l.begin("clients of the public addresses", "public", 1, func(a *cluster.Agent) string { return a.Public() })
		l.versioned(1)
		c.holds("all at 1", 1, 1, 1)

		c.manual(2)
		l.versioned(2)
		c.holds("2 is here", 1, 1, 1)
		c.upgrade(n1, 2)
		c.holds("one at 2", 2, 1, 1)
		c.upgrade(n2, 2)
		c.holds("two at 2", 2, 2, 1)

		c.manual(3)
		l.versioned(3)
		c.upgrade(n1, 3)
		c.holds("3, 2 and 1", 3, 2, 1)
		l.flow(100)
		c.upgrade(n2, 3)
		c.holds("two at 3", 3, 3, 1)
		c.upgrade(n3, 3)
		c.holds("all at 3", 3, 3, 3)
		l.flow(50)
		l.end(authors(t))
		for _, a := range c.Agents {
			info, err := a.API.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: the longest hold was %v", a.Name, info.LongestHold)
		}
	})
}

// TestMixedCatches gives a release rules that mangle a value and that deny in
// other words and too little: each must be noticed, by clients and by nodes.
func TestMixedCatches(t *testing.T) {
	inMixed(t)
	t.Parallel()
	c := newCluster(t, 2)
	c.up(c.Agents)
	c.formed(2)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[0], 1, 2)
	c.holds("before", 1, 1)
	c.manual(2,
		`"{key: .body.key, value: .body.value}"`, `"{key: .body.key, value: (.body.value + .body.value)}"`,
		`the value is binary: only callers of kv version 2 and later can read it`, `no`,
		`.body.if_revision != null`, `false`)
	c.upgrade(c.Agents[0], 2)
	wrong := strings.Join(c.pairs("spoilt", 2, 1), "\n")
	for _, want := range []string{
		"client of version 1 at n1 of version 2: got ",
		"client of version 1 at n1 of version 2: want status 406 and the author's reason",
		"client of version 2 at n2 of version 1: want status 501",
		"n2 of version 1 calls n1 of version 2: got ",
	} {
		if !strings.Contains(wrong, want) {
			t.Errorf("not noticed: %q\n%s", want, wrong)
		}
	}
}
