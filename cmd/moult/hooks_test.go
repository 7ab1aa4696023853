//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
)

// TestMixedHooks has software say that it must not be stopped now, and later that it may;
// software that says it must never be, until an operator has another try; and software whose
// post_start fails, which nobody's call ever reaches: its node goes back, and the hook of what
// is up again is run.
func TestMixedHooks(t *testing.T) {
	if !*allKinds {
		t.Skip("takes half a minute; run `make mixed`")
	}
	c := newCluster(t, 1)
	a, said := c.Agents[0], filepath.Join(c.dir, "said")
	c.up(c.Agents)
	c.formed(1)
	says := func(word string) string {
		return fmt.Sprintf(`["/bin/sh", "-c", "echo %s at $MOULT_SERVICE_API >>'%s'"]`, word, said)
	}
	busy := fmt.Sprintf(`["/bin/sh", "-c", "echo stop 1 >>'%s'; [ $(grep -c stop '%s') -gt 1 ] || exit 21"]`, said, said)

	c.hooked(1, "pre_stop = "+busy+"\npost_start = "+says("start 1"))
	c.settledAt(a, 1, 1)
	c.hooked(2, "pre_stop = [\"/bin/sh\", \"-c\", \"exit 4\"]\npost_start = "+says("start 2"))
	c.until(a, "version 1 to be stopped another time", func(s control.Status) bool {
		return node(s, a.Name).Phase == "waiting" && strings.Contains(c.read(said), "stop 1")
	})
	if pid := c.pid(a); pid == 0 {
		t.Error("it was stopped all the same")
	}
	c.settledAt(a, 2, 1)
	pid := c.pid(a)
	c.hooked(3, `post_start = ["/bin/sh", "-c", "exit 3"]`)
	c.until(a, "version 2 to refuse to be stopped", func(s control.Status) bool {
		n := node(s, a.Name)
		return n.Phase == "held" && strings.Contains(n.Reason, "pre_stop of version 2") && strings.Contains(n.Reason, "exit status 4")
	})
	if now := c.pid(a); now != pid {
		t.Errorf("it was stopped all the same: process %d, was %d", now, pid)
	}
	if code, _, stderr := c.command(a, "retry", "--trust", c.trustDir(), a.Name); code != exitDone {
		t.Fatalf("retry: exit code %d: %s", code, stderr)
	}
	s := c.until(a, "version 3 to be given up", func(s control.Status) bool {
		n := node(s, a.Name)
		return n.Phase == "held" && strings.Contains(n.Reason, "post_start")
	})
	if n := node(s, a.Name); n.Version != 2 || !strings.Contains(n.Reason, "post_start of version 3") || !strings.Contains(n.Reason, "exit status 3") {
		t.Errorf("it is at version %d: %s", n.Version, n.Reason)
	}
	if now := c.pid(a); now == pid {
		t.Error("version 2 was never stopped, so this shows nothing")
	}
	var words []string
	for line := range strings.Lines(c.read(said)) {
		word, addr, _ := strings.Cut(strings.TrimSpace(line), " at ")
		if strings.HasPrefix(word, "start") && addr == "" {
			t.Errorf("%s: the address of its service is not known", word)
		}
		words = append(words, word)
	}
	if got, want := strings.Join(words, ", "), "start 1, stop 1, stop 1, start 2, start 2"; got != want {
		t.Errorf("the hooks were run so: %s; want %s", got, want)
	}
}

// hooked injects a release of the sample system with hooks.
func (c *testCluster) hooked(v bundle.Version, hooks string) {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), v)
	if err != nil {
		c.t.Fatal(err)
	}
	text := strings.Replace(c.read(path), "health {", "hooks {\n"+hooks+"\n}\nhealth {", 1)
	if err := c.inject(c.Agents[0], c.bundle(v, text)); err != nil {
		c.t.Fatal(err)
	}
}

// read is what a file has; "" where it is not there yet.
func (c *testCluster) read(path string) string {
	c.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	return string(data)
}
