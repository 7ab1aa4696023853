package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/config"
	"moult/agent/control"
	"moult/agent/upgrade"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// observerCommand makes the test binary be a simulation object that observes.
const observerCommand = "test-observer"

// beObserver keeps what it is told of in its state, and says it to its callers.
func beObserver() int {
	ln, err := net.FileListener(os.NewFile(3, "api"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	kept := filepath.Join(os.Getenv("MOULT_STATE"), "events")
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != os.Getenv("MOULT_OBSERVED") {
				data, _ := os.ReadFile(kept)
				_, _ = w.Write(data)
				return
			}
			var e so.Observed
			f, err := os.OpenFile(kept, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err == nil {
				err = json.NewDecoder(r.Body).Decode(&e)
			}
			if err == nil {
				_, err = fmt.Fprintln(f, strings.TrimSpace(e.Event+" "+e.Method+" "+e.URI+" "+string(e.Request.Body)))
				f.Close()
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}))
	}()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	return 0
}

// httpNode has the node's software be one that speaks HTTP.
func (b *objectsBench) httpNode(v bundle.Version) {
	b.t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	b.t.Cleanup(srv.Close)
	b.software(v)
	b.live.backends = map[string]string{"api": srv.Listener.Addr().String()}
}

func newObservingBench(t *testing.T, cfg config.Config) *objectsBench {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &objectsBench{bench: newBench(t, cfg, 1), exe: exe}
	b.pack("true")
	b.do(func() {
		b.releases(1, 2, func(v bundle.Version, cu *bundle.ClassUpgrade) {
			cu.Artifacts = []bundle.Artifact{b.artifact}
			cu.Health.DrainTimeout = bundle.Duration(20 * time.Second)
			if v == 2 {
				cu.Future = bundle.Simulation{Kind: bundle.SimulateExec, Exec: []string{b.exe, observerCommand}, Observe: true}
			}
		})
		b.httpNode(1)
	})
	b.until("callers of version 2 are answered", b.answered(2))
	b.until("its object to observe", func() bool {
		o := b.local().Objects[0].Observation
		return o != nil && o.Whole && o.Waiting == 0
	})
	return b
}

func (b *objectsBench) call(method string, v bundle.Version, path, body string) string {
	b.t.Helper()
	var addr string
	b.do(func() { addr = b.at(v) })
	r, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

// A futureSO that observes knows of the calls of the node's own version before
// anybody can ask it, over a node that goes down and comes back; and it is told that
// it may have missed some when another agent comes.
func TestObserving(t *testing.T) {
	cfg := benchConfig(t)
	b := newObservingBench(t, cfg)
	defer http.DefaultClient.CloseIdleConnections()
	b.call("PUT", 1, "/x", "1")
	b.call("PUT", 1, "/y", "2")
	want := "begin\ncall PUT /x 1\ncall PUT /y 2\n"
	if got := b.call("GET", 2, "/", ""); got != want {
		t.Errorf("it knows of %q, want %q", got, want)
	}
	var status control.ObjectStatus
	b.until("the figures", func() bool {
		status = b.local().Objects[0]
		return status.Observation.Told == 2
	})
	if *status.Observation != (control.ObservationStatus{Told: 2, Whole: true}) || status.Counted.Calls != 1 {
		t.Errorf("%+v, %+v", status, status.Observation)
	}

	// Down, and back after a roll-back: it has missed nothing.
	attempt := upgrade.State{Phase: upgrade.Draining, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1}
	b.do(func() { b.in(attempt); b.route() })
	if err := b.stopSoftware(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.do(func() {
		if n := len(b.objects.Processes()); n != 0 {
			t.Errorf("the node is down, and there are %d objects", n)
		}
		attempt.Phase, attempt.Step = upgrade.RollingBack, 2
		b.in(attempt)
		b.httpNode(1)
		b.in(upgrade.State{Phase: upgrade.Held, Version: 1, Running: 1, Served: true, EndedRelease: 2, EndedCount: 1, Step: 3})
	})
	b.until("callers of version 2 are answered again", b.answered(2))
	b.call("PUT", 1, "/z", "3")
	want += "call PUT /z 3\n"
	if got := b.call("GET", 2, "/", ""); got != want {
		t.Errorf("after a roll-back it knows of %q, want %q", got, want)
	}

	// Another agent does not know what this one had not told yet.
	http.DefaultClient.CloseIdleConnections()
	b.close()
	b = newObservingBench(t, cfg)
	b.call("PUT", 1, "/x", "4")
	want += "missed\nbegin\ncall PUT /x 4\n"
	if got := b.call("GET", 2, "/", ""); got != want {
		t.Errorf("of another agent it knows %q, want %q", got, want)
	}
}
