//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/demo"
	"moult/testdata/kit"
)

// A release whose futureSO observes: while it waits beside version 1, it knows of
// every write of version 1's callers, and says so to callers of version 2.
func TestObserve(t *testing.T) {
	inMixed(t)
	eachKind(t, testObserve)
}

func testObserve(t *testing.T, k kind) {
	defer http.DefaultClient.CloseIdleConnections()
	c := newCluster(t, 1)
	c.use(k, "")
	n1 := c.Agents[0]
	c.up(c.Agents)
	c.formed(1)
	c.releaseAt(n1, 1, spec{})
	c.settledAt(n1, 1, 1)
	if err := put(n1, "before", "it was there"); err != nil {
		t.Fatal(err)
	}
	// Whoever is connected by now may go past the agent for as long as that lasts.
	early, err := net.Dial("tcp", n1.Versioned(1))
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	ask := func() error {
		if _, err := io.WriteString(early, "GET /healthz HTTP/1.1\r\nHost: n1\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(early), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	kit.Guest(t, filepath.Join(c.dir, "writes.wasm"), "writes")
	path, err := demo.WriteSpec(c.dir, c.software(), 2)
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
	s := c.until(n1, "the object", func(s control.Status) bool {
		_, answered := node(s, n1.Name).Services["api"].Versions[2]
		return answered
	})
	if k.attach == "steer" || k.attach == "inherit" {
		if observation(s).Whole {
			t.Error("it is told that it sees every call, and one connection goes past the agent")
		}
		if err := ask(); err != nil {
			t.Errorf("a connection from before: %v", err)
		}
	}
	early.Close()
	c.until(n1, "the object to observe", func(s control.Status) bool { return observation(s).Whole })
	const writes = 5
	for i := range writes {
		if err := put(n1, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
		told := func() ([]byte, error) { return answer(http.Get("http://" + n1.Versioned(2) + "/v2/writes")) }
		got, err := told()
		if err != nil && strings.Contains(err.Error(), "has not been told yet of all calls") {
			// A caller waits for that, but not for long on a busy machine.
			c.until(n1, "the object to be told", func(s control.Status) bool { return observation(s).Told == uint64(i+1) })
			got, err = told()
		}
		if want := fmt.Sprintf(`{"writes":%d}`, i+1); err != nil || string(got) != want {
			t.Errorf("after %d writes a caller of version 2 hears %s, %v", i+1, got, err)
		}
	}
	if _, err := get(n1, 1, "k0"); err != nil {
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
	c.up(c.Agents)
	c.until(n1, "the object to observe again", func(s control.Status) bool { return observation(s).Whole })
	_, err = answer(http.Get("http://" + n1.Versioned(2) + "/v2/writes"))
	if err == nil || !strings.Contains(err.Error(), "409") || !strings.Contains(err.Error(), "how many writes there were is not known") {
		t.Errorf("after a crash a caller of version 2 hears %v", err)
	}
}
