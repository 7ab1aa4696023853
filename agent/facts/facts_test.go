package facts

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/agent/process"
	"moult/gossip/view"
	"moult/store/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const page = `# HELP http_errors_total calls that failed
# TYPE http_errors_total counter
http_errors_total{code="500",path="/a"} 3
http_errors_total{code="500",path="/b"} 4
http_errors_total{code="404",path="/a"} 100
# TYPE took histogram
took_bucket{le="1"} 2
took_bucket{le="+Inf"} 5
took_sum 7.5
took_count 5
# TYPE load gauge
load 0.25
odd NaN
`

// served is software with some answers.
func served(t *testing.T) (Software, *httptest.Server) {
	t.Helper()
	hang := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"height": 1200000, "calls": {"a/b": [1, 2.5e-3], "~": "7"}, "huge": 1e999, "no": null}`)
	})
	mux.HandleFunc("/number", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, " 12.5\n") })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("1", maxAnswer+1)) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"a": 1} {`) })
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/number", http.StatusFound) })
	mux.HandleFunc("/hangs", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(func() { close(hang); server.Close() })
	dir := t.TempDir()
	return Software{
		Addr: func(service string) (string, bool) { return server.Listener.Addr().String(), service == "api" },
		Spec: func() (process.Spec, error) { return process.Spec{Dir: dir, Env: os.Environ(), Marker: "17"}, nil },
	}, server
}

func TestAsk(t *testing.T) {
	s, _ := served(t)
	spec, _ := s.Spec()
	program := func(script string) []string {
		if runtime.GOOS == "windows" {
			return nil
		}
		path := filepath.Join(spec.Dir, "ask")
		if err := os.WriteFile(path, []byte("#!/bin/sh\ncase $1 in "+
			"good) echo 42; echo words >&2;; bad) echo 42; echo broken >&2; exit 3;; words) echo many;; long) yes 1 | head -c 9000;; marked) echo $MOULT_NODE;; hangs) sleep 100;; esac\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return []string{"./ask", script}
	}
	for _, c := range []struct {
		fact bundle.Fact
		want view.Fact // of the reason a part
	}{
		{bundle.Fact{HTTP: "/stats", Pointer: "/height"}, view.Fact{Value: 1200000}},
		{bundle.Fact{HTTP: "/stats", Pointer: "/calls/a~1b/1"}, view.Fact{Value: 0.0025}},
		{bundle.Fact{HTTP: "/number"}, view.Fact{Value: 12.5}},
		{bundle.Fact{HTTP: "/stats", Pointer: "/calls/~0"}, view.Fact{State: view.FactNotNumber, Reason: "/calls/~0 of the answer is no number"}},
		{bundle.Fact{HTTP: "/stats", Pointer: "/calls/a~1b/01"}, view.Fact{State: view.FactNotNumber, Reason: "has no /calls/a~1b/01"}},
		{bundle.Fact{HTTP: "/stats", Pointer: "/none"}, view.Fact{State: view.FactNotNumber, Reason: "has no /none"}},
		{bundle.Fact{HTTP: "/stats", Pointer: "/no"}, view.Fact{State: view.FactNotNumber, Reason: "is no number"}},
		{bundle.Fact{HTTP: "/stats", Pointer: "/huge"}, view.Fact{State: view.FactNotNumber, Reason: "1e999"}},
		{bundle.Fact{HTTP: "/broken", Pointer: "/a"}, view.Fact{State: view.FactNotNumber, Reason: "more after"}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `http_errors_total{code="500"}`}, view.Fact{Value: 7}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `http_errors_total`}, view.Fact{Value: 107}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `load`}, view.Fact{Value: 0.25}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `took_sum`}, view.Fact{Value: 7.5}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `took_count`}, view.Fact{Value: 5}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `took`}, view.Fact{State: view.FactNotNumber, Reason: "has no took"}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `load{a="b"}`}, view.Fact{State: view.FactNotNumber, Reason: "has no load"}},
		{bundle.Fact{HTTP: "/metrics", Prometheus: `odd`}, view.Fact{State: view.FactNotNumber, Reason: "odd is NaN"}},
		{bundle.Fact{HTTP: "/stats", Prometheus: `load`}, view.Fact{State: view.FactNotNumber, Reason: "no page of metrics"}},
		{bundle.Fact{HTTP: "/long"}, view.Fact{State: view.FactNoAnswer, Reason: "more than 1048576 bytes"}},
		{bundle.Fact{HTTP: "/nowhere"}, view.Fact{State: view.FactNoAnswer, Reason: "404"}},
		{bundle.Fact{HTTP: "/elsewhere"}, view.Fact{State: view.FactNoAnswer, Reason: "302"}},
		{bundle.Fact{HTTP: "/hangs", Timeout: bundle.Duration(50 * time.Millisecond)}, view.Fact{State: view.FactNoAnswer, Reason: "no answer within 50ms"}},
		{bundle.Fact{HTTP: "/stats", Service: "none"}, view.Fact{State: view.FactNoAnswer, Reason: "no service none"}},
		{bundle.Fact{Exec: program("good")}, view.Fact{Value: 42}},
		{bundle.Fact{Exec: program("marked")}, view.Fact{Value: 17}},
		{bundle.Fact{Exec: program("bad")}, view.Fact{State: view.FactNoAnswer, Reason: "exit status 3: broken"}},
		{bundle.Fact{Exec: program("words")}, view.Fact{State: view.FactNotNumber, Reason: `"many"`}},
		{bundle.Fact{Exec: program("long")}, view.Fact{State: view.FactNoAnswer, Reason: "more than 4096 bytes"}},
		{bundle.Fact{Exec: program("hangs"), Timeout: bundle.Duration(100 * time.Millisecond)}, view.Fact{State: view.FactNoAnswer, Reason: "no answer within 100ms"}},
	} {
		f := c.fact
		if f.HTTP == "" && f.Exec == nil {
			continue // no programs here
		}
		if f.Service == "" {
			f.Service = "api"
		}
		if f.Timeout == 0 {
			f.Timeout = bundle.Duration(time.Minute)
		}
		got := s.ask(t.Context(), f)
		if got.Value != c.want.Value || got.State != c.want.State || !strings.Contains(got.Reason, c.want.Reason) || (got.State == "") != (got.Reason == "") {
			t.Errorf("%+v: %+v, want %+v", c.fact, got, c.want)
		}
	}
}

// TestSample: nothing is told before all have been asked for, and what has changed is.
func TestSample(t *testing.T) {
	s, server := served(t)
	ctx, cancel := context.WithCancel(t.Context())
	all := make(chan map[string]view.Fact)
	ended := make(chan struct{})
	every := func(f bundle.Fact) bundle.Fact {
		f.Service, f.Every, f.Timeout = "api", bundle.Duration(10*time.Millisecond), bundle.Duration(200*time.Millisecond)
		return f
	}
	go func() {
		defer close(ended)
		Sample(ctx, s, map[string]bundle.Fact{"n": every(bundle.Fact{HTTP: "/number"}), "slow": every(bundle.Fact{HTTP: "/hangs"})}, func(f map[string]view.Fact) {
			select {
			case all <- f:
			case <-ctx.Done():
			}
		})
	}()
	first := <-all
	if len(first) != 2 || first["n"].Value != 12.5 || first["slow"].State != view.FactNoAnswer {
		t.Errorf("first %v", first)
	}
	server.CloseClientConnections()
	server.Listener.Close()
	if second := <-all; second["n"].State != view.FactNoAnswer || first["n"].Value != 12.5 {
		t.Errorf("then %v", second)
	}
	cancel()
	<-ended
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(page), `http_errors_total{code="500"}`, "/a/0")
	f.Add([]byte(`{"a":[1,{"~":2}]}`), "load", "/a/1/~0")
	f.Fuzz(func(t *testing.T, data []byte, selector, pointer string) {
		if _, err := inMetrics(data, selector); err != nil && len(err.Error()) > 1<<20 {
			t.Fatal("a long error")
		}
		if bundle.ValidPointer(pointer) {
			_, _ = inJSON(data, pointer)
		}
		_, _ = parse(string(data))
	})
}
