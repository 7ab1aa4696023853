//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/cmd/moult/internal/screen"
	"moult/gossip/view"
	"moult/store/bundle"
)

// rehearsed builds and injects release v, as toRehearse has it.
func (c *testCluster) rehearsed(a *cluster.Agent, v bundle.Version, rehearse string, change ...string) {
	c.t.Helper()
	if err := c.inject(a, c.toRehearse(a, v, rehearse, change...)); err != nil {
		c.t.Fatal(err)
	}
}

// toRehearse builds release v, which takes the nodes from version 1 with the sample system's
// version 2, after a rehearsal; change says what is different.
func (c *testCluster) toRehearse(a *cluster.Agent, v bundle.Version, rehearse string, change ...string) string {
	c.t.Helper()
	return c.varied(a, v, 2, append(change, "past {", "rehearse {\n"+rehearse+"\n}\npast {")...)
}

// varied builds release v out of the spec of one of the sample system; change says from what
// text to what text.
func (c *testCluster) varied(a *cluster.Agent, v, of bundle.Version, change ...string) string {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), of)
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(data)
	change = append(change, fmt.Sprintf("version = %d", of), fmt.Sprintf("version = %d", v))
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(text, change[i]) {
			c.t.Fatalf("the spec has no %q", change[i])
		}
		text = strings.ReplaceAll(text, change[i], change[i+1])
	}
	path = filepath.Join(c.dir, fmt.Sprintf("varied-%d.hcl", v))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	out := filepath.Join(c.dir, fmt.Sprintf("varied-%d.moult", v))
	c.must("bundle", "build", "--agent", a.Data, "--trust", c.trustDir(), "-f", path, "--out", out)
	return out
}

// wentDown counts how often nodes have gone down for a release.
func (c *testCluster) wentDown() (n int) {
	c.t.Helper()
	for _, a := range c.Agents {
		data, err := os.ReadFile(filepath.Join(a.Data, "agent.log"))
		if err != nil {
			c.t.Fatal(err)
		}
		n += strings.Count(string(data), `"to":"draining"`)
	}
	return n
}

// pausesRehearsals pauses a rollout while a node rehearses, looks whether nothing of that
// runs on, and resumes it.
func (c *testCluster) pausesRehearsals(a *cluster.Agent) {
	c.t.Helper()
	c.until(a, "a rehearsal", func(s control.Status) bool {
		return slices.ContainsFunc(s.Nodes, func(n control.NodeStatus) bool { return n.Phase == "rehearsing" && n.Reason == "" })
	})
	c.must("pause", "--agent", a.Data, "--trust", c.trustDir())
	c.until(a, "nobody to rehearse", func(s control.Status) bool {
		for i, n := range s.Nodes {
			_, err := os.Stat(filepath.Join(c.Agents[i].Data, "rehearsal"))
			if !errors.Is(err, fs.ErrNotExist) || n.Phase != "held" && !strings.Contains(n.Reason, "is paused") {
				return false
			}
		}
		return true
	})
	c.must("resume", "--agent", a.Data, "--trust", c.trustDir())
}

// planned checks that the plan of a bundle tells of rehearsals: two went well, and that of n3 not.
func (c *testCluster) planned(a *cluster.Agent, path string) {
	c.t.Helper()
	code, out, errs := c.command(a, "plan", "--trust", c.trustDir(), path)
	for _, want := range []string{
		`(?m) n1 .* waiting +(canary, )?rehearsed in [\d.]+m?s$`, `(?m) n3 .* held .*its rehearsal failed, after [\d.]+m?s: .*cannot parse key-1`,
		`(?m)^  expected: about .* for the 2 that are yet to go, each down for about [\d.]+m?s: by the rehearsals of 2 of them, `,
	} {
		if code != exitDone || !regexp.MustCompile(want).MatchString(out) {
			c.t.Errorf("plan: exit code %d, %s; want %s\n%s", code, errs, want, out)
		}
	}
}

// TestRehearse: releases that cannot take the fleet's data are stopped before any node has
// been down, each on the node where it shows; then one that can is taken by all.
func TestRehearse(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 3)
	first := c.Agents[0]
	c.up(c.Agents)
	c.formed(3)
	c.releaseAt(first, 1, spec{})
	c.settledAt(first, 1, 3)
	for _, a := range c.Agents {
		c.fill(a)
	}
	// The state of one node alone is what it cannot read.
	onlyThere := "case $MOULT_OLD in */n3/*) echo cannot parse key-1; exit 1;; esac; exec ./kv sample-node 2 migrate"
	migrate := `exec = ["./kv", "sample-node", "2", "migrate"]`
	good := `check = ["/bin/sh", "-c", "test -n \"$MOULT_SERVICE_API\" && test -n \"$MOULT_PAST_API\" && test -d \"$MOULT_STATE\""]`
	for i, bad := range []struct {
		rehearse, old, is, want string
	}{
		{"", migrate, fmt.Sprintf(`exec = ["/bin/sh", "-c", %q]`, onlyThere), "cannot parse key-1"},
		{"", `"/healthz"`, `"/never"`, "it was not ready"},
		{`check = ["/bin/sh", "-c", "echo wrong answers; exit 3"]`, "hold", "hold", "its check failed: /bin/sh -c echo wrong answers; exit 3: exit status 3; its last output: wrong answers"},
		{`timeout = "3s"`, migrate, `exec = ["/bin/sh", "-c", "sleep 1000"]`, "not done after 3s (rehearse.timeout): it was still to transform the copy to version 5"},
	} {
		v := bundle.Version(2 + i)
		c.rehearsed(first, v, bad.rehearse, bad.old, bad.is, `healthy_deadline = "1m"`, `healthy_deadline = "2s"`)
		if v == 5 {
			c.pausesRehearsals(first)
		}
		s := c.until(first, "all to have rehearsed", func(s control.Status) bool {
			ended := 0
			for _, n := range s.Nodes {
				if n.Rehearsed.Release == v && n.Rehearsed.Outcome != "" {
					ended++
				}
			}
			return ended == 3 && s.Release.Version == v && s.Release.State == control.StateHeld
		})
		for _, n := range s.Nodes {
			if i == 0 && n.Name != "n3" {
				if n.Phase != "waiting" || n.Rehearsed.Outcome != "ok" {
					t.Errorf("release %d: %s is %s, and says of its rehearsal %+v", v, n.Name, n.Phase, n.Rehearsed)
				}
				continue
			}
			if n.Version != 1 || n.Rehearsed.Release != v || string(n.Rehearsed.Outcome) != "failed" || !strings.Contains(n.Rehearsed.Reason, bad.want) {
				t.Errorf("release %d: %s says of its rehearsal %+v, want %q", v, n.Name, n.Rehearsed, bad.want)
			}
		}
		if i == 0 {
			c.planned(first, filepath.Join(c.dir, "varied-2.moult"))
		}
		if w := c.why(first, "n3"); w.Command != "moult retry n3" || !strings.Contains(w.Reason, "its rehearsal failed: ") || !strings.Contains(w.Reason, fmt.Sprintf("`moult withdraw --class kv %d`", v)) {
			t.Errorf("why n3 says %q: %s", w.Command, w.Reason)
		}
		c.must("abort", "--yes", "--agent", first.Data, "--trust", c.trustDir())
		c.until(first, "the abort", func(s control.Status) bool { return s.Release.State == control.StateAborted })
		c.must("withdraw", "--yes", "--agent", first.Data, "--trust", c.trustDir(), "--class", "kv", fmt.Sprint(v))
	}
	if n := c.wentDown(); n != 0 {
		t.Errorf("nodes were down %d times", n)
	}
	for _, a := range c.Agents {
		c.speaks(a, 1, 1)
	}

	// One that cannot be made says so, and how others go on.
	c.rehearsed(first, 6, "", migrate, `exec = ["/bin/sh", "-c", "echo not now; exit 21"]`)
	tries := ""
	c.until(first, "a rehearsal that is tried again", func(s control.Status) bool {
		i := slices.IndexFunc(s.Nodes, func(n control.NodeStatus) bool { return strings.Contains(n.Reason, "is tried again: ") })
		if i >= 0 {
			tries = s.Nodes[i].Name
		}
		return i >= 0
	})
	if w := c.why(first, tries); w.Command != "moult skip --release 6 "+tries || !strings.Contains(w.Reason, "not now") {
		t.Errorf("why %s says %q: %s", tries, w.Command, w.Reason)
	}
	c.must("abort", "--yes", "--agent", first.Data, "--trust", c.trustDir())
	c.until(first, "the abort", func(s control.Status) bool { return s.Release.State == control.StateAborted })
	c.must("withdraw", "--yes", "--agent", first.Data, "--trust", c.trustDir(), "--class", "kv", "6")

	c.rehearsed(first, 7, good)
	c.complete(first, 7, 3)
	for _, n := range c.until(first, "all to say so", func(s control.Status) bool { return cluster.Settled(s, 7) == 3 }).Nodes {
		if n.Rehearsed.Release != 7 || n.Rehearsed.Outcome != "ok" {
			t.Errorf("%s says of its rehearsal %+v", n.Name, n.Rehearsed)
		}
	}
	if n := c.wentDown(); n != 3 {
		t.Errorf("nodes were down %d times for release 7, so what was counted before shows nothing", n)
	}
}

// TestRehearsalSpeaksPlainly: what a release's programs say does not steer the terminal, and
// what is shown meanwhile is gone before the report.
func TestRehearsalSpeaksPlainly(t *testing.T) {
	var out strings.Builder
	r, err := showing(&screen.Progress{To: &out, Width: func() int { return 80 }}, func(told func(control.RehearsalNews)) (control.Rehearsal, error) {
		told(control.RehearsalNews{Begins: "copy the state"})
		return control.Rehearsal{Outcome: view.RehearsalOK, Reason: "no\x1b[2J\nnetwork\u009b\u202e"}, nil
	})
	if err != nil || !strings.HasSuffix(out.String(), "…\x1b[K\r\x1b[K") {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := printRehearsal(&out, r); err != nil {
		t.Fatal(err)
	}
	r.Outcome = view.RehearsalFailed
	tellError(&out, nil, rehearsalError(r))
	tellError(&out, nil, errors.New(r.Reason))
	if text := out.String(); strings.ContainsAny(text, "\x1b\u009b\u202e") || strings.Count(text, "no\uFFFD[2J network") != 2 {
		t.Errorf("%q", text)
	}
	if text := screen.Short("a\xff\x1b]0;b"); text != "a\uFFFD\uFFFD]0;b" {
		t.Errorf("%q", text)
	}
}
