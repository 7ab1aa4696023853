package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"

	"moult/agent/control"
)

// Cluster is agents on this machine, each a process, with the nodes that they
// look after.
type Cluster struct {
	Agents []*Agent
	ports  *Ports
}

// Start configures and starts n agents that know each other's addresses.
func (c *Cluster) Start(dir, exe string, n int) error {
	if err := c.Configure(dir, n); err != nil {
		return err
	}
	for _, a := range c.Agents {
		if err := a.Start(exe); err != nil {
			return err
		}
	}
	return nil
}

// Configure writes the configurations of n agents below dir, whose trust folder
// is Trust(dir). No agent is started.
func (c *Cluster) Configure(dir string, n int) error {
	ports, err := ReservePorts(n * portsEach)
	if err != nil {
		return err
	}
	c.ports = ports
	var ring, public []string
	for i := range n {
		a := &Agent{Name: fmt.Sprintf("n%d", i+1), Data: filepath.Join(dir, fmt.Sprintf("n%d", i+1)), port: ports.First + i*portsEach}
		c.Agents = append(c.Agents, a)
		ring, public = append(ring, a.Ring()), append(public, a.Public())
	}
	for _, a := range c.Agents {
		var text strings.Builder
		err := agentTemplate.Execute(&text, map[string]any{
			"Name": a.Name, "Data": a.Data, "Bind": a.Ring(), "Public": a.Public(),
			"Root": filepath.Join(Trust(dir), "root.json"), "GossipKey": filepath.Join(Trust(dir), "gossip.key"),
			"Join":  others(ring, a.Ring()),
			"First": a.port + versionsPort, "Last": a.port + portsEach - 1, "Peers": strings.Join(others(public, a.Public()), ","),
		})
		if err != nil {
			return err
		}
		if err := a.Configure(text.String()); err != nil {
			return err
		}
	}
	return nil
}

func others(addrs []string, own string) []string {
	return slices.DeleteFunc(slices.Clone(addrs), func(s string) bool { return s == own })
}

// Trust is the cluster's trust folder, below the folder that Configure was given.
func Trust(dir string) string { return filepath.Join(dir, "trust") }

// Await waits until every agent sees the cluster as good.
func (c *Cluster) Await(ctx context.Context, what string, good func(control.Status) bool) error {
	for _, a := range c.Agents {
		if _, err := a.Await(ctx, what, good); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the agents that were started, and the nodes that they leave behind, and
// gives their ports back.
func (c *Cluster) Stop() error {
	var errs []error
	running := slices.DeleteFunc(slices.Clone(c.Agents), func(a *Agent) bool { return !a.started() })
	for _, a := range running {
		errs = append(errs, a.signal(syscall.SIGTERM))
	}
	for _, a := range running {
		errs = append(errs, a.collect())
	}
	errs = append(errs, c.ports.Release())
	return errors.Join(errs...)
}

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
