//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
)

// pushgateway keeps what is pushed to it in memory, and writes it to its state every five
// minutes, and when it is told to end: then calls that it has not answered are lost, which
// it does not wait for. It takes its listening socket as systemd gives it, or opens it.
var pushgateway = realProgram{
	name: "pushgateway", module: "github.com/prometheus/pushgateway",
	releases: [2]string{"v1.9.0", "v1.11.1"},
	services: []realService{{"web", "http"}},
	command:  `"--web.listen-address=${service.web}", "--persistence.file=${state}/metrics", "--log.level=warn"`,
	given:    `"--web.systemd-socket", "--persistence.file=${state}/metrics", "--log.level=warn"`,
	health:   `http = "/-/ready"`,
}

// TestRealPushgateway upgrades two Pushgateways while Prometheus's own client pushes to
// them and others scrape them, at the public address and at that of version 1, for which
// the kernel has other ways: no call fails, and every push that was acknowledged is in
// each scrape from then on.
func TestRealPushgateway(t *testing.T) {
	pushgateway.eachReal(t, func(t *testing.T, r *realCluster) {
		l := newPushLoad()
		r.upgrade(l)
		for i := range realNodes {
			for _, addr := range r.called(i) {
				pushServes(t, addr, pushgateway.releases[1])
				l.scrape(fmt.Sprint(i), addr)
			}
		}
		r.well()
	})
}

// pushServes checks which release answers at an address: the first knows no such flag.
func pushServes(t *testing.T, addr, release string) {
	t.Helper()
	data, err := answer(http.Get("http://" + addr + "/api/v1/status"))
	var status struct {
		Data struct {
			Flags map[string]string `json:"flags"`
		} `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(data, &status)
	}
	_, second := status.Data.Flags["push.enable-utf8-names"]
	if err != nil || second != (release == pushgateway.releases[1]) {
		t.Errorf("%s does not serve release %s: %v, %q", addr, release, err, status.Data.Flags)
	}
}

const (
	pushPace   = 80 * time.Millisecond // of one client
	scrapePace = 500 * time.Millisecond
	pushTry    = time.Minute // for one call
)

// pushLoad is clients that push and scrape, and what they found.
type pushLoad struct {
	*realLoad
	acked map[string]map[string]bool // mu; samples, by node
}

func newPushLoad() *pushLoad { return &pushLoad{newRealLoad(), map[string]map[string]bool{}} }

func (l *pushLoad) start(r *realCluster) {
	for i := range realNodes {
		for _, addr := range r.called(i) {
			pushServes(r.t, addr, pushgateway.releases[0])
			l.goesOn("pushes to " + addr)
			for _, lasting := range []bool{false, true} {
				client := realClient(lasting)
				r.t.Cleanup(client.CloseIdleConnections)
				l.wg.Go(func() {
					l.each(pushPace, func(n int) bool {
						l.push(client, lasting, fmt.Sprint(i), addr, n)
						return true
					})
				})
			}
			l.wg.Go(func() {
				l.each(scrapePace, func(int) bool { l.scrape(fmt.Sprint(i), addr); return true })
			})
		}
	}
}

// push pushes one sample, in a group of its own.
func (l *pushLoad) push(client *http.Client, lasting bool, node, addr string, n int) {
	instance := fmt.Sprintf("%s-%v-%d", addr, lasting, n)
	value := prometheus.NewGauge(prometheus.GaugeOpts{Name: "proof", ConstLabels: prometheus.Labels{"text": pushText}})
	value.Set(float64(n))
	ctx, cancel := context.WithTimeout(context.Background(), pushTry)
	defer cancel()
	pusher := push.New(addr, "moult").Grouping("instance", instance).Collector(value).Client(client)
	do := pusher.AddContext // POST
	if lasting {
		pusher.Header(http.Header{"Idempotency-Key": {}}) // as realClient says
		do = pusher.PushContext                           // PUT
	}
	began := time.Now()
	if err := do(ctx); err != nil {
		l.fail("push to %s, of one that lasts %v: %v", addr, lasting, err)
		return
	}
	l.did("pushes to "+addr, time.Since(began))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[node] == nil {
		l.acked[node] = map[string]bool{}
	}
	l.acked[node][pushSample(instance, n)] = true
}

const pushText = "é✓ <&>"

// pushSample is a sample as it is when it is scraped.
func pushSample(instance string, n int) string {
	return fmt.Sprintf(`proof{instance=%q,job="moult",text=%q} %d`, instance, pushText, n)
}

// scrape reads what a node has, and compares it with what was acknowledged before.
func (l *pushLoad) scrape(node, addr string) {
	l.mu.Lock()
	want := maps.Clone(l.acked[node])
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), pushTry)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		panic(err) // it is made of constants
	}
	began := time.Now()
	data, err := answer(http.DefaultClient.Do(req))
	if err != nil {
		l.fail("scrape %s: %v", addr, err)
		return
	}
	l.did("scrapes of "+addr, time.Since(began))
	for line := range strings.Lines(string(data)) {
		delete(want, strings.TrimSuffix(line, "\n"))
	}
	for _, sample := range slices.Sorted(maps.Keys(want)) {
		l.fail("%s was acknowledged by node %s and is not at %s", sample, node, addr)
	}
}

// TestRealPushgatewayCatches runs its load against a server that errs.
func TestRealPushgatewayCatches(t *testing.T) {
	for fault, want := range map[string]string{
		"":        "",
		"refused": "unexpected status code 503",
		"closed":  "EOF",
		"lost":    "was acknowledged by node 1 and is not at",
		"altered": "was acknowledged by node 1 and is not at",
		"unread":  "scrape",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			gateway := &fakeGateway{fault: fault}
			server := httptest.NewServer(gateway)
			defer server.Close()
			addr := server.Listener.Addr().String()
			l := newPushLoad()
			for n, lasting := range []bool{false, true} {
				client := realClient(lasting)
				l.push(client, lasting, "1", addr, n)
				client.CloseIdleConnections()
			}
			l.scrape("1", addr)
			got := strings.Join(l.wrong(), "\n")
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

// fakeGateway answers as a Pushgateway does, but for one fault.
type fakeGateway struct {
	fault   string
	mu      sync.Mutex
	samples []string // mu
}

func (g *fakeGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body)
	switch {
	case r.Method == http.MethodGet && g.fault == "unread", r.Method != http.MethodGet && g.fault == "closed":
		panic(http.ErrAbortHandler)
	case r.Method == http.MethodGet:
		fmt.Fprintln(w, strings.Join(g.samples, "\n"))
	case g.fault == "refused":
		w.WriteHeader(http.StatusServiceUnavailable)
	case g.fault == "lost" && r.Method == http.MethodPut:
	default:
		_, instance, _ := strings.Cut(r.URL.Path, "/instance/")
		n, _ := strconv.Atoi(instance[strings.LastIndex(instance, "-")+1:])
		if g.fault == "altered" {
			n++
		}
		g.samples = append(g.samples, pushSample(instance, n))
	}
}
