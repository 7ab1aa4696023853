package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/config"
	"moult/agent/node"
	"moult/agent/software"
	"moult/agent/ways"
	"moult/simlayer"
	"moult/store/bundle"
)

// ProcessFile is the file of the data folder that names the running software.
const ProcessFile = software.RecordFile

// anyLoopback is an address with a free port, for software of this machine.
const anyLoopback = "127.0.0.1:0"

// startLayer starts the simulation layer with its egress proxy where the running
// software was told that it is. Is that address taken, it comes up all the same.
func (a *Agent) startLayer(cfg simlayer.Config, left software.Left) (*simlayer.Layer, error) {
	cfg.Processes, cfg.Inherited = left.Processes(), left.Inherited()
	cfg.Egress, cfg.EgressSecret = left.Egress(), left.EgressSecret()
	if cfg.Egress == "" && a.ways.Egress.Kind == config.EgressProxy {
		cfg.Egress = anyLoopback
		if !a.cfg.EgressOpen {
			cfg.EgressSecret = rand.Text()
		}
	}
	if left.Egress() != "" && cfg.EgressSecret == "" && !a.cfg.EgressOpen {
		a.alarm("the proxy by which the software calls (%s) asks nobody for credentials, since an older moult has started the software: any user of this machine may call by it until agent and software have been stopped and started", left.Egress())
	}
	layer, err := simlayer.Start(cfg)
	if !errors.Is(err, simlayer.ErrEgress) || cfg.Egress == anyLoopback {
		return layer, err
	}
	a.alarm("another program has %s, the proxy address that the running software (process %d) was given: its calls to peers fail until it is started anew, with another address: %v",
		cfg.Egress, left.Processes()[0], err)
	cfg.Egress = anyLoopback
	return simlayer.Start(cfg)
}

// lookAfter has the node's software looked after, on the layer.
func (a *Agent) lookAfter(left software.Left) *software.Software {
	cfg := software.Config{
		Data: a.cfg.Data, Node: a.id, KernelName: ways.KernelName(a.id), Services: map[string]string{}, Env: a.cfg.Env,
		Proxied: a.ways.Egress.Kind == config.EgressProxy, Layer: a.layer, State: a.slots.Path, Unpacked: a.unpacked,
		Plan: a.plan, Tell: a.hear, Account: a.account, Own: a.slots.Own, Log: a.log,
	}
	for name, s := range a.cfg.Services {
		cfg.Services[name] = s.Address
	}
	if c := a.ways.Connect(); c != nil {
		cfg.Connect = c
	}
	return software.New(cfg, left)
}

// hear takes in what happened to the software. It is called beside the loop.
func (a *Agent) hear(e software.Event) error {
	if !a.ask(func() { a.noteSoftware(e) }) {
		return errStopped
	}
	return nil
}

func (a *Agent) noteSoftware(e software.Event) {
	switch e := e.(type) {
	case software.Starting:
		a.step(node.SoftwareStarts{Version: e.Version})
		a.flush()
		a.route()
	case software.Ready:
		a.live.backends, a.live.processes = e.Backends, e.Processes
		a.step(node.SoftwareUp{Version: e.Version})
		a.route()
	case software.NotReady:
		a.step(node.SoftwareDown{Version: e.Version, Reason: e.Err.Error()})
	case software.Failing:
		a.step(node.SoftwareFails{Version: e.Version, Reason: e.Err.Error()})
	case software.Passing:
		a.step(node.SoftwarePasses{Version: e.Version})
	case software.Ended:
		a.step(node.SoftwareDown{Version: e.Version, Ended: true, Reason: "it has ended by itself: " + e.Exit.String()})
	case software.Draining:
		a.step(node.SoftwareStops{})
	}
}

// plan says how version v is started. It is called beside the loop.
func (a *Agent) plan(v bundle.Version) (p software.Plan, err error) {
	if text := a.lacksState(v); text != "" {
		return p, errors.New(text) // software would begin with none
	}
	if !a.ask(func() { p, err = a.planOf(v) }) {
		err = errStopped
	}
	return p, err
}

// lacksState says that there is no slot of version v; "" where there is one.
func (a *Agent) lacksState(v bundle.Version) string {
	if v == 0 || a.slots.Exists(v) {
		return ""
	}
	return fmt.Sprintf("the state of version %d, which is what this node runs on, is gone from %s: restore it from a backup", v, a.slots.Path(v))
}

func (a *Agent) planOf(v bundle.Version) (software.Plan, error) {
	if m := a.node.Manifests()[v]; m != nil {
		if cu, changes := m.Classes[a.cfg.Class]; changes {
			p, err := a.planWith(v, cu)
			art, ok := cu.Artifact(a.platform)
			if err == nil && !ok {
				err = fmt.Errorf("release %d has no software for %s", v, a.platform)
			}
			p.Artifact = art.Digest
			p.Dir, _ = a.depot.Dir(art.Digest) // made sure of before it is started
			return p, err
		}
	}
	if ad := a.cfg.Adopt; ad != nil && ad.Version == v {
		p, err := a.planWith(v, bundle.ClassUpgrade{Command: ad.Command, Health: ad.Health, Services: ad.Services, Placeholders: true})
		p.Dir = a.slots.Path(v)
		return p, err
	}
	return software.Plan{}, fmt.Errorf("how to start version %d is not known here: neither a release nor an adopt block says it", v)
}

// planWith fills in what this node's operator has set, so that the plan is whole when
// the operator sets something else.
func (a *Agent) planWith(v bundle.Version, cu bundle.ClassUpgrade) (p software.Plan, err error) {
	p = software.Plan{
		Version: v, Command: cu.Command, Health: cu.Health, Placeholders: cu.Placeholders,
		Services: slices.Sorted(maps.Keys(cu.Services)), Protocols: map[string]string{},
	}
	if p.Placeholders {
		if p.Command, err = a.cfg.Settle(cu.Command); err == nil {
			p.Health.Exec, err = a.cfg.Settle(cu.Health.Exec)
		}
	}
	for name, s := range cu.Services {
		if s.Protocol != bundle.ProtocolHTTP {
			p.Protocols[name] = s.Protocol
		}
	}
	if err != nil {
		err = fmt.Errorf("version %d cannot be started here: %w", v, err)
	}
	return p, err
}

// fits tells whether version v can be started as this node is configured.
func (a *Agent) fits(v bundle.Version) (err error) {
	var p software.Plan
	var missing []string
	if !a.ask(func() {
		p, err = a.planOf(v)
		missing = a.lacks(p.Services)
	}) {
		return errStopped
	}
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("agent.hcl of this node has service %s, and release %d has only %s: publish a release with all of them, or take the service block out of agent.hcl and restart the agent",
			strings.Join(missing, ", "), v, strings.Join(p.Services, ", "))
	}
	return err
}

// launch starts (or adopts) version v and waits until it is ready. Where callers
// could not be routed to it, that is said while going back is still possible.
func (a *Agent) launch(ctx context.Context, v bundle.Version) error {
	var runs bool
	if !a.ask(func() { runs = a.node.State().Running == v }) {
		return errStopped
	}
	if !runs {
		if err := a.fits(v); err != nil {
			return err
		}
	}
	return a.soft.Launch(ctx, v)
}

// stopSoftware lets the calls in flight end, and stops whatever software runs for
// this node.
func (a *Agent) stopSoftware(ctx context.Context) error {
	timeout := a.drainTimeout()
	if err := a.soft.EndCalls(ctx, timeout); err != nil {
		return err
	}
	if err := a.partObjects(ctx); err != nil {
		return err
	}
	return a.soft.Stop(ctx, timeout)
}

// drainTimeout is how long software has to end that does not have a record which
// says it. It is called beside the loop.
func (a *Agent) drainTimeout() time.Duration {
	timeout := config.DefaultHealth().DrainTimeout
	a.ask(func() {
		if p, err := a.planOf(a.node.State().Running); err == nil {
			timeout = p.Health.DrainTimeout
		}
	})
	return time.Duration(timeout)
}
