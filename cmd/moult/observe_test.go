package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
)

// wasmSample builds a guest of testdata/wasm.
func wasmSample(t *testing.T, name, out string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, ".")
	cmd.Dir = filepath.Join("..", "..", "testdata", "wasm", name)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest %s: %v: %s", name, err, text)
	}
}

// A release whose futureSO observes: while it waits beside version 1, it knows of
// every write of version 1's callers, and says so to callers of version 2.
func TestObserve(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	c := newCluster(t, 1)
	n1 := c.agents[0]
	c.up(c.agents)
	c.formed(1)
	c.releaseAt(n1, 1, spec{})
	c.settledAt(n1, 1, 1)
	if err := n1.put("before", "it was there"); err != nil {
		t.Fatal(err)
	}
	wasmSample(t, "writes", filepath.Join(c.dir, "writes.wasm"))
	path, err := writeDemoSpec(c.dir, c.exe, 2)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const rules = `rules = "rules/future-2.hcl"`
	if strings.Count(string(text), rules) != 1 {
		t.Fatalf("the release has no %s:\n%s", rules, text)
	}
	release := strings.Replace(string(text), rules, "wasm = \"writes.wasm\"\n      observe = true", 1)
	release = strings.Replace(release, `"rolling"`, `"manual"`, 1)
	if err := c.inject(n1, c.bundle(2, wavePattern.ReplaceAllString(release, ""))); err != nil {
		t.Fatal(err)
	}
	observation := func(s control.Status) control.ObservationStatus {
		if o, ok := callersOf(s, 2); ok && o.Observation != nil {
			return *o.Observation
		}
		return control.ObservationStatus{}
	}
	c.until(n1, "the object to observe", func(s control.Status) bool {
		_, answered := node(s, n1.name).Services["api"].Versions[2]
		return answered && observation(s).Whole
	})
	const writes = 5
	for i := range writes {
		if err := n1.put(fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
		got, err := answer(http.Get("http://" + n1.versioned(2) + "/v2/writes"))
		if want := fmt.Sprintf(`{"writes":%d}`, i+1); err != nil || string(got) != want {
			t.Errorf("after %d writes a caller of version 2 hears %s, %v", i+1, got, err)
		}
	}
	if _, err := n1.get(1, "k0"); err != nil {
		t.Error(err)
	}
	c.until(n1, "the figures", func(s control.Status) bool {
		o := observation(s)
		return o.Told == writes+1 && o.Missed == 0 && o.Waiting == 0
	})
	if _, out, _ := c.command(n1, "status"); !strings.Contains(out, fmt.Sprintf("2→1: it was told of %d calls of version 1; 0 wait, 0 were missed\n", writes+1)) {
		t.Errorf("status says\n%s", out)
	}

	// After a crash of the agent it may have missed something, and denies.
	c.kill(n1)
	c.up(c.agents)
	c.until(n1, "the object to observe again", func(s control.Status) bool { return observation(s).Whole })
	_, err = answer(http.Get("http://" + n1.versioned(2) + "/v2/writes"))
	if err == nil || !strings.Contains(err.Error(), "409") || !strings.Contains(err.Error(), "how many writes there were is not known") {
		t.Errorf("after a crash a caller of version 2 hears %v", err)
	}
}
