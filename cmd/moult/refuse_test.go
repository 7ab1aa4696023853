//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/schedule"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// smallSpec is a release whose software is a script of two lines, so that
// tests of what is refused need not move a whole binary about.
const smallSpec = `release {
  version = %d
  class "kv" {
    %s
    artifact {
      os   = %q
      arch = %q
      path = "small"
    }
    command = ["./small"]
    service "api" {
      protocol = "tcp"
    }
    health {
      exec             = ["true"]
      interval         = "100ms"
      min_healthy_time = "100ms"
      healthy_deadline = "30s"
    }
    %s
    schedule {
      strategy = "rolling"
    }
  }
}
`

// small builds a small release with the trust folder dir, and returns the
// bundle's path.
func (c *testCluster) small(v bundle.Version, dir string) string {
	c.t.Helper()
	from, simulations := "", ""
	if v > 1 {
		from = fmt.Sprintf("from = %d", v-1)
		simulations = "past {\n compatible = true\n}\nfuture {\n compatible = true\n}\n"
	}
	spec := filepath.Join(c.dir, fmt.Sprintf("small-%d.hcl", v))
	out := filepath.Join(c.dir, fmt.Sprintf("small-%d.moult", v))
	err := errors.Join(
		os.WriteFile(filepath.Join(c.dir, "small"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755),
		os.WriteFile(spec, fmt.Appendf(nil, smallSpec, v, from, runtime.GOOS, runtime.GOARCH, simulations), 0o600))
	if err != nil {
		c.t.Fatal(err)
	}
	c.must("bundle", "build", "--trust", dir, "-f", spec, "--out", out)
	return out
}

func (c *testCluster) trustDir() string { return filepath.Join(c.dir, "trust") }

// must runs moult in this process, and wants it to succeed.
func (c *testCluster) must(args ...string) {
	c.t.Helper()
	var out, errs bytes.Buffer
	if code := run(c.t.Context(), append([]string{"moult"}, args...), &out, &errs); code != exitDone {
		c.t.Fatalf("moult %s: exit code %d\n%s", strings.Join(args, " "), code, errs.String())
	}
}

// settledSmall starts a cluster of n agents at release 1, the small one.
func settledSmall(t *testing.T, n int) *testCluster {
	t.Helper()
	c := newCluster(t, n)
	c.up(c.Agents)
	c.formed(n)
	path := c.small(1, c.trustDir())
	if code, _, errs := c.command(c.Agents[0], "inject", "--trust", c.trustDir(), path); code != exitDone {
		t.Fatalf("inject: exit code %d, %s", code, errs)
	}
	for _, a := range c.Agents {
		c.until(a, "release 1 to be complete", func(s control.Status) bool {
			return s.Release.Version == 1 && s.Release.State == control.StateComplete && cluster.Reachable(s) == n
		})
	}
	return c
}

func (c *testCluster) lasting(a *cluster.Agent) string {
	c.t.Helper()
	text, err := lasting(c.t.Context(), a.API)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// refused hands a file to the agent, which must refuse it in one clear line
// that has want in it, and be afterwards as it was.
func (c *testCluster) refused(a *cluster.Agent, what string, data []byte, want string) {
	c.t.Helper()
	path := filepath.Join(c.dir, "tampered.moult")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		c.t.Fatal(err)
	}
	before := c.lasting(a)
	code, out, errs := c.command(a, "inject", "--no-order", path)
	if problem := refusal(code, out, errs, want); problem != "" {
		c.t.Errorf("%s: %s", what, problem)
	}
	if after := c.lasting(a); after != before {
		c.t.Errorf("%s: it left a trace\nbefore: %s\nafter: %s", what, before, after)
	}
	left, err := filepath.Glob(filepath.Join(a.Data, ".inject-*"))
	if err != nil || len(left) > 0 {
		c.t.Errorf("%s: temporary files stay: %q, %v", what, left, err)
	}
}

// refusal tells what is wrong with the way in which a command has refused.
func refusal(code int, out, errs, want string) string {
	lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
	switch {
	case code != exitRefused:
		return fmt.Sprintf("exit code %d, want %d: %s", code, exitRefused, errs)
	case out != "":
		return fmt.Sprintf("standard output: %q", out)
	case len(lines) != 2 || !strings.HasPrefix(lines[0], "moult: inject: ") || !strings.HasPrefix(lines[1], "hint: "):
		return fmt.Sprintf("want one line and a hint, got %q", lines)
	case !strings.Contains(lines[0], want):
		return fmt.Sprintf("message %q, want %q", lines[0], want)
	}
	return ""
}

// TestTampered hands an agent bundles that are cut short, that have one bit
// flipped, or that the wrong keys have signed.
func TestTampered(t *testing.T) {
	t.Parallel()
	c := settledSmall(t, 1)
	a := c.Agents[0]
	path := c.small(2, c.trustDir())
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cuts := []int{0, 1, 511, 512, 513, len(good) - 1024, len(good) - 512, len(good) - 1}
	for n := 700; n < len(good); n += len(good)/12 + 1 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		c.refused(a, fmt.Sprintf("cut to %d of %d bytes", n, len(good)), good[:n], "cut short")
	}
	for i := 0; i < len(good); i += len(good)/32 + 1 {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		c.refused(a, fmt.Sprintf("bit flipped in byte %d", i), flipped, "open bundle: ")
	}
	c.refused(a, "a byte more", append(bytes.Clone(good), 0), "damaged, or not written by moult")
	c.refused(a, "a program", []byte("#!/bin/sh\n"), "damaged, or not written by moult")
	f := newForger(t, c.trustDir(), good)
	if !bytes.Equal(f.bundle(f.set), good) {
		t.Fatal("the forger does not write what moult writes: its forgeries would prove nothing")
	}
	for what, forged := range map[string]struct {
		set  trust.Set
		want string
	}{
		"release signed by a stranger":             {f.withTargets(f.stranger), "untrusted metadata"},
		"release signed by the operator":           {f.withTargets(f.operator), "untrusted metadata"},
		"release signed by nobody":                 {f.withTargets(), "untrusted metadata"},
		"release signed by publisher and stranger": {f.withTargets(f.publisher, f.stranger), "untrusted metadata"},
		"timestamp signed by a stranger":           {f.seal(f.set, f.operator, f.stranger), "untrusted metadata"},
		"snapshot signed by a stranger":            {f.seal(f.set, f.stranger, f.operator), "untrusted metadata"},
		"keys changed by a stranger":               {f.withRoot(f.stranger), "untrusted metadata"},
		"order signed by the publisher":            {f.withOperator(f.publisher), "untrusted metadata"},
	} {
		c.refused(a, what, f.bundle(forged.set), forged.want)
	}

	// All this proves something only if the bundle itself is taken.
	if code, _, errs := c.command(a, "inject", "--trust", c.trustDir(), path); code != exitDone {
		t.Fatalf("the good bundle: exit code %d, %s", code, errs)
	}
	c.until(a, "release 2", func(s control.Status) bool { return cluster.Settled(s, 2) == 1 })
}

// TestRefusedCatches shows that the check of the test above can fail.
func TestRefusedCatches(t *testing.T) {
	const good = "moult: inject: no\nhint: yes\n"
	if problem := refusal(exitRefused, "", good, "no"); problem != "" {
		t.Fatalf("a good refusal: %s", problem)
	}
	for what, problem := range map[string]string{
		"accepted":       refusal(exitDone, "", "moult: release 2 is here and spreads\n", ""),
		"failed":         refusal(exitFailed, "", good, "no"),
		"wrong reason":   refusal(exitRefused, "", good, "cut short"),
		"no hint":        refusal(exitRefused, "", "moult: inject: no\n", "no"),
		"several lines":  refusal(exitRefused, "", "moult: inject: no\nbecause\nhint: yes\n", "no"),
		"data on stdout": refusal(exitRefused, "x", good, "no"),
	} {
		if problem == "" {
			t.Errorf("%s: not caught", what)
		}
	}
}

// TestTooFewKeys has a cluster whose releases need two publishers.
func TestTooFewKeys(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	a := c.Agents[0]
	good, err := os.ReadFile(c.small(1, c.trustDir()))
	if err != nil {
		t.Fatal(err)
	}
	f := newForger(t, c.trustDir(), good)
	second := newTestKey(t)
	f.foundCluster(2, f.publisher, second)
	if err := os.WriteFile(filepath.Join(c.trustDir(), "root.json"), f.set.Roots[0], 0o600); err != nil {
		t.Fatal(err)
	}
	c.up(c.Agents)
	c.formed(1)
	c.refused(a, "signed by one of two", f.bundle(f.withTargets(f.publisher)), "untrusted metadata")
	c.refused(a, "signed by the other of two", f.bundle(f.withTargets(second)), "untrusted metadata")
	c.refused(a, "signed by one of two and a stranger", f.bundle(f.withTargets(f.publisher, f.stranger)), "untrusted metadata")
	c.refused(a, "signed twice by one of two", f.bundle(f.withTargets(f.publisher, f.publisher)), "malformed trust metadata")
	both := filepath.Join(c.dir, "both.moult")
	if err := os.WriteFile(both, f.bundle(f.withTargets(f.publisher, second)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := c.command(a, "inject", "--no-order", both); code != exitDone {
		t.Fatalf("signed by both: exit code %d, %s", code, errs)
	}
	c.until(a, "release 1", func(s control.Status) bool { return cluster.Settled(s, 1) == 1 })
}

// TestInjectAtTwoPeers injects one bundle at two peers at once: from one trust
// folder, by two operators with a copy each, and with rankings that contradict
// each other. All peers end with one ranking.
func TestInjectAtTwoPeers(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 3)
	first, last := c.Agents[0], c.Agents[2]
	path := c.small(2, c.trustDir())

	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for _, a := range []*cluster.Agent{first, last} {
		wg.Go(func() {
			code, _, errs := c.command(a, "inject", "--trust", c.trustDir(), path)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case code == exitDone:
				accepted++
			case code == exitRefused && strings.Contains(errs, "release 2 is here already"):
			case code == exitFailed && strings.Contains(errs, "another moult command has it open: wait for that to end"):
			default:
				t.Errorf("%s: exit code %d, %s", a.Name, code, errs)
			}
		})
	}
	wg.Wait()
	if accepted == 0 {
		t.Fatal("neither peer took it")
	}
	c.oneOrder(2)

	// Two operators, each with a copy of the folder, at one moment: they see the
	// same nodes, so they rank them alike, and at most their metadata differ.
	path = c.small(3, c.trustDir())
	c.injectBoth(path, map[*cluster.Agent]control.Signed{first: c.ranked(first, path, false), last: c.ranked(last, path, false)})
	c.must("trust", "refresh", "--trust", c.trustDir())
	c.must("trust", "push", "--trust", c.trustDir(), "--agent", first.Data)
	c.oneOrder(3)

	// Orders that contradict each other: no agent exchanges the one that it has
	// for the other, since it may have gone down under it. Whoever sees both says
	// so, and the next release is for all.
	path = c.small(4, c.trustDir())
	if c.injectBoth(path, map[*cluster.Agent]control.Signed{first: c.ranked(first, path, false), last: c.ranked(last, path, true)}) == 0 {
		c.until(last, "the alarm", func(s control.Status) bool {
			return strings.Contains(strings.Join(s.Alarms, "\n"), "somebody signed twice")
		})
	}
	if code, _, errs := c.command(first, "inject", "--trust", c.trustDir(), c.small(5, c.trustDir())); code != exitDone {
		t.Fatalf("the next release: exit code %d, %s", code, errs)
	}
	c.oneOrder(5)
}

// injectBoth injects a bundle with different orders at several peers at once.
// At least one of them takes it; it returns how many refused.
func (c *testCluster) injectBoth(path string, orders map[*cluster.Agent]control.Signed) (refused int) {
	c.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for a, signed := range orders {
		wg.Go(func() {
			_, err := a.API.Inject(c.t.Context(), bytes.NewReader(data), &signed)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			refused++
			if e, ok := errors.AsType[*control.Error](err); !ok || e.Kind != control.KindRefused || e.Hint == "" {
				c.t.Errorf("%s: %v, want a refusal with a hint", a.Name, err)
			}
		})
	}
	wg.Wait()
	if refused == len(orders) {
		c.t.Fatal("no peer took it")
	}
	return refused
}

// ranked signs the first order for a bundle with a copy of the trust folder,
// with the ranks turned round if so wished.
func (c *testCluster) ranked(a *cluster.Agent, path string, reversed bool) control.Signed {
	c.t.Helper()
	dir := filepath.Join(c.dir, fmt.Sprintf("trust-of-%s-%s", a.Name, filepath.Base(path)))
	if err := copyTrust(dir, c.trustDir()); err != nil {
		c.t.Fatal(err)
	}
	folder, err := trust.OpenFolder(dir, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	defer folder.Close()
	op := operator.New(folder)
	b, f, err := openBundle(path, folder.FirstRoot(), io.Discard)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	peer, err := a.API.Trust(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	status, err := a.API.Status(c.t.Context(), false)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := op.Absorb(peer.Set); err != nil {
		c.t.Fatal(err)
	}
	o, err := op.First(b, peer, status, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if reversed {
		slices.Reverse(o.Classes["kv"].Roster)
	}
	signed, err := op.Sign(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return *signed
}

// copyTrust copies a trust folder. Keys stay private.
func copyTrust(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
}

// oneOrder waits until the release is complete everywhere, and checks that all
// peers hold the same metadata and the same rollout order.
func (c *testCluster) oneOrder(v bundle.Version) {
	c.t.Helper()
	for _, a := range c.Agents {
		c.until(a, fmt.Sprintf("release %d to be complete", v), func(s control.Status) bool {
			return s.Release.Version == v && s.Release.State == control.StateComplete
		})
	}
	held := func(a *cluster.Agent) (control.Trust, *schedule.Order) {
		tr, err := a.API.Trust(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		o, err := schedule.ParseOrder(tr.Orders[v])
		if err != nil {
			c.t.Fatalf("%s: order of release %d: %v", a.Name, v, err)
		}
		return tr, o
	}
	set, order := held(c.Agents[0])
	for _, a := range c.Agents[1:] {
		s, o := held(a)
		if !slices.Equal(o.Classes["kv"].Roster, order.Classes["kv"].Roster) {
			c.t.Errorf("%s ranks %v, %s ranks %v", a.Name, o.Classes["kv"].Roster, c.Agents[0].Name, order.Classes["kv"].Roster)
		}
		if !bytes.Equal(s.Set, set.Set) {
			c.t.Errorf("%s and %s hold different metadata", a.Name, c.Agents[0].Name)
		}
	}
}
