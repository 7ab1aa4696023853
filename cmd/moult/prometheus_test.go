//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/testdata/kit"
)

// monitor is a Prometheus that scrapes the agents of a test as the job "moult", with the rules
// of docs/alerts.yml. A test has no hours: what a rule asks to last (for) is a second here, and
// all else of it as it stands there.
type monitor struct {
	t    *testing.T
	addr string
}

// monitored gives each agent an address for its metrics, before it is started, and starts
// Prometheus.
func monitored(c *testCluster) *monitor {
	t := c.t
	t.Helper()
	exe, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus, of Debian's package of that name, is not here: no real one scrapes the agents")
	}
	ports, err := cluster.ReservePorts(len(c.Agents) + 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ports.Release(); err != nil {
			t.Error(err)
		}
	})
	m := &monitor{t: t, addr: fmt.Sprintf("127.0.0.1:%d", ports.First)}
	var targets []string
	for i, a := range c.Agents {
		addr := fmt.Sprintf("127.0.0.1:%d", ports.First+1+i)
		targets = append(targets, addr)
		m.edit(a.ConfigPath(), a.ConfigPath(), regexp.MustCompile(`^agent \{`), fmt.Sprintf("agent {\n  metrics = %q", addr))
	}
	dir := filepath.Join(c.dir, "prometheus")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.edit("../../docs/alerts.yml", filepath.Join(dir, "alerts.yml"), regexp.MustCompile(`(?m)^(\s+for:) \S+$`), "$1 1s")
	config := fmt.Sprintf(`global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }
rule_files: [alerts.yml]
scrape_configs:
  - job_name: moult
    static_configs: [{ targets: ["%s"] }]
`, strings.Join(targets, `", "`))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start(exe, dir)
	return m
}

// edit writes a file with what of another fits replaced, of which there must be something.
func (m *monitor) edit(from, to string, what *regexp.Regexp, with string) {
	m.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	if !what.Match(text) {
		m.t.Fatalf("%s has no %s", from, what)
	}
	if err := os.WriteFile(to, what.ReplaceAll(text, []byte(with)), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *monitor) start(exe, dir string) {
	t := m.t
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "--config.file", "prometheus.yml", "--storage.tsdb.path", "data", "--web.listen-address", m.addr, "--log.level", "warn")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), log.Close())
		if err != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("prometheus: %v\n%s", err, text)
		}
	})
	kit.Until(t, "Prometheus to be ready", func() bool {
		resp, err := http.Get("http://" + m.addr + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// ask reads what Prometheus' API says.
func (m *monitor) ask(path string, into any) error {
	data, err := answer(http.Get("http://" + m.addr + "/api/v1/" + path))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, &struct{ Data any }{into})
}

// series are the labels of what an expression gives now.
func (m *monitor) series(expr string) (all []map[string]string) {
	m.t.Helper()
	var got struct {
		Result []struct{ Metric map[string]string }
	}
	if err := m.ask("query?query="+url.QueryEscape(expr), &got); err != nil {
		m.t.Fatalf("%s: %v", expr, err)
	}
	for _, s := range got.Result {
		all = append(all, s.Metric)
	}
	return all
}

// rules returns how many rules are loaded, or what is wrong with one, or has not been run.
func (m *monitor) rules() (n int, err error) {
	var got struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := m.ask("rules", &got); err != nil {
		return 0, err
	}
	for _, g := range got.Groups {
		for _, r := range g.Rules {
			if n++; r.Health != "ok" {
				return 0, fmt.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	return n, nil
}

// TestPrometheus has a real Prometheus watch real agents during a good release and a bad one.
// Every rule for alerts runs, those for held nodes and rollouts fire and only then, and every
// query of the dashboard finds something.
func TestPrometheus(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 3)
	m := monitored(c)
	c.up(c.Agents)
	c.formed(3)
	c.releaseAt(c.Agents[0], 1, spec{})
	c.settledAt(c.Agents[2], 1, 3)
	c.fill(c.Agents[0])
	kit.Until(t, "Prometheus to see the release settled everywhere", func() bool {
		return len(m.series(`moult_release_settled{job="moult"} == 3`)) == 3
	})
	text, err := os.ReadFile("../../docs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "all rules to have run", func() bool {
		n, err := m.rules()
		return err == nil && n == strings.Count(string(text), "- alert: ")
	})
	const held = `ALERTS{alertname=~"MoultNodeHeld|MoultRolloutHeld"}`
	if got := m.series(`count_over_time(` + held + `[10m])`); len(got) > 0 {
		t.Errorf("before anything is held: %v", got)
	}

	c.releaseAt(c.Agents[1], 2, spec{health: `"/never"`})
	s := c.until(c.Agents[0], "a held node", func(s control.Status) bool { return s.Classes["kv"].Held == 1 && s.Release.State == control.StateHeld })
	for _, n := range s.Nodes {
		if n.Phase != "held" {
			continue
		}
		kit.Until(t, "the alert for the held node", func() bool {
			return len(m.series(fmt.Sprintf(`ALERTS{alertname="MoultNodeHeld", alertstate="firing", job="moult", node=%q, severity="page"}`, n.Name))) == 1
		})
	}
	kit.Until(t, "the alert for the held rollout", func() bool {
		return len(m.series(`ALERTS{alertname="MoultRolloutHeld", alertstate="firing"}`)) == 1
	})
	if got := m.series(`count_over_time(ALERTS{alertname="MoultRolloutHeld", alertstate="pending"}[10m])`); len(got) != 1 {
		t.Errorf("the alert for the held rollout was not pending first: %v", got)
	}
	if got := m.series(`count by (node) (count_over_time(ALERTS{alertname="MoultNodeHeld"}[10m]))`); len(got) != 1 {
		t.Errorf("alerts for held nodes: %v", got)
	}
	for _, expr := range dashboardQueries(t) {
		kit.Until(t, "what the dashboard asks for: "+expr, func() bool { return len(m.series(expr)) > 0 })
	}
}

// dashboardQueries are the queries of docs/dashboard.json as Grafana would send them.
func dashboardQueries(t *testing.T) (exprs []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			exprs = append(exprs, strings.NewReplacer("$job", "moult", "$__rate_interval", "1m").Replace(q.Expr))
		}
	}
	if len(exprs) == 0 {
		t.Error("the dashboard asks for nothing")
	}
	return exprs
}
