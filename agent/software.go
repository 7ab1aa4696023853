package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"moult/agent/config"
	"moult/agent/facts"
	"moult/agent/node"
	"moult/agent/process"
	"moult/agent/software"
	"moult/agent/ways"
	"moult/gossip/view"
	"moult/simlayer"
	"moult/store/bundle"
)

// ProcessFile is the file of the data folder that names the running software.
const ProcessFile = software.RecordFile

// anyLoopback is an address with a free port, for software of this machine.
const anyLoopback = "127.0.0.1:0"

// startLayer starts the simulation layer with its egress proxy where the running
// software was told that it is. Is that address taken, it comes up all the same.
func (l *loop) startLayer(cfg simlayer.Config, left software.Left) (*simlayer.Layer, error) {
	cfg.Processes, cfg.Inherited = left.Processes(), left.Inherited()
	cfg.Egress, cfg.EgressSecret = left.Egress(), left.EgressSecret()
	if cfg.Egress == "" && l.ways.Egress.Kind == config.EgressProxy {
		cfg.Egress = anyLoopback
		if !l.cfg.EgressOpen {
			cfg.EgressSecret = rand.Text()
		}
	}
	if left.Egress() != "" && cfg.EgressSecret == "" && !l.cfg.EgressOpen {
		l.alarm("the proxy that the software calls through (%s) asks for no credentials, since an older moult started the software: any user of this machine may use it until agent and software have been stopped and started", left.Egress())
	}
	layer, err := simlayer.Start(cfg)
	if !errors.Is(err, simlayer.ErrEgress) || cfg.Egress == anyLoopback {
		return layer, err
	}
	l.alarm("another program has %s, the proxy address that the running software (process %d) was given: its calls to peers fail until it is started anew, with another address: %v",
		cfg.Egress, left.Processes()[0], err)
	cfg.Egress = anyLoopback
	return simlayer.Start(cfg)
}

// lookAfter has the node's software looked after, on the layer.
func (a *Agent) lookAfter(left software.Left) *software.Software {
	cfg := software.Config{
		Data: a.cfg.Data, Node: a.ID, KernelName: ways.KernelName(a.ID), Services: map[string]string{}, Env: a.cfg.Env,
		Proxied: a.ways.Egress.Kind == config.EgressProxy, Layer: a.layer, State: a.Slots.Path, Unpacked: a.unpacked,
		Plan: a.plan, Account: a.Account, Bounds: a.bounds.Software, Former: a.Former, Own: a.Slots.Own, Log: a.log,
	}
	cfg.Tell = func(e software.Event) error {
		_, err := ask(a, &softwareSaid{event: e})
		return err
	}
	for name, s := range a.cfg.Services {
		cfg.Services[name] = s.Address
	}
	if c := a.ways.Connect(); c != nil {
		cfg.Connect = c
	}
	return software.New(cfg, left)
}

func (l *loop) noteSoftware(e software.Event) {
	switch e := e.(type) {
	case software.Starting:
		l.step(node.SoftwareStarts{Version: e.Version})
		l.flush()
		l.route()
	case software.Ready:
		l.live.version, l.live.backends, l.live.processes = e.Version, e.Backends, e.Processes
		l.step(node.SoftwareUp{Version: e.Version})
		l.route()
	case software.NotReady:
		l.step(node.SoftwareDown{Version: e.Version, Reason: e.Err.Error()})
	case software.Failing:
		l.step(node.SoftwareFails{Version: e.Version, Reason: e.Err.Error()})
	case software.Passing:
		l.step(node.SoftwarePasses{Version: e.Version})
	case software.Ended:
		l.step(node.SoftwareDown{Version: e.Version, Ended: true, Reason: "it has ended by itself: " + e.Exit.String()})
	case software.Draining:
		l.step(node.SoftwareStops{})
	}
}

// sampling is what the running software is asked for. The zero sampling asks for nothing.
type sampling struct {
	version  bundle.Version
	facts    map[string]bundle.Fact
	backends map[string]string
	cancel   context.CancelFunc // nil: nothing is asked for
}

func (s *sampling) end() {
	if s.cancel != nil {
		s.cancel()
	}
	*s = sampling{}
}

// sample has the running software asked for the facts that the node wants, unless the node
// is down: nothing of it may run beside a transform.
func (l *loop) sample() {
	s := l.node.State()
	if s.Phase.Down() {
		l.sampling.end()
		return
	}
	want := sampling{version: s.Running, facts: l.node.Facts(), backends: l.live.backends}
	is := &l.sampling
	if is.version == want.version && reflect.DeepEqual(is.facts, want.facts) && maps.Equal(is.backends, want.backends) {
		return
	}
	is.end()
	if len(want.facts) == 0 || want.backends == nil || l.live.version != want.version {
		return // nothing is to be asked for, or nobody is there to be asked
	}
	ctx, cancel := l.untilStopped()
	want.cancel = cancel
	*is = want
	a, v := l.Agent, want.version
	before, ended := l.sampled, make(chan struct{})
	l.sampled = ended
	asked := facts.Software{
		Addr: func(service string) (string, bool) { addr, ok := want.backends[service]; return addr, ok },
		Spec: func() (process.Spec, error) { return a.soft.Spec(v) },
	}
	a.spawn(func() {
		defer close(ended)
		if before != nil {
			<-before
		}
		facts.Sample(ctx, asked, want.facts, func(told map[string]view.Fact) { a.tell(node.FactsSampled{Version: v, Facts: told}) })
	})
}

// plan says how version v is started. It is called beside the loop.
func (a *Agent) plan(v bundle.Version) (software.Plan, error) {
	if text := a.LacksState(v); text != "" {
		return software.Plan{}, errors.New(text) // software would begin with none
	}
	return ask(a, &planWanted{version: v})
}

func (l *loop) planOf(v bundle.Version) (software.Plan, error) {
	if m := l.node.Manifests()[v]; m != nil {
		if cu, changes := m.Classes[l.cfg.Class]; changes {
			p, err := l.planWith(v, cu)
			art, ok := cu.Artifact(l.platform)
			if err == nil && !ok {
				err = fmt.Errorf("release %d has no software for %s", v, l.platform)
			}
			p.Artifact = art.Digest
			p.Dir, _ = l.Depot.Dir(art.Digest) // made sure of before it is started
			return p, err
		}
	}
	if ad := l.cfg.Adopt; ad != nil && ad.Version == v {
		p, err := l.planWith(v, bundle.ClassUpgrade{Command: ad.Command, Health: ad.Health, Services: ad.Services, Placeholders: true})
		p.Dir = l.Slots.Path(v)
		return p, err
	}
	return software.Plan{}, fmt.Errorf("how to start version %d is not known here: neither a release nor an adopt block says how", v)
}

// planWith fills in what this node's operator has set, so that the plan is whole when
// the operator sets something else.
func (a *Agent) planWith(v bundle.Version, cu bundle.ClassUpgrade) (p software.Plan, err error) {
	p = software.Plan{
		Version: v, Command: cu.Command, Health: cu.Health, Hooks: cu.Hooks, Placeholders: cu.Placeholders,
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
func (a *Agent) fits(v bundle.Version) error {
	p, err := ask(a, &planWanted{version: v})
	if err != nil {
		return err
	}
	return a.serves(p)
}

// serves tells whether a plan has all the services that this node is configured with.
func (a *Agent) serves(p software.Plan) error {
	if missing := a.lacks(p.Services); len(missing) > 0 {
		return fmt.Errorf("agent.hcl of this node has service %s, and release %d has only %s: publish a release with all of them, or take the service block out of agent.hcl and restart the agent",
			strings.Join(missing, ", "), p.Version, strings.Join(p.Services, ", "))
	}
	return nil
}

// launch starts (or adopts) version v and waits until it is ready. Where callers
// could not be routed to it, that is said while going back is still possible.
func (a *Agent) launch(ctx context.Context, v bundle.Version) error {
	running, err := ask(a, &runningWanted{})
	if err != nil {
		return err
	}
	if running != v {
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
	if err := a.endSampling(ctx); err != nil {
		return err
	}
	if err := a.partObjects(ctx); err != nil {
		return err
	}
	return a.soft.Stop(ctx, timeout)
}

// endSampling waits until nobody asks the software for facts any more. It is called beside
// the loop.
func (a *Agent) endSampling(ctx context.Context) error {
	ended, err := ask(a, &samplingEnds{})
	if ended == nil || err != nil {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drainTimeout is how long software has to end that does not have a record which
// says it. It is called beside the loop.
func (a *Agent) drainTimeout() time.Duration {
	running, _ := ask(a, &runningWanted{})
	p, err := ask(a, &planWanted{version: running})
	if err != nil {
		return time.Duration(config.DefaultHealth().DrainTimeout)
	}
	return time.Duration(p.Health.DrainTimeout)
}
