package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"

	"moult/agent"
	"moult/agent/control"
	"moult/agent/operator"
	"moult/agent/process"
	"moult/store/bundle"
	"moult/store/durable"
	"moult/testdata/kv"
)

// demoCluster is the demo's agents, each a process, with the nodes that they
// look after.
type demoCluster struct {
	agents []*demoAgent
}

type demoAgent struct {
	name  string
	data  string
	port  int // the first of demoPorts ports
	cmd   *exec.Cmd
	api   *control.Client
	ended chan struct{}
	log   *os.File
}

// Ports of one agent, from its first: the ring, the public address, and the
// versioned addresses.
const (
	portRing     = 0
	portPublic   = 1
	portVersions = 2
	demoPorts    = 6
)

func (a *demoAgent) addr(offset int) string {
	return fmt.Sprintf("127.0.0.1:%d", a.port+offset)
}

func (a *demoAgent) versioned(version int) string { return a.addr(portVersions + version - 1) }

// injector is the peer at which releases are injected: not the first, to show
// that any will do.
func (c *demoCluster) injector() *demoAgent { return c.agents[len(c.agents)-1] }

var agentTemplate = template.Must(template.New("agent").Parse(`agent {
  name  = {{printf "%q" .Name}}
  class = "kv"
  data  = {{printf "%q" .Data}}
  root  = {{printf "%q" .Root}}
  gossip_key = {{printf "%q" .GossipKey}}
  bind = {{printf "%q" .Bind}}
  join = [{{range .Join}}{{printf "%q" .}}, {{end}}]
  sync_interval = "1s"
  service "api" {
    address  = {{printf "%q" .Public}}
    versions = "{{.First}}-{{.Last}}"
    attach   = "relay" # leaves nothing behind in the kernel
    egress   = "proxy"
  }
  env = { KV_PEERS = {{printf "%q" .Peers}} }
}
`))

// start starts n agents that know each other's addresses.
func (c *demoCluster) start(dir, exe string, n int) error {
	if err := c.configure(dir, n); err != nil {
		return err
	}
	for _, a := range c.agents {
		if err := a.start(exe); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the configurations of n agents below dir.
func (c *demoCluster) configure(dir string, n int) error {
	base, err := freePorts(n * demoPorts)
	if err != nil {
		return err
	}
	var ring, public []string
	for i := range n {
		a := &demoAgent{name: fmt.Sprintf("n%d", i+1), data: filepath.Join(dir, fmt.Sprintf("n%d", i+1)), port: base + i*demoPorts}
		c.agents = append(c.agents, a)
		ring, public = append(ring, a.addr(portRing)), append(public, a.addr(portPublic))
	}
	for _, a := range c.agents {
		var text strings.Builder
		err := agentTemplate.Execute(&text, map[string]any{
			"Name": a.name, "Data": a.data, "Bind": a.addr(portRing), "Public": a.addr(portPublic),
			"Root": filepath.Join(dir, "trust", "root.json"), "GossipKey": filepath.Join(dir, "trust", "gossip.key"),
			"Join":  others(ring, a.addr(portRing)),
			"First": a.port + portVersions, "Last": a.port + demoPorts - 1, "Peers": strings.Join(others(public, a.addr(portPublic)), ","),
		})
		if err != nil {
			return err
		}
		if err := a.configure(text.String()); err != nil {
			return err
		}
	}
	return nil
}

func others(addrs []string, own string) []string {
	return slices.DeleteFunc(slices.Clone(addrs), func(s string) bool { return s == own })
}

func (a *demoAgent) configPath() string { return filepath.Join(a.data, "agent.hcl") }

func (a *demoAgent) configure(config string) error {
	if err := os.MkdirAll(a.data, 0o700); err != nil {
		return err
	}
	return os.WriteFile(a.configPath(), []byte(config), 0o600)
}

// start starts the agent, or starts it again.
func (a *demoAgent) start(exe string, env ...string) (err error) {
	path := filepath.Join(a.data, "agent.log")
	if a.log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	a.cmd = exec.Command(exe, "agent", "--config", a.configPath(), "--log-json")
	a.cmd.Env = append(os.Environ(), env...)
	a.cmd.Stderr = a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is the demo's to handle
	if err := a.cmd.Start(); err != nil {
		return fmt.Errorf("start agent %s: %w", a.name, err)
	}
	a.ended = make(chan struct{})
	go func() {
		defer close(a.ended)
		_ = a.cmd.Wait() // how it ended stands in its log
	}()
	a.api = control.NewClient(filepath.Join(a.data, control.SocketName))
	return nil
}

// freePorts finds n ports in a row that are free now, below those that the kernel
// gives to whoever asks for any.
func freePorts(n int) (int, error) {
	for range 100 {
		base := 15000 + rand.IntN(17768-n)
		if allFree(base, n) {
			return base, nil
		}
	}
	return 0, fmt.Errorf("find %d free ports in a row on 127.0.0.1: none found in 100 tries", n)
}

func allFree(base, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
		if err != nil {
			return false
		}
		if err := l.Close(); err != nil {
			return false
		}
	}
	return true
}

// await waits until every agent sees the cluster as good.
func (c *demoCluster) await(ctx context.Context, what string, good func(control.Status) bool) error {
	tick := time.NewTicker(operator.PollInterval)
	defer tick.Stop()
	for {
		all := true
		for _, a := range c.agents {
			if err := a.alive(); err != nil {
				return err
			}
			s, err := a.api.Status(ctx, false)
			all = all && err == nil && good(s)
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// alive reports an agent that has ended, with the end of its log.
func (a *demoAgent) alive() error {
	select {
	case <-a.ended:
	default:
		return nil
	}
	data, err := os.ReadFile(a.log.Name())
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Errorf("agent %s has ended: %s", a.name, lines[len(lines)-1])
}

// stop ends the agents, and the nodes that they leave behind.
func (c *demoCluster) stop() error {
	var errs []error
	for _, a := range c.agents {
		if a.cmd == nil || a.cmd.Process == nil {
			continue
		}
		if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("end agent %s: %w", a.name, err))
		}
		<-a.ended
		errs = append(errs, a.stopNode(), a.log.Close())
		a.api.Close()
	}
	return errors.Join(errs...)
}

// stopNode ends the node's software, as its agent has recorded it: an agent
// that ends, in whatever way, leaves it running.
func (a *demoAgent) stopNode() error {
	data, err := durable.ReadFile(filepath.Join(a.data, agent.ProcessFile), 16<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the node of %s: %w", a.name, err)
	}
	var record struct {
		Handle process.Handle `json:"handle"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return fmt.Errorf("end the node of %s: %w", a.name, err)
	}
	if record.Handle.PID == 0 {
		return nil
	}
	p, err := process.Adopt(record.Handle, process.Spec{})
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the node of %s: %w", a.name, err)
	}
	_, err = p.Stop(context.Background(), 5*time.Second)
	return err
}

// measure asks the agents for their figures, and reads from their logs when
// each node was down: all are on one machine, so one clock.
func (c *demoCluster) measure(ctx context.Context, r *demoReport) error {
	injector, err := c.injector().api.Info(ctx)
	if err != nil {
		return err
	}
	var downs []interval
	for _, a := range c.agents {
		info, err := a.api.Info(ctx)
		if err != nil {
			return err
		}
		r.Objects += info.Objects
		r.LongestHoldMS = max(r.LongestHoldMS, time.Duration(info.LongestHold).Milliseconds())
		for peer, n := range info.Traffic.Fetched {
			if peer == injector.ID {
				r.BytesFromInjector += n
			} else {
				r.BytesFromPeers += n
			}
		}
		ds, err := downTimes(a.log.Name())
		if err != nil {
			return err
		}
		downs = append(downs, ds...)
	}
	r.MaxDown = overlap(downs)
	return nil
}

// interval is a time during which one node was down for its upgrade.
type interval struct{ from, to time.Time }

// downTimes reads from an agent's log when its node was voluntarily down,
// from the decision to drain to the admission of calls.
func downTimes(path string) (downs []interval, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var since time.Time
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Time time.Time `json:"time"`
			Msg  string    `json:"msg"`
			From string    `json:"from"`
			To   string    `json:"to"`
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Msg != "phase" {
			continue
		}
		switch {
		case e.To == "draining":
			since = e.Time
		case !since.IsZero() && (e.To == "settled" || e.To == "held" || e.To == "waiting"):
			downs = append(downs, interval{since, e.Time})
			since = time.Time{}
		}
	}
	return downs, lines.Err()
}

// overlap returns the greatest number of intervals that have an instant in common.
func overlap(all []interval) int {
	most := 0
	for _, a := range all {
		n := 0
		for _, b := range all {
			if !b.from.After(a.from) && b.to.After(a.from) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

var specTemplate = template.Must(template.New("spec").Parse(`release {
  version = {{.Version}}
  class "kv" {
    {{if gt .Version 1}}from = {{.From}}{{end}}
    artifact {
      os   = {{printf "%q" .OS}}
      arch = {{printf "%q" .Arch}}
      path = {{printf "%q" .Exe}}
      name = "kv"
    }
    command = ["./kv", "sample-node", "{{.Version}}", "--state", "${state}", "--listen", "${service.api}"]
    service "api" {
      protocol = "http"
    }
    health {
      http             = "/healthz"
      service          = "api"
      interval         = "100ms"
      min_healthy_time = "500ms"
      healthy_deadline = "1m"
    }
    {{if gt .Version 1}}
    transform {
      exec = ["./kv", "sample-node", "{{.Version}}", "migrate"]
    }
    past {
      rules = "rules/past-{{.Version}}.hcl"
    }
    future {
      rules = "rules/future-{{.Version}}.hcl"
    }
    {{end}}
    schedule {
      strategy        = "rolling"
      max_unavailable = "20%"
      wave {
        count = 1
        soak  = "1s"
      }
      on_failure {
        max  = 1
        then = "hold"
      }
    }
  }
}
`))

// writeDemoSpec writes the release spec for a version whose software is this
// very binary, and the rules that go with it. It returns the spec's path.
func writeDemoSpec(dir, exe string, version bundle.Version) (string, error) {
	rules, err := fs.Sub(kv.Files, "rules")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "rules")); errors.Is(err, fs.ErrNotExist) {
		if err := os.CopyFS(filepath.Join(dir, "rules"), rules); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, fmt.Sprintf("upgrade-%d.hcl", version))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	err = specTemplate.Execute(f, map[string]any{
		"Version": version, "From": version - 1, "OS": runtime.GOOS, "Arch": runtime.GOARCH, "Exe": exe,
	})
	return path, errors.Join(err, f.Close())
}
