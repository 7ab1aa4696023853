package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"moult/agent/control"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

var quiet = slog.New(slog.DiscardHandler)

func sample() Snapshot {
	own := bundle.NodeID{1}
	var took tally.Histograms
	took[tally.Answered] = tally.Histogram{Total: 62 * time.Second}
	took[tally.Answered].Buckets[0], took[tally.Answered].Buckets[len(tally.Bounds())] = 3, 1
	return Snapshot{
		Taken: 7, Served: 9, Gossip: map[string]Moved{"ring": {11, 12}}, Database: 13, Depot: 14,
		Services: map[string]map[bundle.Version]tally.Calls{"api": {20: {Held: 5, Waited: 7 * time.Second}}},
		Took:     map[string]map[bundle.Version]tally.Histograms{"api": {20: took}},
		Node:     own, Fetched: 1 << 20, FreeBytes: 5 << 30, InFlight: 2, Held: 1, LongestHold: 1500 * time.Millisecond,
		Status: control.Status{
			Head: 20, Alarms: []string{"one"}, Expires: time.Unix(2_000_000_000, 0), Lasts: time.Unix(2_100_000_000, 0),
			Release: control.ReleaseStatus{Version: 20, State: control.StateRolling},
			Classes: map[bundle.Class]control.ClassStatus{"kv": {Total: 3, Settled: 1, Down: 1, Waiting: 1, Budget: 1}},
			Nodes: []control.NodeStatus{
				{ID: own, Name: "n1", Class: "kv", Version: 20, Running: 20, Phase: "settled", Health: "well", Progress: 1, Reachable: true},
				{ID: bundle.NodeID{2}, Class: "kv", Version: 19, Target: 20, Phase: "transforming", Reachable: true},
				{ID: bundle.NodeID{3}, Class: "kv", Version: 2, Phase: "waiting"},
				{ID: bundle.NodeID{4}, Class: "kv", Version: 3, Phase: "waiting"},
				{ID: bundle.NodeID{5}, Class: "kv", Version: 3, Standing: "left"},
			},
			Local: control.Local{
				Name: "n1", Class: "kv", Native: 20,
				Services: map[string]control.LocalService{"api": {Callers: map[bundle.Version]control.CallCount{
					20: {Calls: 10, Denied: 2, Errors: 1, Canceled: 3, Open: 3, Total: bundle.Duration(time.Second), Mean: bundle.Duration(100 * time.Millisecond)},
					2:  {Calls: 2, Denied: 2, Total: bundle.Duration(3 * time.Second)},
				}}},
				Objects: []control.ObjectStatus{{Callers: 19, Side: control.SidePast, State: control.ObjectRunning, Restarts: 2, Counted: control.CallCount{Calls: 4, Errors: 1}}},
			},
		},
	}
}

// gather returns what a scrape shows of ours, a line each.
func gather(t *testing.T, x Snapshot) (lines []string) {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(&collector{source: func(context.Context) (Snapshot, error) { return x, nil }})
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	w := httptest.NewRecorder()
	Handler(func(context.Context) (Snapshot, error) { return x, nil }, quiet).ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "moult_") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

func TestScrape(t *testing.T) {
	text := strings.Join(gather(t, sample()), "\n")
	for _, want := range []string{
		`moult_agent_info{class="kv",id="` + bundle.NodeID{1}.String() + `",node="n1"} 1`,
		`moult_alarms 1`,
		`moult_node_phase{phase="settled"} 1`, `moult_node_phase{phase="waiting"} 0`,
		`moult_node_health{state="well"} 1`,
		`moult_release_state{state="rolling"} 1`, `moult_release_state{state="complete"} 0`,
		`moult_class_nodes{class="kv",state="down"} 1`, `moult_class_budget{class="kv"} 1`,
		// Old versions together, and who counts for nothing not at all.
		`moult_nodes{class="kv",version="20"} 1`, `moult_nodes{class="kv",version="older"} 2`,
		`moult_nodes_unreachable{class="kv"} 2`,
		`moult_calls_total{callers="20",outcome="answered",service="api"} 4`,
		`moult_calls_total{callers="20",outcome="canceled",service="api"} 3`,
		`moult_calls_total{callers="20",outcome="denied",service="api"} 2`,
		`moult_calls_total{callers="20",outcome="failed",service="api"} 1`,
		`moult_calls_total{callers="2",outcome="denied",service="api"} 2`,
		`moult_call_duration_seconds_bucket{callers="20",outcome="answered",service="api",le="0.005"} 3`,
		`moult_call_duration_seconds_bucket{callers="20",outcome="answered",service="api",le="10"} 3`,
		`moult_call_duration_seconds_bucket{callers="20",outcome="answered",service="api",le="+Inf"} 4`,
		`moult_call_duration_seconds_sum{callers="20",outcome="answered",service="api"} 62`,
		`moult_call_duration_seconds_count{callers="20",outcome="answered",service="api"} 4`,
		`moult_holds_total{callers="20",service="api"} 5`, `moult_hold_seconds_total{callers="20",service="api"} 7`,
		`moult_calls_open{callers="20",service="api"} 3`,
		`moult_calls_longest_hold_seconds 1.5`,
		`moult_object_calls_total{callers="19",outcome="answered",side="past"} 3`,
		`moult_object_state{callers="19",side="past",state="running"} 1`,
		`moult_object_restarts_total{callers="19",side="past"} 2`,
		`moult_fetched_bytes_total{source="peers"} 1.048576e+06`, `moult_fetched_bytes_total{source="bundle"} 7`,
		`moult_served_bytes_total 9`,
		`moult_gossip_bytes_total{direction="in",kind="ring"} 11`, `moult_gossip_bytes_total{direction="out",kind="ring"} 12`,
		`moult_view_records 5`,
		`moult_stored_bytes{part="database"} 13`, `moult_stored_bytes{part="depot"} 14`,
		`moult_metadata_expiry_timestamp_seconds 2e+09`, `moult_metadata_lasts_timestamp_seconds 2.1e+09`,
	} {
		if !strings.Contains(text+"\n", want+"\n") {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}

// However many versions nodes are at, labels have few values.
func TestFewSeries(t *testing.T) {
	x := sample()
	few := len(gather(t, x))
	for v := range bundle.Version(1000) {
		x.Status.Nodes = append(x.Status.Nodes, control.NodeStatus{ID: bundle.NodeID{9, byte(v), byte(v >> 8)}, Class: "kv", Version: v + 1, Phase: "waiting"})
	}
	x.Status.Head = 1000
	if n := len(gather(t, x)); n > few+maxVersions {
		t.Errorf("%d series, %d with few versions", n, few)
	}
}

// Many scrapes at once are one question to the agent.
func TestScrapesShareASnapshot(t *testing.T) {
	var asked atomic.Int32
	h := Handler(func(context.Context) (Snapshot, error) {
		asked.Add(1)
		return sample(), nil
	}, quiet)
	before := time.Now()
	var all sync.WaitGroup
	for range maxScrapes {
		all.Go(func() {
			for range 20 {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, Path, nil))
			}
		})
	}
	all.Wait()
	if most := 1 + time.Since(before)/lasting; time.Duration(asked.Load()) > most {
		t.Errorf("asked %d times, at most %d", asked.Load(), most)
	}
}

// An agent that does not answer has no figures: a scrape must not show old ones or none as 0.
func TestScrapeFails(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(func(context.Context) (Snapshot, error) { return Snapshot{}, errors.New("it is ending") }, quiet).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "it is ending") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

const docs = "../../docs/"

// TestDocMetrics compares docs/metrics.md with the code.
func TestDocMetrics(t *testing.T) {
	doc, err := os.ReadFile(docs + "metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, m := range all {
		labels := make([]string, 0, len(m.labels))
		for _, l := range m.labels {
			labels = append(labels, "`"+l+"`")
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(labels, ", "), m.help)
	}
	if !strings.Contains(string(doc), want.String()) {
		t.Errorf("docs/metrics.md does not have this table:\n%s", want.String())
	}
}

// TestAlerts has Prometheus' own tool check the rules for alerts, and run their tests.
func TestAlerts(t *testing.T) {
	text, err := os.ReadFile(docs + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range unknown(string(text)) {
		t.Errorf("the rules speak of %s, which no agent shows", name)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool, of Debian's package prometheus, is not here: the rules for alerts are not run")
	}
	for _, args := range [][]string{{"check", "rules", docs + "alerts.yml"}, {"test", "rules", "testdata/alerts_test.yml"}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestServe ends with its scrapes.
func TestServe(t *testing.T) {
	l := httptest.NewUnstartedServer(nil).Listener
	begun, ended := make(chan struct{}), make(chan struct{})
	s := Serve(l, func(ctx context.Context) (Snapshot, error) {
		close(begun)
		<-ended
		return Snapshot{}, errors.New("ended")
	}, quiet)
	got := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String() + Path)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		got <- err
	}()
	<-begun
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-got; err == nil {
		t.Error("the scrape goes on")
	}
	close(ended)
}
